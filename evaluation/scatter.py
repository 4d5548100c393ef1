"""Maps of points as a picture, and what the points are coloured by, whether they are of images, texts or codes.

A table has a row per point: `id`, and columns to colour by or to read. Text, booleans and categories are classes, as
are whole numbers of few values (cluster numbers); other numbers are a scale.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64

from evaluation.figures import INK, MUTED, figure, write_figure
from evaluation.neighbours import Coordinates, checked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PALETTE", "Classes", "Map", "Scale", "colouring", "draw_scatter", "scatter"]

# Each next colour the one furthest from those before it in OKLab, for normal sight and as simulated for missing
# green, red and blue cones (Machado et al. 2009), of middling lightness and chroma: it shows on white and on black.
PALETTE = (
    "#2f6fde", "#f0a020", "#0a9a78", "#8e0013", "#d0a1ff", "#00555e", "#42e3aa", "#5e1c97", "#d94c1c", "#aa42a1",
    "#f668aa", "#845e55", "#7197d9", "#a1b37b", "#aac6e3", "#a17bff", "#a1005e", "#428400", "#3942bd", "#c68442",
    "#554c84", "#26b3c6", "#bdd05e", "#9771bd",
)  # fmt: skip
UNKNOWN = "#c9ccd3"
MOST_NUMBERS = 32  # whole numbers of more values are a scale
PANEL, HEAD, LEGEND, MARGIN = 7.0, 0.85, 2.6, 0.25  # inches: of a panel, above it, right of the last, between
LEGEND_ROWS = 26  # names in a column


class Map(NamedTuple):
    coordinates: Coordinates
    caption: str = ""  # how it was made and what it keeps
    names: Sequence[str] = ()  # to stand beside the points, as far as there is room; empty for those without
    lines: Sequence[Sequence[int]] = ()  # rows to be joined, one after the other


class Classes(NamedTuple):
    names: list[str]
    codes: Int64[np.ndarray, " n"]  # −1 where unknown


class Scale(NamedTuple):
    values: Float[np.ndarray, " n"]  # NaN where unknown


Colouring: TypeAlias = Classes | Scale
Axes: TypeAlias = Any  # matplotlib's, of two or of three dimensions
Box: TypeAlias = tuple[float, float, float, float]  # left, bottom, width, height in shares of a picture


def natural(name: str) -> list[str | float]:
    """A key by which `cluster 10` comes after `cluster 9`: texts and numbers in turn."""
    return [float(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


def colouring(values: pd.Series) -> Colouring:
    """What a column is coloured by: classes in their natural order (of a categorical, its own), or a scale."""
    kind = values.dtype
    numeric = pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind)
    if numeric and not (pd.api.types.is_integer_dtype(kind) and values.nunique() <= MOST_NUMBERS):
        return Scale(values.to_numpy(dtype=float, na_value=np.nan))
    if isinstance(kind, pd.CategoricalDtype):
        used = values.cat.remove_unused_categories().cat
        return Classes([str(name) for name in used.categories], used.codes.to_numpy().astype(np.int64))
    text = values.astype(object).map(str, na_action="ignore")
    names = sorted(text.dropna().unique(), key=natural)
    codes = text.map({name: code for code, name in enumerate(names)}).fillna(-1)
    return Classes(names, codes.to_numpy().astype(np.int64))


def class_colours(codes: Int64[np.ndarray, " n"]) -> list[str]:
    return [PALETTE[code % len(PALETTE)] if code >= 0 else UNKNOWN for code in codes.tolist()]


def place_names(
    middles: Float[np.ndarray, "classes 2"], names: list[str], counts: Int64[np.ndarray, " classes"]
) -> list[int]:
    """The classes whose names fit on the panel, in inches, without running into those of larger classes."""
    placed: list[int] = []
    for code in np.argsort(-counts, kind="stable").tolist():
        apart = [np.abs(middles[code] - middles[other]) for other in placed]
        widths = [0.055 * (len(names[code]) + len(names[other])) for other in placed]
        if all(x > width or y > 0.2 for (x, y), width in zip(apart, widths, strict=True)):
            placed.append(code)
    return placed


def draw_names(axes: Axes, points: np.ndarray, classes: Classes) -> None:
    """Each class's name on its member nearest to the middle of the class, as far as there is room."""
    if not classes.names:
        return
    middles = []
    for code in range(len(classes.names)):
        members = points[classes.codes == code]
        middles.append(members[np.abs(members - np.median(members, axis=0)).sum(1).argmin()])
    counts = np.bincount(classes.codes[classes.codes >= 0], minlength=len(middles))
    write_names(axes, np.array(middles), classes.names, counts, size=12, weight="bold", va="center")


def write_names(
    axes: Axes, points: np.ndarray, names: Sequence[str], weights: Int64[np.ndarray, " names"], **style: Any
) -> None:
    """Names at their points, those of the greatest weight first, as far as there is room."""
    from matplotlib.patheffects import withStroke
    from mpl_toolkits.mplot3d import proj3d

    short = [shortened(name, 18) for name in names]
    flat = points
    if points.shape[1] > 2:
        flat = np.stack(proj3d.proj_transform(*points.T, axes.get_proj())[:2], 1)
    inches = axes.transData.transform(flat) / axes.get_figure(root=True).dpi
    for i in place_names(inches, short, weights):
        axes.annotate(
            short[i], flat[i], ha="center", color=INK, zorder=5,
            path_effects=[withStroke(linewidth=3.5, foreground="white")], **style,
        )  # fmt: skip


