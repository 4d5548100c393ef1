"""Pictures of maps: what colours mean, where points and names are, and that colours stay apart for every eye."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evaluation.drawing.figures import DPI
from evaluation.maps.scatter import (
    HEAD,
    LEGEND,
    MARGIN,
    PALETTE,
    PANEL,
    UNKNOWN,
    Classes,
    Map,
    Scale,
    colouring,
    draw_scatter,
    place_names,
    scatter,
    viewed,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Machado, Oliveira and Fernandes 2009, https://doi.org/10.1109/TVCG.2009.113, severity 1.0, on linear RGB.
MISSING_CONES = {
    "none": np.eye(3),
    "green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def channels(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def linear(colours: np.ndarray) -> np.ndarray:
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """From linear RGB, https://bottosson.github.io/posts/oklab/."""
    cones = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
             [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
    lab = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
           [0.0259040371, 0.7827717662, -0.8086757660]]  # fmt: skip
    return np.cbrt(np.clip(rgb, 0, 1) @ np.array(cones).T) @ np.array(lab).T


def least_difference(colours: list[str], missing: str) -> float:
    """Between any two, as seen without one kind of cones; 0.02 is just noticeable."""
    seen = linear(np.stack([channels(colour) for colour in colours]) / 255) @ np.array(MISSING_CONES[missing]).T
    distances = np.linalg.norm(oklab(seen)[:, None] - oklab(seen)[None], axis=2)
    return float(distances[~np.eye(len(colours), dtype=bool)].min())


@pytest.mark.parametrize(("count", "limit"), [(5, 0.06), (10, 0.06), (len(PALETTE), 0.05)])
@pytest.mark.parametrize("missing", MISSING_CONES)
def test_colours_stay_apart_for_every_eye(missing: str, count: int, limit: float) -> None:
    assert len(set(PALETTE)) == len(PALETTE) >= 20
    assert least_difference(list(PALETTE[:count]), missing) > limit
    common = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22"]
    assert least_difference(common, "red") < 0.03, "the measure finds nothing"


@pytest.mark.parametrize("colour", PALETTE)
def test_colours_show_on_white_and_on_black(colour: str) -> None:
    lightness = oklab(linear(channels(colour)[None] / 255))[0, 0]
    assert 0.38 < lightness < 0.83


def classes(*values: object, **settings: Any) -> tuple[list[str], list[int]]:
    read = colouring(pd.Series(values, **settings))
    assert isinstance(read, Classes)
    return read.names, read.codes.tolist()


def test_text_and_few_whole_numbers_are_classes() -> None:
    assert classes("b", "a10", None, "a9") == (["a9", "a10", "b"], [2, 1, -1, 0])
    assert classes("5 m²", "10 m", "m 3", "10 m²") == (["5 m²", "10 m", "10 m²", "m 3"], [0, 1, 3, 2])
    assert classes(7, 10, 7) == (["7", "10"], [0, 1, 0])
    assert classes(1, None, dtype="Int64") == (["1"], [0, -1])
    assert classes(True, False) == (["False", "True"], [1, 0])
    categories = pd.CategoricalDtype(["low", "unused", "high"])
    assert classes("low", None, "high", dtype=categories) == (["low", "high"], [0, -1, 1])
    assert classes(None, None, dtype=object) == ([], [-1, -1])


def test_other_numbers_are_a_scale() -> None:
    for values in ([0.5, np.nan, 3.0], list(range(33))):
        read = colouring(pd.Series(values))
        assert isinstance(read, Scale) and read.values == pytest.approx(values, nan_ok=True)


def test_names_that_would_meet_are_left_out() -> None:
    middles = np.array([[1.0, 1.0], [1.1, 1.0], [1.0, 1.3], [5.0, 5.0]])
    assert place_names(middles, ["ant", "bee", "cat", "dog"], np.array([3, 9, 1, 1])) == [1, 2, 3]
    assert place_names(middles[:0], [], np.array([], int)) == []


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def near(pixels: np.ndarray, colour: str, most: int = 60) -> np.ndarray:
    """Where a colour is drawn; points let a little white through."""
    shade = channels(colour) * 0.85 + 255 * 0.15
    return np.abs(pixels - shade).sum(2) < most


def panel(pixels: np.ndarray, row: int, column: int, head: float = 0.2) -> np.ndarray:
    top = round((head + (HEAD + PANEL) * row + HEAD) * DPI)
    left = round((MARGIN + (PANEL + MARGIN) * column) * DPI)
    return pixels[top : top + round(PANEL * DPI), left : left + round(PANEL * DPI)]


