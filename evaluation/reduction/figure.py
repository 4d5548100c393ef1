"""Draw recall@1 and 1-NN accuracy against the number of dimensions, from the columns of retrieval.csv."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from evaluation.drawing.figures import INK, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_reductions"]

CLOSED_FORM = ("pca", "centred_pca", "cross_modal_svd", "gaussian_projection", "coordinates")
ORDER = (*CLOSED_FORM, "autoencoder", "matryoshka", "isometric", "isotonic")  # fixes the colour of each method
NAMES = {
    "pca": "PCA", "centred_pca": "centred PCA", "cross_modal_svd": "cross-modal SVD",
    "gaussian_projection": "Gaussian projection", "autoencoder": "auto-encoder", "matryoshka": "Matryoshka",
}  # fmt: skip
COLOURS = (0, 1, 2, 3, 4, 5, 6, 8, 9)  # of matplotlib's tab10, without grey


def panel_words(direction: str) -> tuple[str, str]:
    """Return title and y-label of a panel.

    Examples:
        >>> panel_words("text_to_image")
        ('Text-to-image retrieval', 'recall@1')
        >>> panel_words("label/intent")
        ('Classification by intent', '1-NN accuracy')
    """
    if direction.startswith("label/"):
        return f"Classification by {direction.removeprefix('label/')}", "1-NN accuracy"
    if direction == "neighbours":
        return "Nearest-neighbour preservation", "recall@1"
    return f"{direction.replace('_', '-').capitalize()} retrieval", "recall@1"


def draw_reductions(table: pd.DataFrame, path: Path | None = None) -> "Figure":
    """Draw one line per method with its 95 % confidence band, a panel per direction.

    Dashed lines are closed-form methods, the dotted line is the embedding with all its dimensions.
    """
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
                              label=NAMES.get(method, method))  # fmt: skip
                    axes.fill_between(own["dim"], own["r1_low"], own["r1_high"], color=colour, alpha=0.1, linewidth=0)
            full = rows[rows["method"] == "full"].iloc[0]
            axes.axhline(full["r1"], color=INK, linestyle=":", linewidth=1.2, label=f"full embedding ({full['dim']}-d)")
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda dim, _: f"{dim:g}")
            title, quality = panel_words(direction)
            axes.set(title=f"{title}, {full['n']:,} queries", xlabel="dimensions", ylabel=quality)
        drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    return drawing