def draw_lines(axes: Axes, points: np.ndarray, one: Map) -> None:
    """What joins points, and the names beside them."""
    width, alpha, order = (1.4, 0.7, 4.0) if len(one.lines) == 1 else (0.6, 0.35, 0.5)  # a path, or a net below
    for rows in one.lines:
        axes.plot(*points[list(rows)].T, color=INK, linewidth=width, alpha=alpha, zorder=order)
    named = [row for row, name in enumerate(one.names) if name]
    if named:
        names, first = [str(one.names[row]) for row in named], np.arange(len(named))[::-1]
        write_names(
            axes, points[named], names, first.copy(), size=10, va="bottom", xytext=(0, 4), textcoords="offset points"
        )


def draw_panel(axes: Axes, points: np.ndarray, colours: Colouring) -> Any:
    """The points of one map, those of unknown colour below, the others in random order so that no class lies on top."""
    known = colours.codes >= 0 if isinstance(colours, Classes) else np.isfinite(colours.values)
    order = np.random.default_rng(0).permutation(len(points))
    above = order[known[order]]
    shown: Any = {"s": float(np.clip(90_000 / len(points), 2.0, 60.0)), "linewidths": 0}
    shown["alpha"] = 0.85 if len(points) < 20_000 else 0.6
    axes.scatter(*points[~known].T, c=UNKNOWN, **shown)
    if isinstance(colours, Scale):
        return axes.scatter(*points[above].T, c=colours.values[above], cmap="viridis", **shown)
    axes.scatter(*points[above].T, c=class_colours(colours.codes[above]), **shown)
    return None


def make_axes(drawing: "Figure", place: Box, dimensions: int) -> Axes:
    """A panel without ticks: the axes of such a map say nothing."""
    if dimensions < 3:
        flat = drawing.add_axes(place)
        flat.set_aspect("equal", adjustable="datalim")
        flat.set(xticks=[], yticks=[])
        flat.spines[:].set_visible(False)
        flat.margins(0.03)
        return flat
    axes: Axes = drawing.add_axes(place, projection="3d")
    axes.set_box_aspect(None, zoom=1.4)
    axes.set_axis_off()
    return axes


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def draw_legend(axes: Axes, name: str, colours: Colouring, drawn: Any) -> None:
    """In axes of its own at the right of a row; of more classes than are told apart, their number."""
    from matplotlib.lines import Line2D

    axes.set_axis_off()
    bold: Any = {"size": 14, "weight": "bold"}
    if isinstance(colours, Scale):
        bar = axes.get_figure(root=True).colorbar(drawn, cax=axes.inset_axes((0.0, 0.28, 0.11, 0.44)))
        bar.solids.set_alpha(1)
        bar.outline.set_visible(False)
        bar.ax.grid(False)
        bar.ax.tick_params(labelsize=12, length=0)
        axes.text(0.0, 0.75, name, transform=axes.transAxes, **bold)
        return
    listed = len(colours.names) <= 2 * LEGEND_ROWS
    shown = list(zip(colours.names, class_colours(np.arange(len(colours.names))), strict=True)) if listed else []
    shown += [("unlabelled", UNKNOWN)] if (colours.codes < 0).any() else []
    title = name if listed else f"{name}: {len(colours.names)} classes,\ncolours repeat"
    axes.legend(
        [Line2D([], [], marker="o", linestyle="", markersize=9, color=colour) for _, colour in shown],
        [shortened(text, 24 if len(shown) <= LEGEND_ROWS else 11) for text, _ in shown],
        title=title, ncols=1 + (len(shown) > LEGEND_ROWS), fontsize=12.5, title_fontproperties=bold, alignment="left",
        loc="center left", handletextpad=0.2, columnspacing=0.6, borderaxespad=0, borderpad=0,
    )  # fmt: skip


def draw_scatter(path: Path, maps: Mapping[str, Map], colours: Mapping[str, pd.Series], title: str = "") -> None:
    """`scatter`, as a PNG."""
    write_figure(path, scatter(maps, colours, title))


def scatter(maps: Mapping[str, Map], colours: Mapping[str, pd.Series], title: str = "") -> "Figure":
    """A row of panels per column of colours, a panel per map, the row's legend at its right."""
    width, top = MARGIN + (PANEL + MARGIN) * len(maps) + LEGEND, 0.7 if title else 0.2
    height = top + (HEAD + PANEL) * len(colours) + MARGIN
    points = {name: checked(one.coordinates, "euclidean") for name, one in maps.items()}

    def box(left: float, above: float, wide: float, high: float) -> Box:
        """From inches right of the left edge and below the upper one to shares of the picture."""
        return left / width, 1 - (above + high) / height, wide / width, high / height

    with figure(None, width, height) as drawing:
        if title:
            drawing.text(MARGIN / width, 1 - 0.3 / height, title, va="top", size=20, weight="bold")
        for row, (name, values) in enumerate(colours.items()):
            read, drawn = colouring(values), None
            above = top + (HEAD + PANEL) * row
            for i, (map_name, one) in enumerate(maps.items()):
                left = MARGIN + (PANEL + MARGIN) * i
                head = 1 - (above + 0.12) / height
                caption = "\n".join(wrap(one.caption, 92, max_lines=2, placeholder=" …"))
                drawing.text(left / width, head, f"{map_name} by {name}", va="top", size=16, weight="bold")
                drawing.text(left / width, head - 0.3 / height, caption, va="top", size=10, color=MUTED)
                axes = make_axes(drawing, box(left, above + HEAD, PANEL, PANEL), points[map_name].shape[1])
                drawn = draw_panel(axes, points[map_name], read)
                axes.apply_aspect()
                draw_lines(axes, points[map_name], one)
                if isinstance(read, Classes) and not one.names:
                    draw_names(axes, points[map_name], read)
            place = box(width - LEGEND, above + HEAD, LEGEND - MARGIN, PANEL)
            draw_legend(drawing.add_axes(place), name, read, drawn)
    return drawing
