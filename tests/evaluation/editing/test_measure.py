"""Measurements in a world with known answers: a perfect editor scores 1/0/1, no edit 0/0/0, a random one leaks."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from datamodules.factors import FactorTable
from datamodules.splits import TEST, TRAIN
from evaluation.editing.held_out import read_reconstructions
from evaluation.editing.measure import edit_targets, measure
from evaluation.editing.measurement import Measurement
from evaluation.editing.strengths import STRENGTHS
from models.interfaces import Editor, FaceEmbedder
from models.labels import factor_statistics
from tests.evaluation.linear_world import (
    FACTORS,
    LeakyEditor,
    NoEdit,
    PixelEditor,
    RandomEdit,
    RotatedPixels,
    World,
    linear_world,
)


@pytest.fixture(scope="module")
def world() -> World:
    return linear_world()


def measured(world: World, editor: Editor, labels: Tensor | None = None, strengths: tuple[float, ...] = (0.3, 0.7),
             embed: FaceEmbedder | None = None, scenes_known: bool = True) -> Measurement:  # fmt: skip
    rows = world.data.rows(TEST)
    data = world.data if scenes_known else replace(world.data, counterfactual=None)
    table = world.data.factors[rows] if labels is None else FactorTable(FACTORS, labels)
    return measure(
        {"edit": editor}, world.latents[rows], table, world.encoder, world.judge, data, rows, strengths, embed=embed
    )["edit"]


def test_a_perfect_editor(world: World) -> None:
    for result in measured(world, PixelEditor(world.encoder)).results:
        assert result.success == 1 and result.leakage == 0 and result.leakage_at_90 == 0
        # Redrawn scenes are rounded to uint8; a continuous target need not be a whole number of 1/255.
        assert result.counterfactual == pytest.approx(1, abs=0.01)
        assert result.images >= 290 and result.cycle_error is None and result.identity is None


def test_no_edit(world: World) -> None:
    for result in measured(world, NoEdit(), embed=lambda images: images.flatten(1)).results:
        assert result.success == 0 and result.leakage == 0 and result.leakage_at_90 is None
        assert result.counterfactual == 0
        assert result.identity == pytest.approx(1)


def test_a_random_editor_leaks(world: World) -> None:
    for result in measured(world, RandomEdit(), embed=lambda images: images.flatten(1) - 0.3).results:
        assert result.leakage is not None and result.leakage > 0.2
        assert result.counterfactual is not None and result.counterfactual < -0.5
        assert result.success is not None and result.success < 0.8
        assert result.identity is not None and result.identity < 0.9


def test_leakage_by_hand(world: World) -> None:
    """Half of the images get glasses, and with them change one of the three other factors."""
    result = measured(world, LeakyEditor(world.encoder)).results[0]
    rows = world.data.rows(TEST)
    gets_glasses = (world.data.factors.values[rows, 0] == 0).float().mean().item()
    assert result.leakage == pytest.approx(gets_glasses / 3)
    # Nothing happens at .3, everything at .7: success .9 is nine tenths of the way, and so is the leakage.
    assert [point[:2] for point in result.curve] == [(0, 0), (0.3, 0), (0.7, 1), (1, 1)]
    assert result.leakage_at_90 == pytest.approx(0.9 * gets_glasses / 3)


def test_matrix(world: World) -> None:
    matrix = measured(world, LeakyEditor(world.encoder)).matrix
    assert matrix.shape == (4, 4) and torch.equal(matrix.isnan(), torch.eye(4, dtype=torch.bool))
    assert 0.4 < matrix[0, 1] < 0.6 and matrix.nansum() == matrix[0, 1]


class SuddenEditor(LeakyEditor):
    """Does nothing below a strength and everything from there on; remembers how strong it was asked to be."""

    def __init__(self, encoder: RotatedPixels, threshold: float) -> None:
        super().__init__(encoder)
        self.threshold = threshold
        self.asked: list[float] = []

    def edit(self, latents: Tensor, factor: int, value: Tensor, strength: float = 1.0) -> Tensor:
        if factor == 0:
            self.asked.append(strength)
        return super().edit(latents, factor, value, float(strength >= self.threshold))


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.6, 1.0, 1.1, 2.0])
def test_the_search_finds_the_smallest_strength_that_is_enough(world: World, threshold: float) -> None:
    editor = SuddenEditor(world.encoder, threshold)
    result = measured(world, editor, strengths=STRENGTHS[::-1]).results[0]
    ascending = [0.0, *STRENGTHS]
    enough = next(place for place, strength in enumerate(ascending) if strength >= threshold)
    curve = {strength: success for strength, success, _ in result.curve}
    assert list(curve) == sorted(curve) and curve[0] == 0
    assert min(strength for strength, success in curve.items() if success == 1) == ascending[enough]
    assert ascending[enough - 1] in curve, "the leakage at the level lies between these two"
    leaked = {strength: leakage for strength, _, leakage in result.curve}[ascending[enough]]
    assert result.leakage_at_90 == pytest.approx(0.9 * leaked) and leaked > 0.1
    times = {strength: editor.asked.count(strength) for strength in STRENGTHS if strength in editor.asked}
    assert len(times) <= 4 and set(times) == set(curve) - {0} and len(set(times.values())) == 1, "decoded twice"


def test_no_strength_is_enough(world: World) -> None:
    editor = SuddenEditor(world.encoder, 3.0)
    result = measured(world, editor, strengths=STRENGTHS).results[0]
    assert result.leakage_at_90 is None and [point[1] for point in result.curve] == [0] * len(result.curve)
    assert result.curve[-1][0] == 2.0, "not without having tried the strongest"


def test_without_known_scenes_only_the_counterfactual_is_missing(world: World) -> None:
    for known, unknown in zip(
        measured(world, LeakyEditor(world.encoder)).results,
        measured(world, LeakyEditor(world.encoder), scenes_known=False).results,
        strict=True,
    ):
        assert known.counterfactual is not None and unknown.counterfactual is None
        assert (known.success, known.leakage, known.images) == (unknown.success, unknown.leakage, unknown.images)


def test_missing_labels_are_left_out(world: World) -> None:
    labels = world.data.factors.values[world.data.rows(TEST)].clone()
    labels[:100, 0] = torch.nan
    labels[:, 2] = torch.nan
    glasses, hat, race, _ = measured(world, PixelEditor(world.encoder), labels).results
    assert glasses.images == len(labels) - 100 and glasses.success == 1 and glasses.leakage == 0
    assert hat.images == len(labels)
    assert race.images == 0 and race.success is None and race.counterfactual is None and race.leakage_row is None


def test_images_that_the_judge_misreads_do_not_count(world: World) -> None:
    """A wrong label: those reconstructions already have the target value."""
    labels = world.data.factors.values[world.data.rows(TEST)].clone()
    labels[:50, 0] = 1 - labels[:50, 0]
    none = measured(world, NoEdit(), labels, scenes_known=False).results[0]
    assert none.images == len(labels) - 50 and none.success == 0


class InexactFlow:
    """T and an inverse that is off by .001."""

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return latents * 2, torch.zeros(len(latents))

    def inverse(self, codes: Tensor) -> Tensor:
        return codes / 2 + 0.001


class FlowEditor(NoEdit):
    flow = InexactFlow()


class LateError(InexactFlow, RandomEdit):
    """Inverts what it is given, but not what it has edited, which is larger."""

    def inverse(self, codes: Tensor) -> Tensor:
        return torch.where(codes.abs() > 4, codes / 2 + 0.25, codes / 2)

    def edit(self, latents: Tensor, factor: int, value: Tensor, strength: float = 1.0) -> Tensor:
        return latents + 4 * strength


def test_cycle_error(world: World) -> None:
    for result in measured(world, FlowEditor()).results:
        assert result.cycle_error == pytest.approx(0.001, abs=1e-6)
    for result in measured(world, LateError()).results:
        assert result.cycle_error == pytest.approx(0.25, abs=1e-5)


def test_targets(world: World) -> None:
    train = world.data.factors[world.data.rows(TRAIN)]
    labels = world.data.factors[world.data.rows(TEST)]
    statistics = factor_statistics(train.values)
    first, second = (edit_targets(labels, train, statistics, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first[:, 0], 1 - labels.values[:, 0])
    assert (first[:, 2] != labels.values[:, 2]).all() and set(first[:, 2].tolist()) == {0, 1, 2}
    above = labels.values[:, 3] > statistics.median[3]
    assert first[above, 3].unique().tolist() == [statistics.low[3].item()]
    assert first[~above, 3].unique().tolist() == [statistics.high[3].item()]
    assert statistics.low[3] < statistics.median[3] < statistics.high[3]


def test_no_target_is_a_class_without_training_images(world: World) -> None:
    train = world.data.factors[world.data.rows(TRAIN)]
    without = FactorTable(FACTORS, torch.where(train.values[:, 2:3] == 1, torch.nan, train.values))
    labels = world.data.factors[world.data.rows(TEST)]
    targets = edit_targets(labels, without, factor_statistics(train.values), torch.Generator().manual_seed(0))
    assert set(targets[:, 2].tolist()) == {0, 2}
    assert (targets[:, 2] != labels.values[:, 2]).all()


def test_reconstructions_are_read_in_order(world: World) -> None:
    judged = read_reconstructions(world.latents, world.encoder, world.judge)
    torch.testing.assert_close(judged, world.data.factors.values)


def test_a_measurement_says_how_far_it_is(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    measured(world, NoEdit())
    lines = [",".join(line.split(",")[:2]) for line in capsys.readouterr().out.splitlines()]
    assert lines == [f"Editing images, factor by factor: {300 * done} of 1200" for done in (1, 2, 3, 4)]


def test_only_the_named_editors_are_scanned(world: World) -> None:
    rows = world.data.rows(TEST)
    editors = {"edit": PixelEditor(world.encoder), "oracle": PixelEditor(world.encoder)}
    result = measure(editors, world.latents[rows], world.data.factors[rows], world.encoder, world.judge, world.data,
                     rows, scanned={"edit"})  # fmt: skip
    assert all(r.leakage_at_90 == 0 for r in result["edit"].results)
    assert all(r.leakage_at_90 is None and r.success == 1 for r in result["oracle"].results)
