"""Null edits and edits there and back in a world with known answers."""

import pytest
import torch
from torch import Tensor

from datamodules.splits import TEST
from evaluation.editing.invariance import measure_null_edits, measure_reversibility
from tests.evaluation.linear_world import FACTORS, NoEdit, PixelEditor, World, linear_world

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world() -> World:
    return linear_world(60)


class Drifting(NoEdit):
    """Adds about 1/255 to every pixel, whatever is set."""

    def __init__(self, world: World) -> None:
        self.rotation = world.encoder.rotation

    def edit(self, latents: Tensor, factor: int, value: Tensor, strength: float = 1.0) -> Tensor:
        return latents + (torch.ones(latents.shape[1]) / 255 / 4) @ self.rotation


class Reading(PixelEditor):
    """Sets what it reads, and reads glasses wrong: always there."""

    def read(self, latents: Tensor) -> Tensor:
        values = torch.zeros(len(latents), 4)
        values[:, 0] = 1
        values[:, 1] = ((latents @ self.encoder.rotation.T)[:, 1] > 0.5).float()
        values[:, 2:] = torch.nan
        return values


def test_a_perfect_null_edit(world: World) -> None:
    images, labels = world.data.images[:20], world.data.factors.values[:20]
    numbers = measure_null_edits(PixelEditor(world.encoder), images, labels, world.encoder, "add", CPU)
    assert numbers == {"composition/null_edit": 0, "composition/ten_null_edits": 0}


def test_drift_adds_up_over_rounds(world: World) -> None:
    images = torch.full((2, 3, 2, 2), 100, dtype=torch.uint8)
    numbers = measure_null_edits(Drifting(world), images, torch.zeros(2, 4), world.encoder, "add", CPU)
    half = 6 / 12  # of the numbers of an image the encoder knows
    assert numbers["composition/null_edit"] == pytest.approx(half / 255)
    assert numbers["composition/ten_null_edits"] == pytest.approx(10 * half / 255)


def test_rounds_start_from_whole_numbers(world: World) -> None:
    """Less than half of 1/255 never shows, however often."""
    editor = Drifting(world)
    editor.rotation = editor.rotation / 3
    images = torch.full((2, 3, 2, 2), 100, dtype=torch.uint8)
    numbers = measure_null_edits(editor, images, torch.zeros(2, 4), world.encoder, "add", CPU)
    assert numbers["composition/ten_null_edits"] == 0


def test_a_reading_editor_sets_what_it_reads(world: World) -> None:
    images, labels = world.data.images[:20], world.data.factors.values[:20]
    numbers = measure_null_edits(Reading(world.encoder), images, labels, world.encoder, "add", CPU)
    without = (labels[:, 0] == 0).double().mean().item()
    assert numbers["composition/null_edit"] == pytest.approx(without * 0.6 / 12, abs=1e-3), "it put glasses on"
    assert numbers["composition/ten_null_edits"] == pytest.approx(numbers["composition/null_edit"], abs=1e-3)


def test_what_an_editor_is_not_sure_of_is_set_to_the_label(world: World) -> None:
    class Unsure(Reading):
        def read(self, latents: Tensor) -> Tensor:
            return torch.full((len(latents), 4), torch.nan)

    images, labels = world.data.images[:20], world.data.factors.values[:20].clone()
    labels[:, 0] = 1 - labels[:, 0]  # a label that is wrong shows that it was set
    wrong = measure_null_edits(Unsure(world.encoder), images, labels, world.encoder, "add", CPU)
    assert wrong["composition/null_edit"] > 0.01
    right = measure_null_edits(Unsure(world.encoder), images, world.data.factors.values[:20], world.encoder, "add", CPU)
    assert right["composition/null_edit"] == 0


def test_there_and_back(world: World) -> None:
    rows = world.data.rows(TEST)[:20]
    labels, names = world.data.factors.values[rows], [factor.name for factor in FACTORS]
    targets = torch.stack([1 - labels[:, 0], 1 - labels[:, 1], (labels[:, 2] + 1) % 3, labels[:, 3]], dim=1)
    targets[:, 3] = torch.nan
    arguments = (world.data.images[rows], labels, targets, names, world.encoder, "add", CPU)
    numbers = measure_reversibility(PixelEditor(world.encoder), *arguments)
    assert set(numbers) == {f"reversibility/{name}" for name in names[:3]}, "nothing was done to the age"
    assert all(number == pytest.approx(0, abs=1e-6) for number in numbers.values())
    one_way = measure_reversibility(Reading(world.encoder), *arguments)
    assert one_way["reversibility/glasses"] == pytest.approx(0, abs=1e-6), "what it reads as the target is left out"
