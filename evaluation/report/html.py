"""Build the HTML parts of the report: sections, cards, pictures, numbers and durations as text."""

import base64
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from training.metrics import not_finite_line
from training.settings import shortened

__all__ = ["Files", "STYLE", "card", "duration", "number", "picture", "section", "warned"]

STYLE = Path(__file__).with_name("report.css")


@dataclass(frozen=True)
class Files:
    """The files of a run folder that the report reads; missing ones are empty."""

    path: Path
    config: Any  # OmegaConf's DictConfig, a class that the shape checks warn of
    manifest: dict[str, Any]
    metrics: dict[str, float]
    figures: dict[str, Path]  # name without suffix -> file
    not_finite: dict[str, str] = field(default_factory=dict)  # metrics that are NaN or infinite

    @property
    def data(self) -> dict[str, Any]:
        """The description of the data in the manifest."""
        return self.manifest.get("data") or {}


def number(value: float | None, metric: str = "") -> str:
    """Format a metric; empty where it is missing.

    >>> number(0.5), number(1e-6, "cycle_error")
    ('0.500', '1.0e-06')
    """
    if value is None:
        return ""
    return f"{value:.1e}" if metric == "cycle_error" else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours.

    >>> duration(90.0), duration(600.0)
    ('90.0 s', '10.0 min')
    """
    return (
        f"{seconds:.1f} s"
        if seconds < 100
        else f"{seconds / 60:.1f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def section(title: str, *parts: str) -> str:
    """Build a section with a heading; empty where all parts are empty."""
    body = "".join(parts)
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def picture(files: Files, name: str, caption: str) -> str:
    """Embed a figure of the run in the page; empty where the run does not have it."""
    if name not in files.figures:
        return ""
    source = base64.b64encode(files.figures[name].read_bytes()).decode()
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{source}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def card(content: str) -> str:
    """Put content into a card; empty content gives nothing."""
    return f'<div class="card">{content}</div>' if content else ""


def warned(files: Files) -> str:
    """Build the warnings of a run that was shortened, and of metrics that are not finite; empty for every other run."""
    lines = shortened(files.config), not_finite_line(files.not_finite)
    return "".join(f"<p><strong>{escape(words)}</strong></p>" for words in lines if words)