def corners(per_corner: int = 20) -> np.ndarray:
    """Points in the four corners of a square, one corner after the other, counted from the lower left by rows."""
    rng = np.random.default_rng(0)
    places = np.repeat([[0, 0], [1, 0], [0, 1], [1, 1]], per_corner, axis=0)
    return (10 * places + rng.normal(size=places.shape) / 5).astype(np.float32)


def test_points_are_where_they_belong_in_their_class_colours(tmp_path: Path) -> None:
    label = pd.Series(np.repeat(["a", "b", "c", None], 20))
    maps = {"features": Map(corners(), "a caption"), "codes": Map(-corners())}
    draw_scatter(tmp_path / "map.png", maps, {"label": label})
    pixels = read(tmp_path / "map.png")
    assert pixels.shape[1] == round((MARGIN + 2 * (PANEL + MARGIN) + LEGEND) * DPI)
    half = round(PANEL * DPI / 2)
    for column, flipped in ((0, False), (1, True)):
        shown = panel(pixels, 0, column)
        shown = shown[::-1, ::-1] if flipped else shown
        for name, colour in zip("abc", PALETTE, strict=False):
            ys, xs = np.nonzero(near(shown, colour))
            wanted = {"a": (True, False), "b": (True, True), "c": (False, False)}[name]
            assert len(ys) > 200 and ((ys > half) == wanted[0]).all() and ((xs > half) == wanted[1]).all(), name
        ys, xs = np.nonzero(near(shown, UNKNOWN, 12))
        assert len(ys) > 200 and np.median(ys) < half < np.median(xs)
    legend = pixels[:, -round(LEGEND * DPI) :]
    assert all((np.abs(legend - channels(colour)).sum(2) < 12).sum() > 20 for colour in (*PALETTE[:3], UNKNOWN))
    assert not (np.abs(legend - channels(PALETTE[3])).sum(2) < 12).any()


def test_a_row_for_each_colouring_and_room_for_a_title(tmp_path: Path) -> None:
    columns = {"label": pd.Series(np.repeat(["a", "b"], 40)), "weight": pd.Series(np.linspace(0, 1, 80))}
    draw_scatter(tmp_path / "map.png", {"features": Map(corners())}, columns, "digits")
    pixels = read(tmp_path / "map.png")
    assert pixels.shape[0] == round((0.7 + 2 * (HEAD + PANEL) + MARGIN) * DPI)
    assert (pixels[:60, :300] < 100).any(), "no title"
    second = panel(pixels, 1, 0, 0.7)
    assert near(second, "#440154", 80).sum() > 50 and near(second, "#fde725", 80).sum() > 50, "no scale of colours"
    assert not near(second, PALETTE[0], 20).any()
    bar = pixels[round((0.7 + HEAD + PANEL) * DPI) :, -round(LEGEND * DPI) :]
    assert (np.abs(bar - channels("#21918c")).sum(2) < 25).sum() > 10, "no bar that says what colours mean"


def test_no_class_lies_on_top_of_all_others(tmp_path: Path) -> None:
    heap = np.random.default_rng(0).normal(size=(4000, 2)).astype(np.float32)
    draw_scatter(tmp_path / "map.png", {"m": Map(heap)}, {"label": pd.Series(np.repeat(["a", "b"], 2000))})
    shown = panel(read(tmp_path / "map.png"), 0, 0)
    first, second = (near(shown, colour).sum() for colour in PALETTE[:2])
    assert 0.5 < first / second < 2


def test_more_classes_than_can_be_told_apart_say_so(tmp_path: Path) -> None:
    label = pd.Series([f"class {i % 60}" for i in range(80)])
    draw_scatter(tmp_path / "many.png", {"m": Map(corners())}, {"label": label})
    legend = read(tmp_path / "many.png")[:, -round(LEGEND * DPI) :]
    assert (legend < 100).any(), "nothing is said"
    assert not (np.abs(legend - channels(PALETTE[0])).sum(2) < 12).any()


def test_three_dimensions_and_nothing_known(tmp_path: Path) -> None:
    cube = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    label = pd.Series(np.repeat(["a", "b"], 30))
    draw_scatter(tmp_path / "cube.png", {"m": Map(cube)}, {"label": label})
    shown = panel(read(tmp_path / "cube.png"), 0, 0)
    faded = np.abs(shown - channels(PALETTE[1])).sum(2) < 150
    assert faded.sum() > 200 and np.ptp(np.nonzero(faded)[0]) > 150, "no points, or all in one place"
    draw_scatter(tmp_path / "none.png", {"m": Map(cube[:, :2])}, {"label": pd.Series([None] * 60, dtype=object)})
    assert near(panel(read(tmp_path / "none.png"), 0, 0), UNKNOWN, 12).sum() > 500


