"""Quality against the number of dimensions, drawn from a table of retrieval.csv's columns."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from evaluation.drawing.figures import INK, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_reductions"]

CLOSED_FORM = ("pca", "centred_pca", "cross_modal_svd", "gaussian_projection", "coordinates")
ORDER = (*CLOSED_FORM, "autoencoder", "matryoshka", "isometric", "isotonic")  # their colours, whichever are drawn
COLOURS = (0, 1, 2, 3, 4, 5, 6, 8, 9)  # of matplotlib's tab10, without grey


def draw_reductions(table: pd.DataFrame, path: Path | None = None) -> "Figure":
    """R@1 of every method, a panel per direction, in bands of 95 %; dashed: closed forms; dotted: full embeddings."""
    from matplotlib import colormaps

    directions = list(dict.fromkeys(table["direction"]))
    with figure(path, 4.4 * len(directions) + 1.8, 3.6) as drawing:
        drawing.set_layout_engine("constrained")
        panels = drawing.subplots(1, len(directions), squeeze=False)[0]
        for axes, direction in zip(panels, directions, strict=True):
            rows = table[table["direction"] == direction]
            for number, method in zip(COLOURS, ORDER, strict=True):
                own = rows[rows["method"] == method].sort_values("dim")
                if len(own):
                    colour, style = colormaps["tab10"](number), "--" if method in CLOSED_FORM else "-"
                    axes.plot(own["dim"], own["r1"], style, marker="o", markersize=3, linewidth=1.4, color=colour,
                              label=method.replace("_", " "))  # fmt: skip
                    axes.fill_between(own["dim"], own["r1_low"], own["r1_high"], color=colour, alpha=0.1, linewidth=0)
            full = rows[rows["method"] == "full"].iloc[0]
            axes.axhline(full["r1"], color=INK, linestyle=":", linewidth=1.2, label=f"full, {full['dim']}")
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda dim, _: f"{dim:g}")
            axes.set_title(f"{direction.replace('_', ' ')}, {full['n']} asked")
            axes.set_xlabel("dimensions")
        panels[0].set_ylabel("right at 1")
        drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    return drawing
