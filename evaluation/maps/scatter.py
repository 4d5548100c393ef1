"""Maps of points as a picture, and what the points are coloured by, whether they are of images, texts or codes.

A table has a row per point: `id`, and columns to colour by or to read. Text, booleans and categories are classes, as
are whole numbers of few values (cluster numbers); other numbers are a scale.
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
MOST_NUMBERS = 32  # whole numbers of more values are a scale
PANEL, HEAD, LEGEND, MARGIN = 7.0, 0.85, 2.6, 0.25  # inches: of a panel, above it, right of the last, between
LEGEND_ROWS = 26  # names in a column
AZIMUTH, ELEVATION = np.deg2rad([-60, 30])  # from where three dimensions are looked at
LETTER, LINE = 0.055, 0.2  # inches: half the width of a name for each of its letters, and its height


class Map(NamedTuple):
    coordinates: Coordinates
    caption: str = ""  # how it was made and what it keeps
    names: Sequence[str] = ()  # to stand beside the points, as far as there is room; empty for those without
    lines: Sequence[Sequence[int]] = ()  # rows to be joined, one after the other
    weights: Sequence[float] = ()  # the names of the greatest find room first; by default those of the first rows


class Classes(NamedTuple):
    names: list[str]
    codes: Int64[np.ndarray, " n"]  # −1 where unknown


class Scale(NamedTuple):
    values: Float[np.ndarray, " n"]  # NaN where unknown


Colouring: TypeAlias = Classes | Scale
Axes: TypeAlias = Any  # matplotlib's
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


def looked_at(points: Float[np.ndarray, "n 3"]) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
    """Three dimensions from above one corner, all at one scale, and how near each point is to the eye."""
    sine, cosine = np.sin(ELEVATION), np.cos(ELEVATION)
    ahead, aside = np.array([np.cos(AZIMUTH), np.sin(AZIMUTH)]), np.array([-np.sin(AZIMUTH), np.cos(AZIMUTH)])
    right, up, towards = [*aside, 0], [*(-sine * ahead), cosine], [*(cosine * ahead), sine]
    return points @ np.array([right, up]).T, points @ np.array(towards)


def draw_box(axes: Axes, points: Float[np.ndarray, "n 3"]) -> None:
    """The edges of the box that three dimensions lie in."""
    from matplotlib.collections import LineCollection

    corners = np.array(list(itertools.product(*zip(points.min(0), points.max(0), strict=True))))
    flat = looked_at(corners)[0]
    edges = [(a, b) for a, b in itertools.combinations(range(8), 2) if (a ^ b).bit_count() == 1]
    axes.add_collection(LineCollection(flat[np.array(edges)], colors=FAINT, linewidths=0.8, zorder=0.2))


def place_names(
    middles: Float[np.ndarray, "names 2"], names: Sequence[str], weights: Shaped[np.ndarray, " names"]
) -> list[int]:
    """The names that fit on the panel, in inches, without running into those of greater weight."""
    placed: list[int] = []
    for one in np.argsort(-weights, kind="stable").tolist():
        apart = [np.abs(middles[one] - middles[other]) for other in placed]
        widths = [LETTER * (len(names[one]) + len(names[other])) for other in placed]
        if all(x > width or y > LINE for (x, y), width in zip(apart, widths, strict=True)):
            placed.append(one)
    return placed


def draw_class_names(axes: Axes, flat: Float[np.ndarray, "n 2"], classes: Classes) -> None:
    """Each class's name on its member nearest to the middle of the class, as far as there is room."""
    used, counts = np.unique(classes.codes[classes.codes >= 0], return_counts=True)
    middles = []
    for code in used:
        members = flat[classes.codes == code]
        middles.append(members[np.abs(members - np.median(members, axis=0)).sum(1).argmin()])
    if middles:
        names = [classes.names[code] for code in used]
        write_names(axes, np.array(middles), names, counts, size=12, weight="bold", va="center")


def draw_names(axes: Axes, flat: Float[np.ndarray, "n 2"], one: Map) -> None:
    """The names of single points above them."""
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
    """Names at their points, moved as far as the panel's edge asks for, those of the greatest weight first."""
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
    """Draw lines between points: a path above them, a graph below."""
    from matplotlib.collections import LineCollection

    width, alpha, order = (1.4, 0.7, 4.0) if len(lines) == 1 else (0.6, 0.35, 0.5)
    paths = [flat[list(rows)] for rows in lines]
    axes.add_collection(LineCollection(paths, colors=INK, linewidths=width, alpha=alpha, zorder=order))


def draw_panel(axes: Axes, one: Map, points: Float[np.ndarray, "n _"], colours: Colouring | None) -> Any:
    """One map: points of unknown colour below, those with names of their own on top, of three dimensions the nearer
    ones larger and before the others, in two in random order so that no class lies on top of another.
    """  # fmt: skip
    n = len(points)
    flat, near = looked_at(points) if points.shape[1] > 2 else (points, np.random.default_rng(0).random(n))
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
    """A panel without ticks: the axes of such a map say nothing."""
    axes = drawing.add_axes(place)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.margins(0.03)
    return axes


def draw_legend(axes: Axes, name: str, colours: Colouring, drawn: Any) -> None:
    """In axes of its own at the right of a row, as large as fits; of more classes than are told apart, their number."""
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
        """The width, in pixels."""
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
    """`scatter`, as a PNG."""
    write_figure(path, scatter(maps, colours, title))


def scatter(maps: Mapping[str, Map], colours: Mapping[str, pd.Series], title: str = "") -> "Figure":
    """A row of panels per column of colours, a panel per map, the row's legend at its right; without colours one row,
    all points alike.
    """  # fmt: skip
    rows: list[tuple[str, Colouring | None]] = [(name, colouring(values)) for name, values in colours.items()]
    rows = rows or [("", None)]
    width = MARGIN + (PANEL + MARGIN) * len(maps) + (LEGEND if colours else 0)
    top = 0.7 if title else 0.2
    height = top + (HEAD + PANEL) * len(rows) + MARGIN
    points = {name: checked(one.coordinates, "euclidean") for name, one in maps.items()}

    def box(left: float, above: float, wide: float, high: float) -> Box:
        """From inches right of the left edge and below the upper one to shares of the picture."""
        return left / width, 1 - (above + high) / height, wide / width, high / height

    with figure(None, width, height) as drawing:
        if title:
            drawing.text(MARGIN / width, 1 - 0.3 / height, title, va="top", size=20, weight="bold", parse_math=False)
        for row, (name, read) in enumerate(rows):
            drawn, above = None, top + (HEAD + PANEL) * row
            for i, (map_name, one) in enumerate(maps.items()):
                left, head = MARGIN + (PANEL + MARGIN) * i, 1 - (above + 0.12) / height
                words = shortened(f"{map_name} by {name}" if name else map_name, 60)
                caption = "\n".join(wrap(one.caption, 92, max_lines=2, placeholder=" …"))
                drawing.text(left / width, head, words, va="top", size=16, weight="bold", parse_math=False)
                drawing.text(left / width, head - 0.3 / height, caption, va="top", size=10, color=MUTED)
                axes = make_axes(drawing, box(left, above + HEAD, PANEL, PANEL))
                drawn = draw_panel(axes, one, points[map_name], read)
            if read is not None:
                place = box(width - LEGEND, above + HEAD, LEGEND - MARGIN, PANEL)
                draw_legend(drawing.add_axes(place), name, read, drawn)
    return drawing
