"""The pictures a run draws of itself."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from evaluation.drawing.figures import CELL, GAP
from evaluation.editing.pictures import both_directions, draw_edits, draw_flow, draw_reconstructions
from evaluation.run import LoadedRun, load

NAN = float("nan")


class Still:
    """An editor that changes nothing, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, list[float]]] = []

    def edit(self, latents: Tensor, factor: int, value: Tensor, strength: float = 1.0) -> Tensor:
        self.asked.append((factor, value.tolist()))
        return latents


@pytest.fixture(scope="module")
def loaded(finished_run: Path) -> LoadedRun:
    return load(finished_run)


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.mark.parametrize(
    ("targets", "rows", "places"),
    [
        ([0.0, 1, 0, 1, 1], 4, [1, 3, 0, 2]),
        ([0.0, NAN, 0, 0, 1], 4, [4, 0, 2, 3]),
        ([1.0, 1, 0, 1, 1], 4, [0, 1, 3, 2]),
        ([0.85, 0.15], 4, [0, 1]),
        ([NAN, NAN], 4, []),
    ],
)
def test_both_directions(targets: list[float], rows: int, places: list[int]) -> None:
    assert both_directions(torch.tensor(targets), rows).tolist() == places


def test_edits_of_every_factor_by_every_editor(loaded: LoadedRun, tmp_path: Path) -> None:
    still = Still()
    editors = {"flow": loaded.iin, "mean_difference": still}
    draw_edits(tmp_path, loaded.data, loaded.encoder, editors)
    names = [factor.name for factor in loaded.data.factors.factors]
    assert {path.stem for path in tmp_path.iterdir()} == {"factor_grid", *(f"edit_{name}" for name in names)}
    assert [factor for factor, _ in still.asked] == list(range(6))
    assert all(len(values) == 4 and len(set(values)) == 2 for _, values in still.asked), "one direction only"
    width, height = size(tmp_path / "edit_glasses.png")
    assert width > 5 * CELL and 4 * (CELL + GAP) < height < 5 * CELL, "five columns (with the truth) and four rows"


def test_components_and_samples(loaded: LoadedRun, tmp_path: Path) -> None:
    draw_flow(tmp_path, loaded.data, loaded.encoder, loaded.iin)
    components = {f"component_{i}" for i in range(8)}  # six factors with one each, the first two of the residual
    assert {path.stem for path in tmp_path.iterdir()} == components | {"samples"}
    assert size(tmp_path / "samples.png")[1] == pytest.approx(13 * (CELL + GAP), abs=40)  # any, and six times two


def test_reconstructions(loaded: LoadedRun, tmp_path: Path) -> None:
    draw_reconstructions(tmp_path, loaded.data, loaded.encoder, n=8)
    assert size(tmp_path / "reconstructions.png")[0] > 8 * CELL
