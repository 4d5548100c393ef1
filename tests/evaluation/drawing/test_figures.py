"""Pictures of images: every pixel where it belongs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from evaluation.drawing.figures import (
    APART,
    CELL,
    GAP,
    MOST_BYTES,
    Column,
    component_strip,
    edit_strips,
    factor_grid,
    reconstructions,
    samples,
    strip,
    tile,
)


def noise(rows: int, size: int = 64) -> Tensor:
    return torch.randint(0, 256, (rows, 3, size, size), dtype=torch.uint8)


def flat(*greys: int) -> Tensor:
    """One image of each grey."""
    return torch.tensor(greys, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def cells(path: Path, labels: int, columns: int) -> list[list[int]]:
    """The greys in the middle of a picture's cells: its columns from the right, row by row from the bottom."""
    pixels = read(path)
    rows = (pixels.shape[0] - 12) // (CELL + GAP)
    ys = [pixels.shape[0] - 12 - CELL // 2 - row * (CELL + GAP) for row in reversed(range(rows))]
    xs = [pixels.shape[1] - 12 - CELL // 2 - i * (CELL + GAP) for i in reversed(range(columns))]
    assert labels <= min(xs)
    return [[int(pixels[y, x, 0]) for x in xs] for y in ys]


def test_tile_enlarges_by_whole_factors() -> None:
    a, b = noise(2), noise(2)
    canvas = tile([Column("", a), Column("", b, apart=True)])
    assert canvas.shape == (2 * CELL + GAP, 2 * CELL + APART, 3)
    assert (canvas[::2, ::2][:64, :64] == a[0].permute(1, 2, 0).numpy()).all()
    assert (canvas[1::2, 1::2][66:, :64] == a[1].permute(1, 2, 0).numpy()).all()
    assert (canvas[:CELL:2, CELL + APART :: 2] == b[0].permute(1, 2, 0).numpy()).all()
    assert (canvas[:, CELL : CELL + APART] == 255).all() and (canvas[CELL : CELL + GAP] == 255).all()


def test_tile_takes_floats() -> None:
    canvas = tile([Column("", torch.tensor([0.0, 0.5, 2.0]).view(3, 1, 1, 1).expand(-1, 3, 16, 16))])
    assert [int(canvas[y, 9, 0]) for y in (9, 9 + CELL + GAP, 9 + 2 * (CELL + GAP))] == [0, 128, 255]


@pytest.mark.parametrize(("size", "side"), [(16, 128), (50, 150), (96, 192), (128, 128), (256, 256)])
def test_no_picture_is_smaller_than_a_cell(size: int, side: int) -> None:
    assert tile([Column("", noise(1, size))]).shape == (side, side, 3)


def test_strip_shows_the_very_pixels(tmp_path: Path) -> None:
    images = noise(3)
    columns = [Column("one", images), Column("two", images.flip(0))]
    strip(tmp_path / "strip.png", columns, ["a", "b", "c"], "title")
    pixels, canvas = read(tmp_path / "strip.png"), tile(columns)
    height, width = canvas.shape[:2]
    top, left = pixels.shape[0] - 12 - height, pixels.shape[1] - 12 - width
    assert (pixels[top : top + height, left : left + width] == canvas).all()
    assert (pixels[:top] < 128).any() and (pixels[:, :left] < 200).any(), "no title or no label"


def test_photographs_stay_below_a_megabyte(tmp_path: Path) -> None:
    strip(tmp_path / "strip.png", [Column("", noise(4, size=128)) for _ in range(8)])
    assert 100_000 < (tmp_path / "strip.png").stat().st_size <= 1.2 * MOST_BYTES


def test_edit_strips_put_the_truth_beside_the_flow(tmp_path: Path) -> None:
    edits = {"flow": flat(20, 21), "mean difference": flat(30, 31), "linear SVM": flat(40, 41)}
    edit_strips(tmp_path / "e.png", "hat", ["→ with", "→ without"], flat(1, 2), flat(10, 11), edits, flat(25, 26))
    pixels = read(tmp_path / "e.png")
    middle = pixels.shape[0] - 12 - CELL // 2  # of the last row
    greys = pixels[middle, :, 0]
    assert [int(grey) for i, grey in enumerate(greys) if grey < 60 and greys[i - 1] != grey] == [21, 2, 26, 31, 41, 11]
    edit_strips(tmp_path / "e.png", "hat", ["→ with"], flat(1), flat(10), {"flow": flat(20)})
    assert read(tmp_path / "e.png").shape[1] < pixels.shape[1] - 3 * CELL


def test_component_strip_and_grid(tmp_path: Path) -> None:
    component_strip(tmp_path / "c.png", "component 1", flat(1), [-3.0, 0.0, 3.0], [flat(10), flat(20), flat(30)])
    assert cells(tmp_path / "c.png", 0, 3) == [[10, 20, 30]]
    factor_grid(tmp_path / "g.png", flat(1), flat(2), {"glasses": flat(11), "hat": flat(12)})
    assert cells(tmp_path / "g.png", 0, 2) == [[12, 2]], "the reconstruction last"
    edited, truth = {"glasses": flat(11, 21), "hat": flat(12, 22)}, {"glasses": flat(13, 23), "hat": flat(14, 24)}
    factor_grid(tmp_path / "t.png", flat(1, 3), flat(2, 4), edited, truth)
    found = [row[-1] for row in cells(tmp_path / "t.png", 0, 1)]
    assert found == [2, 2, 4, 4], "the ground truth below each edit"
    pixels = read(tmp_path / "t.png")
    hats = [
        int(pixels[pixels.shape[0] - 12 - CELL // 2 - row * (CELL + GAP), -12 - CELL - APART - CELL // 2, 0])
        for row in (3, 2, 1, 0)
    ]
    assert hats == [12, 14, 22, 24]


@pytest.mark.parametrize(("n", "rows"), [(3, 2), (8, 2), (12, 2), (16, 4)])
def test_reconstructions_lie_below_their_originals(tmp_path: Path, n: int, rows: int) -> None:
    greys = torch.arange(n)
    reconstructions(tmp_path / "r.png", flat(*greys.tolist()), flat(*greys.tolist()).float() / 255 + 100 / 255)
    found = cells(tmp_path / "r.png", 0, min(n, 8))
    assert len(found) == rows
    assert found[0] == list(range(min(n, 8))) and found[1] == [100 + grey for grey in found[0]]
    if rows == 4:
        assert found[2] == list(range(8, 16)) and found[3] == list(range(108, 116))


def test_samples_have_a_row_per_choice(tmp_path: Path) -> None:
    samples(tmp_path / "s.png", {"any": flat(1, 2), "glasses: with": flat(3, 4)})
    assert cells(tmp_path / "s.png", 60, 2) == [[1, 2], [3, 4]]
