"""Draw the most frequent concepts of a dataset and the rows that activate them most."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import UInt8
from torch import Tensor

from evaluation.clustering.results import rgb
from evaluation.drawing.figures import COLOURS, INK, MUTED, Column, figure, strip
from models.sae import Codes

__all__ = ["draw_concepts", "draw_images"]

SHOWN = 24  # concepts in a bar chart
PER_SHEET, ACROSS = 12, 8  # concepts and images of a contact sheet
LETTERS = 34  # most characters of a concept's name; a third of those of its top rows


def shortened(text: str, letters: int) -> str:
    """Cut a text and escape dollars, between which matplotlib would read a formula."""
    short = text if len(text) <= letters else text[: letters - 1].rstrip(" ,|") + "…"
    return short.replace("$", r"\$")


def draw_concepts(path: Path, table: pd.DataFrame, texts: bool = True) -> None:
    """Draw the frequency of the most frequent concepts as bars, beside each its rows with the largest activation."""
    shown = table[table["share"] > 0].head(SHOWN).iloc[::-1]
    with figure(path, 11.0 if texts else 6.0, 1.1 + 0.24 * max(1, len(shown))) as drawing:
        axes = drawing.add_axes((0.24, 0.12, 0.26, 0.8) if texts else (0.45, 0.12, 0.5, 0.8))
        axes.barh(range(len(shown)), shown["share"], color=COLOURS["flow"], height=0.62)
        axes.set_yticks(range(len(shown)), [shortened(name, LETTERS) for name in shown["name"]], color=INK)
        axes.set(xlabel="frequency (share of rows)", title="Most frequent concepts")
        axes.grid(False, axis="y")
        if texts and len(shown):
            head: Any = {"xycoords": "axes fraction", "xytext": (0, 6), "textcoords": "offset points", "va": "baseline"}
            axes.annotate("Rows with the largest activation", (1.04, 1.0), **head, weight="bold", size=10)
            place = axes.get_yaxis_transform()
            for height, rows in enumerate(shown["rows"]):
                words = shortened(" | ".join(rows), 3 * LETTERS)
                axes.text(1.04, height, words, transform=place, va="center", size=7.5, color=MUTED)


def draw_images(path: Path, table: pd.DataFrame, codes: Codes, images: UInt8[Tensor, "n channels size size"]) -> None:
    """Draw a contact sheet: a row per concept, its images with the largest activation."""
    shown = table[table["share"] > 0].head(PER_SHEET)
    tops = []
    for concept in shown["concept"]:
        values = torch.where(codes.units == concept, codes.values, torch.zeros(())).sum(1)
        found = values.argsort(descending=True, stable=True)[: min(ACROSS, int((values > 0).sum()))]
        tops.append(torch.cat([found, found[-1:].expand(ACROSS)])[:ACROSS])  # repeat the last where there are too few
    if tops:
        chosen = torch.stack(tops, 1)
        columns = [Column("largest activation" if i == 0 else "", rgb(images[rows])) for i, rows in enumerate(chosen)]
        strip(path, columns, [f"{shortened(name, LETTERS)}: {share:.1%}"
                              for name, share in zip(shown["name"], shown["share"], strict=True)])  # fmt: skip