def offsets(drawn: Any) -> np.ndarray:
    return np.asarray(drawn.get_offsets())


def cut(drawing: "Figure") -> list[str]:
    """The names that reach beyond their panel, by as they are drawn."""
    drawing.draw_without_rendering()
    axes = drawing.axes[0]
    panel = axes.get_window_extent()
    boxes = [(text.get_text(), text.get_window_extent()) for text in axes.texts]
    assert boxes, "no names"
    return [name for name, box in boxes if box.x0 < panel.x0 or box.x1 > panel.x1 or box.y1 > panel.y1]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_no_name_and_no_point_is_cut_at_the_edge(dimensions: int) -> None:
    rng = np.random.default_rng(0)
    corner = 0.3 * np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [-1, 0, 0], [0, -1, 0], [0, 0, -1]])
    places = np.concatenate([corner, rng.normal(size=(13, 3)) / 30])[:, :dimensions].astype(np.float32)
    names = [f"headstall for horse {i}" for i in range(20)]
    drawing = scatter({"m": Map(places, names=names)}, {"label": pd.Series(["a", "b"] * 10)})
    assert cut(drawing) == []
    axes = drawing.axes[0]
    points = next(found for found in map(offsets, axes.collections) if len(found) == 20)
    seen, panel = axes.transData.transform(points), axes.get_window_extent()
    assert panel.x0 + 5 < seen[:, 0].min() and seen[:, 0].max() < panel.x1 - 5
    assert panel.y0 + 5 < seen[:, 1].min() and seen[:, 1].max() < panel.y1 - 5
    spread = max(np.ptp(seen[:, 0]) / panel.width, np.ptp(seen[:, 1]) / panel.height)
    assert spread > 0.5, "a heap in a corner"
    assert cut(scatter({"m": Map(places)}, {"label": pd.Series(names)})) == [], "a class's name"


@pytest.mark.parametrize("classes", [5, 40, 60])
def test_a_legend_of_long_names_fits(classes: int) -> None:
    label = pd.Series([f"extra_charge_on_statement_{i % classes}" for i in range(80)])
    drawing = scatter(
        {"m": Map(corners())},
        {"a_rather_long_column_name": label, "and_such_a_scale_as_well": pd.Series(np.arange(80) / 7)},
    )
    legend, scale = drawing.axes[1].get_legend(), drawing.axes[3].texts[0]
    assert legend is not None
    for drawn in (legend, scale):
        box = drawn.get_window_extent()
        assert box.x0 >= drawing.axes[1].get_window_extent().x0 and box.x1 <= drawing.bbox.x1 - 10


def test_three_dimensions_are_seen_at_one_scale() -> None:
    """Orthographic: no axis is stretched, so squared lengths along and across the view add up."""
    points = np.random.default_rng(0).normal(size=(30, 3)) * [1, 5, 0.1]
    flat, near = viewed(points)
    assert (flat**2).sum(1) + near**2 == pytest.approx((points**2).sum(1))
    up = viewed(np.array([[0.0, 0, 1]]))[0][0]
    assert up[0] == pytest.approx(0) and up[1] > 0


def test_the_names_of_the_greatest_weight_find_room() -> None:
    names, places = [f"hub {i}" for i in range(50)], np.zeros((50, 2), np.float32)
    places[0] = 1
    drawing = scatter({"m": Map(places, names=names, weights=[*range(49), 1000])}, {})
    assert [text.get_text() for text in drawing.axes[0].texts] == ["hub 49", "hub 0"]
    assert len(drawing.axes) == 1 and [text.get_text() for text in drawing.texts] == ["m", ""], "no colours, no legend"


def test_points_with_names_lie_on_top() -> None:
    names = ["", "new", "", ""]
    drawing = scatter({"m": Map(corners(1), names=names)}, {"kind": pd.Series(list("rnrr"))})
    assert offsets(drawing.axes[0].collections[0])[-1] == pytest.approx(corners(1)[1])


def test_texts_are_no_formulas(tmp_path: Path) -> None:
    words = [f"costs ${i} or $\\frac\n" for i in range(4)]
    columns = {"a $price$ \\x$": pd.Series(words)}
    draw_scatter(tmp_path / "map.png", {"$m$ \\x$": Map(corners(1), names=words)}, columns, "$a$ \\y$")
    assert (tmp_path / "map.png").stat().st_size > 1000


def test_a_net_of_many_edges_is_one_drawing() -> None:
    lines = np.random.default_rng(0).integers(0, 80, (3000, 2)).tolist()
    axes = scatter({"m": Map(corners(), lines=lines)}, {}).axes[0]
    assert not axes.lines and sum(len(found.get_paths()) == 3000 for found in axes.collections) == 1
