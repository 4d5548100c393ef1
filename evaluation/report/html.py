"""The parts that the report page is made of: style, cards, pictures, numbers and durations as text."""

import base64
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

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

    @property
    def data(self) -> dict[str, Any]:
        return self.manifest.get("data") or {}


def number(value: float | None, metric: str = "") -> str:
    if value is None:
        return ""
    return f"{value:.1e}" if metric == "cycle_error" else f"{value:.3f}"


def duration(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 100
        else f"{seconds / 60:.1f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def section(title: str, *parts: str) -> str:
    """A headed part of the page; nothing where all parts are empty."""
    body = "".join(parts)
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def picture(files: Files, name: str, caption: str) -> str:
    """A figure of the run inside the page; nothing where there is none."""
    if name not in files.figures:
        return ""
    source = base64.b64encode(files.figures[name].read_bytes()).decode()
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{source}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def card(content: str) -> str:
    return f'<div class="card">{content}</div>' if content else ""


def warned(files: Files) -> str:
    words = shortened(files.config)
    return f"<p><strong>{escape(words)}</strong></p>" if words else ""
