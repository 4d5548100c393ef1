"""Draw a labelled matrix, such as pairwise similarities, as a heatmap."""

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from evaluation.drawing.figures import INK, figure, shortened
from models import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MOST_CELLS", "heatmap"]

CELL, NAMED_CELLS = 0.42, 30  # side of a cell in inches; most rows or columns whose cells show their number
MOST_CELLS, MOST_LETTERS = 200, 40  # most rows or columns of a heatmap, most characters of their names


def text_width(text: str, size: float) -> float:
    """Return the width of a text in inches, in matplotlib's default font."""
    from matplotlib.textpath import TextPath

    plain = text.replace("$", "S")  # two dollars would delimit a formula
    return float(TextPath((0, 0), plain, size=size).get_extents().width) / 72 if plain.strip() else 0.0


def write_cells(
    axes: Any, values: Float[np.ndarray, "rows columns"], colours: Float[np.ndarray, "rows columns 3"], size: float
) -> None:
    """Write each finite value into its cell, white on dark colours."""
    light = colours @ [0.299, 0.587, 0.114] > 0.5
    for i, j in np.argwhere(np.isfinite(values)):
        number = re.sub(r"^(-?)0\.", r"\1.", f"{round(values[i, j], 2) + 0.0:.2f}")  # no −.00
        axes.text(j, i, number, ha="center", va="center", size=size, color=INK if light[i, j] else "white")


def heatmap(table: pd.DataFrame, title: str = "", label: str = "cosine") -> "Figure":
    """Draw a matrix as a heatmap, with its values in the cells where they fit.

    The colour map is diverging around 0 where values have both signs, and sequential where all have the same.

    Raises:
        UserError: more than `MOST_CELLS` rows or columns.
    """
    rows, columns = table.shape
    if max(rows, columns) > MOST_CELLS:
        raise UserError(f"Expected at most {MOST_CELLS} rows for a heatmap, got {max(rows, columns)}: name fewer.")
    cell = max(0.12, min(CELL, 14 / max(rows, columns)))
    words = [[shortened(str(name), MOST_LETTERS) for name in axis] for axis in (table.index, table.columns)]
    size = 9.0 if cell > 0.2 else 6.0
    left, foot = (0.2 + max(text_width(word, size) for word in axis) for axis in words)
    head = 0.5 if title else 0.15
    width, height = left + cell * columns + 1.1, foot + cell * rows + head
    values = table.to_numpy(dtype=float)
    low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0.0, 1.0)
    signed = low < 0 < high
    limits = (-max(-low, high), max(-low, high)) if signed else (low, high)
    with figure(None, width, height) as drawing:
        place = (left / width, foot / height, cell * columns / width, cell * rows / height)
        axes: Any = drawing.add_axes(place)
        kind = "coolwarm" if signed else "Blues" if high > 0 else "Blues_r"
        shown = axes.imshow(values, cmap=kind, vmin=limits[0], vmax=limits[1], aspect="auto")
        axes.set_xticks(range(columns), words[1], rotation=90, parse_math=False)
        axes.set_yticks(range(rows), words[0], parse_math=False)
        axes.tick_params(length=0, labelsize=size, labelcolor=INK)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        if max(rows, columns) <= NAMED_CELLS:
            write_cells(axes, values, shown.to_rgba(values)[..., :3], 7.5)
        thin = 0.15 / (cell * columns)
        bar = drawing.colorbar(shown, cax=axes.inset_axes((1 + thin, 0, thin, 1)))
        bar.outline.set_visible(False)
        bar.set_label(label)
        bar.ax.grid(False)
        if title:
            drawing.text(0.1 / width, 1 - 0.12 / height, title, va="top", size=11, weight="bold", parse_math=False)
    return drawing
