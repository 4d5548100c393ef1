"""Draw maps as scatter plots, coloured by a column of a table with a row per point.

Text, booleans and categories are classes, as are integers of few values such as cluster numbers; other numbers are a
continuous scale.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64, Shaped

from evaluation.drawing.figures import FAINT, INK, MUTED, figure, shortened, write_figure
from evaluation.maps.neighbours import Coordinates, checked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Classes", "Map", "PALETTE", "Scale", "colouring", "draw_scatter", "scatter"]

# Each next colour the one furthest from those before it in OKLab, for normal sight and as simulated for missing
# green, red and blue cones (Machado et al. 2009), of middling lightness and chroma: it shows on white and on black.
PALETTE = (
    "#2f6fde", "#f0a020", "#0a9a78", "#8e0013", "#d0a1ff", "#00555e", "#42e3aa", "#5e1c97", "#d94c1c", "#aa42a1",
    "#f668aa", "#845e55", "#7197d9", "#a1b37b", "#aac6e3", "#a17bff", "#a1005e", "#428400", "#3942bd", "#c68442",
    "#554c84", "#26b3c6", "#bdd05e", "#9771bd",
)  # fmt: skip
UNKNOWN = "#c9ccd3"
MOST_NUMBERS = 32  # integers of more values are a scale
PANEL, HEAD, LEGEND, MARGIN = 7.0, 0.85, 2.6, 0.25  # inches: side of a panel, its title, the legend, the gaps
LEGEND_ROWS = 26  # names in a column of the legend
AZIMUTH, ELEVATION = np.deg2rad([-60, 30])  # viewpoint of three dimensions
LETTER, LINE = 0.055, 0.2  # inches: half the width of a letter, height of a name


class Map(NamedTuple):
    """Points to draw, with optional names beside them and lines between them."""

    coordinates: Coordinates
    caption: str = ""  # method, settings and quality
    names: Sequence[str] = ()  # beside the points, where they fit; empty strings for points without
    lines: Sequence[Sequence[int]] = ()  # each a sequence of rows to connect
    weights: Sequence[float] = ()  # priority of the names; by default the first rows come first


class Classes(NamedTuple):
    """A categorical colouring."""

    names: list[str]
    codes: Int64[np.ndarray, " n"]  # −1 where unknown


class Scale(NamedTuple):
    """A continuous colouring."""

    values: Float[np.ndarray, " n"]  # NaN where unknown


Colouring: TypeAlias = Classes | Scale
Axes: TypeAlias = Any  # matplotlib's
Box: TypeAlias = tuple[float, float, float, float]  # left, bottom, width, height in shares of a picture


def natural(name: str) -> list[str | float]:
    """Return a sort key by which `cluster 10` comes after `cluster 9`.

    Examples:
        >>> sorted(["cluster 10", "cluster 9"], key=natural)
        ['cluster 9', 'cluster 10']
    """
    return [float(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


def colouring(values: pd.Series) -> Colouring:
    """Read a column as classes, in natural order or that of the categorical, or as a scale."""
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
    """Return the colour of each class; the palette repeats beyond its length."""
    return [PALETTE[code % len(PALETTE)] if code >= 0 else UNKNOWN for code in codes.tolist()]


def viewed(points: Float[np.ndarray, "n 3"]) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
    """Project three dimensions orthographically from above one corner; return 2-d points and depth (nearer: larger)."""
    sine, cosine = np.sin(ELEVATION), np.cos(ELEVATION)
    ahead, aside = np.array([np.cos(AZIMUTH), np.sin(AZIMUTH)]), np.array([-np.sin(AZIMUTH), np.cos(AZIMUTH)])
    right, up, towards = [*aside, 0], [*(-sine * ahead), cosine], [*(cosine * ahead), sine]
    return points @ np.array([right, up]).T, points @ np.array(towards)


def draw_box(axes: Axes, points: Float[np.ndarray, "n 3"]) -> None:
    """Draw the edges of the bounding box of three dimensions."""
    from matplotlib.collections import LineCollection

    corners = np.array(list(itertools.product(*zip(points.min(0), points.max(0), strict=True))))
    flat = viewed(corners)[0]
    edges = [(a, b) for a, b in itertools.combinations(range(8), 2) if (a ^ b).bit_count() == 1]
    axes.add_collection(LineCollection(flat[np.array(edges)], colors=FAINT, linewidths=0.8, zorder=0.2))


def place_names(
    middles: Float[np.ndarray, "names 2"], names: Sequence[str], weights: Shaped[np.ndarray, " names"]
) -> list[int]:
    """Choose the names that fit without overlapping a name of greater weight; positions are in inches."""
    placed: list[int] = []
    for one in np.argsort(-weights, kind="stable").tolist():
        apart = [np.abs(middles[one] - middles[other]) for other in placed]
        widths = [LETTER * (len(names[one]) + len(names[other])) for other in placed]
        if all(x > width or y > LINE for (x, y), width in zip(apart, widths, strict=True)):
            placed.append(one)
    return placed


def draw_class_names(axes: Axes, flat: Float[np.ndarray, "n 2"], classes: Classes) -> None:
    """Write the name of each class at its member closest to the median of the class, where it fits."""
    used, counts = np.unique(classes.codes[classes.codes >= 0], return_counts=True)
    middles = []
    for code in used:
        members = flat[classes.codes == code]
        middles.append(members[np.abs(members - np.median(members, axis=0)).sum(1).argmin()])
    if middles:
        names = [classes.names[code] for code in used]
        write_names(axes, np.array(middles), names, counts, size=12, weight="bold", va="center")


def draw_names(axes: Axes, flat: Float[np.ndarray, "n 2"], one: Map) -> None:
    """Write the names of single points above them."""
    rows = [row for row, name in enumerate(one.names) if name]
    if rows:
        weights = np.asarray(one.weights)[rows] if len(one.weights) else -np.arange(len(rows))
        names, above = [str(one.names[row]) for row in rows], {"xytext": (0, 4), "textcoords": "offset points"}
        write_names(axes, flat[rows], names, weights, size=10, va="bottom", **above)


def write_names(
    axes: Axes,
    flat: Float[np.ndarray, "names 2"],
    names: Sequence[str],
    weights: Shaped[np.ndarray, " names"],
    **style: Any,
) -> None:
    """Write names at their points, moved inside the panel, those of the greatest weight first."""
    from matplotlib.patheffects import withStroke

    short = [shortened(name, 18) for name in names]
    dpi = axes.get_figure(root=True).dpi
    low, high = axes.get_window_extent().get_points() / dpi
    room = np.array([[LETTER * len(name), LINE] for name in short])
    inches = np.clip(axes.transData.transform(flat) / dpi, low + room * [1, 0], high - room)
    places = axes.transData.inverted().transform(inches * dpi)
    for i in place_names(inches, short, weights):
        axes.annotate(
            short[i], places[i], ha="center", color=INK, zorder=5, parse_math=False,
            path_effects=[withStroke(linewidth=3.5, foreground="white")], **style,
        )  # fmt: skip


def draw_lines(axes: Axes, flat: Float[np.ndarray, "n 2"], lines: Sequence[Sequence[int]]) -> None:
    """Draw lines between points: a single path above the points, a graph below them."""
    from matplotlib.collections import LineCollection

    width, alpha, order = (1.4, 0.7, 4.0) if len(lines) == 1 else (0.6, 0.35, 0.5)
    paths = [flat[list(rows)] for rows in lines]
    axes.add_collection(LineCollection(paths, colors=INK, linewidths=width, alpha=alpha, zorder=order))


def draw_panel(axes: Axes, one: Map, points: Float[np.ndarray, "n _"], colours: Colouring | None) -> Any:
    """Draw one map: unlabelled points at the bottom, named points on top.

    In three dimensions nearer points are larger and drawn later; in two the order is random, so that no class hides
    another.
    """
    n = len(points)
    flat, near = viewed(points) if points.shape[1] > 2 else (points, np.random.default_rng(0).random(n))
    size = np.full(n, float(np.clip(90_000 / n, 2.0, 60.0)))
    if points.shape[1] > 2:
        draw_box(axes, points)
        size *= 0.4 + 1.2 * (near - near.min()) / max(np.ptp(near), 1e-30)
    if isinstance(colours, Classes):
        known, shades = colours.codes >= 0, np.array(class_colours(colours.codes))
    else:
        known = np.ones(n, bool) if colours is None else np.isfinite(colours.values)
        shades = np.where(known, PALETTE[0], UNKNOWN)
    above = np.array([bool(name) for name in one.names]) if len(one.names) else np.zeros(n, bool)
    order = np.lexsort((near, above, known))
    shown: Any = {"linewidths": 0, "alpha": 0.85 if n < 20_000 else 0.6}
    if isinstance(colours, Scale):
        below, order = order[~known[order]], order[known[order]]
        axes.scatter(*flat[below].T, s=size[below], c=UNKNOWN, **shown)
        drawn = axes.scatter(*flat[order].T, s=size[order], c=colours.values[order], cmap="viridis", **shown)
    else:
        drawn = axes.scatter(*flat[order].T, s=size[order], c=shades[order], **shown)
    axes.autoscale_view()
    axes.apply_aspect()
    draw_lines(axes, flat, one.lines)
    if len(one.names):
        draw_names(axes, flat, one)
    elif isinstance(colours, Classes):
        draw_class_names(axes, flat, colours)
    return drawn


def make_axes(drawing: "Figure", place: Box) -> Axes:
    """Add a panel without ticks, as the axes of a map carry no meaning."""
    axes = drawing.add_axes(place)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.margins(0.03)
    return axes


def draw_legend(axes: Axes, name: str, colours: Colouring, drawn: Any) -> None:
    """Draw the legend to the right of a row, as large as fits; of more classes than it holds, their number."""
    from matplotlib.lines import Line2D

    axes.set_axis_off()
    room = axes.get_window_extent().width
    if isinstance(colours, Scale):
        bar = axes.get_figure(root=True).colorbar(drawn, cax=axes.inset_axes((0.0, 0.28, 0.11, 0.44)))
        bar.solids.set_alpha(1)
        bar.outline.set_visible(False)
        bar.ax.grid(False)
        bar.ax.tick_params(labelsize=12, length=0)
        head = axes.text(0.0, 0.75, shortened(name, 24), transform=axes.transAxes, parse_math=False, weight="bold")
        head.set_size(14 * min(1, room * head.get_size() / (head.get_window_extent().width * 14)))
        return
    listed = len(colours.names) <= 2 * LEGEND_ROWS
    shown = list(zip(colours.names, class_colours(np.arange(len(colours.names))), strict=True)) if listed else []
    shown += [("unlabelled", UNKNOWN)] if (colours.codes < 0).any() else []
    title = shortened(name, 24)
    title = title if listed else f"{title}: {len(colours.names)} classes,\ncolours repeat"
    points = [Line2D([], [], marker="o", linestyle="", markersize=9, color=colour) for _, colour in shown]
    words = [shortened(text, 28 if len(shown) <= LEGEND_ROWS else 16) for text, _ in shown]

    def write(scale: float) -> float:
        """Draw the legend at this scale and return its width in pixels."""
        box = axes.legend(
            points, words, title=title, ncols=1 + (len(shown) > LEGEND_ROWS), fontsize=12.5 * scale,
            title_fontproperties={"size": 14 * scale, "weight": "bold"}, alignment="left", loc="center left",
            handletextpad=0.2, columnspacing=0.6, borderaxespad=0, borderpad=0,
        )  # fmt: skip
        for text in (box.get_title(), *box.get_texts()):
            text.set_parse_math(False)
        return float(box.get_window_extent().width)

    if (width := write(1.0)) > room:
        write(room / width)


def draw_scatter(path: Path, maps: Mapping[str, Map], colours: Mapping[str, pd.Series], title: str = "") -> None:
    """Draw `scatter` and write it as a PNG."""
    write_figure(path, scatter(maps, colours, title))


def scatter(maps: Mapping[str, Map], colours: Mapping[str, pd.Series], title: str = "") -> "Figure":
    """Draw a row of panels per colouring, a panel per map, with the legend of the row at its right.

    Without colourings there is one row, all points in one colour.
    """
    rows: list[tuple[str, Colouring | None]] = [(name, colouring(values)) for name, values in colours.items()]
    rows = rows or [("", None)]
    width = MARGIN + (PANEL + MARGIN) * len(maps) + (LEGEND if colours else 0)
    top = 0.7 if title else 0.2
    height = top + (HEAD + PANEL) * len(rows) + MARGIN
    points = {name: checked(one.coordinates, "euclidean") for name, one in maps.items()}

    def box(left: float, above: float, wide: float, high: float) -> Box:
        """Convert inches from the top left corner to fractions of the figure."""
        return left / width, 1 - (above + high) / height, wide / width, high / height

    with figure(None, width, height) as drawing:
        if title:
            drawing.text(MARGIN / width, 1 - 0.3 / height, title, va="top", size=20, weight="bold", parse_math=False)
        for row, (name, read) in enumerate(rows):
            drawn, above = None, top + (HEAD + PANEL) * row
            for i, (map_name, one) in enumerate(maps.items()):
                left, head = MARGIN + (PANEL + MARGIN) * i, 1 - (above + 0.12) / height
                words = shortened(f"{map_name}, coloured by {name}" if name else map_name, 60)
                caption = "\n".join(wrap(one.caption, 92, max_lines=2, placeholder=" …"))
                drawing.text(left / width, head, words, va="top", size=16, weight="bold", parse_math=False)
                drawing.text(left / width, head - 0.3 / height, caption, va="top", size=10, color=MUTED)
                axes = make_axes(drawing, box(left, above + HEAD, PANEL, PANEL))
                drawn = draw_panel(axes, one, points[map_name], read)
            if read is not None:
                place = box(width - LEGEND, above + HEAD, LEGEND - MARGIN, PANEL)
                draw_legend(drawing.add_axes(place), name, read, drawn)
    return drawing
