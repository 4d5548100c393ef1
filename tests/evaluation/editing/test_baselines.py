"""Linear editors on planted Gaussian classes, whose directions are known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.factors import FactorTable
from evaluation.editing.baselines import AtStrength, LinearSVM, MeanDifference
from models import UserError
from models.labels import Factor

FACTORS = (
    Factor("glasses", "binary", ("without", "with")),
    Factor("race", "categorical", ("a", "b", "c")),
    Factor("age", "continuous", ("young", "old")),
)
FEATURES = 10
BASELINES = [MeanDifference, LinearSVM]


class Planted:
    """z = glasses · 4 e_g + 4 e_class + (age / 20) · e_a + unit noise, each direction a coordinate.

    Standardising the latents would turn any other direction, and the SVM's normal with it.
    """

    def __init__(self, n: int = 4000, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        basis = torch.eye(FEATURES)
        self.glasses, self.age, self.centres = 4 * basis[0], basis[1] / 20, 4 * basis[2:5]
        draw = lambda high: torch.randint(high, (n,), generator=generator).float()  # noqa: E731
        self.labels = torch.stack([draw(2), draw(3), 200 * torch.rand(n, generator=generator)], dim=1)
        noise = torch.randn(n, FEATURES, generator=generator)
        self.latents = (
            self.labels[:, :1] * self.glasses
            + self.centres[self.labels[:, 1].long()]
            + self.labels[:, 2:] * self.age
            + noise
        )

    @property
    def table(self) -> FactorTable:
        return FactorTable(FACTORS, self.labels)

    def read(self, latents: Tensor) -> Tensor:
        """What the latents say, by the planted directions."""
        glasses = (latents @ self.glasses / 16 > 0.5).float()
        race = (latents @ self.centres.T).argmax(1).float()
        return torch.stack([glasses, race, latents @ self.age * 400], dim=1)


@pytest.fixture(scope="module")
def train() -> Planted:
    return Planted()


@pytest.fixture(scope="module")
def heldout() -> Planted:
    return Planted(500, seed=1)


def cosine(moves: Tensor, direction: Tensor) -> Tensor:
    return torch.cosine_similarity(moves, direction[None], dim=1)


@pytest.mark.parametrize("baseline", BASELINES)
def test_directions_are_recovered(baseline: type, train: Planted, heldout: Planted) -> None:
    editor = baseline(train.latents, train.table)
    z = heldout.latents
    without = heldout.labels[:, 0] == 0
    moves = editor.edit(z, 0, torch.ones(len(z))) - z
    assert cosine(moves[without].mean(0)[None], train.glasses) > 0.95
    moves = editor.edit(z, 2, torch.full((len(z),), 1000.0)) - z
    assert cosine(moves, train.age).min() > 0.95
    first = heldout.labels[:, 1] == 0
    moves = editor.edit(z, 1, torch.full((len(z),), 2.0)) - z
    # One against the rest: the normal of class c points away from both others.
    apart = train.centres[2] - (train.centres[0] if baseline is MeanDifference else train.centres.mean(0))
    assert cosine(moves[first].mean(0)[None], apart) > 0.95


@pytest.mark.parametrize("baseline", BASELINES)
def test_edits_reach_their_target_and_little_else(baseline: type, train: Planted, heldout: Planted) -> None:
    editor = baseline(train.latents, train.table)
    z, before = heldout.latents, heldout.read(heldout.latents)
    targets = torch.stack([1 - heldout.labels[:, 0], (heldout.labels[:, 1] + 1) % 3, 200 - heldout.labels[:, 2]], dim=1)
    for i in range(3):
        after = heldout.read(editor.edit(z, i, targets[:, i]))
        others = [j for j in range(3) if j != i]
        if i < 2:
            assert (after[:, i] == targets[:, i]).float().mean() > 0.95
        else:
            assert ((after[:, i] > 100) == (targets[:, i] > 100)).float().mean() > 0.95
        for j in others:
            assert ((after[:, j] - before[:, j]).abs() > (0.5 if j < 2 else 30)).float().mean() < 0.03


@pytest.mark.parametrize("baseline", BASELINES)
def test_strength_is_linear(baseline: type, train: Planted, heldout: Planted) -> None:
    editor, z = baseline(train.latents, train.table), heldout.latents
    for i, value in enumerate((1.0, 2.0, 150.0)):
        wanted = torch.full((len(z),), value)
        full = editor.edit(z, i, wanted) - z
        torch.testing.assert_close(editor.edit(z, i, wanted, 0.0), z)
        torch.testing.assert_close(editor.edit(z, i, wanted, 1.5) - z, 1.5 * full, rtol=1e-3, atol=1e-4)
        assert full.abs().max() > 1


def test_the_svm_moves_to_the_mean_projection(train: Planted, heldout: Planted) -> None:
    """All edited latents lie at one place along the normal, wherever they came from."""
    editor = LinearSVM(train.latents, train.table)
    edited = (editor.edit(heldout.latents, 0, torch.ones(500)) - editor.mean) / editor.deviation
    normal = torch.nn.functional.normalize((edited - (heldout.latents - editor.mean) / editor.deviation).mean(0), dim=0)
    with_glasses = (train.latents[train.labels[:, 0] == 1] - editor.mean) / editor.deviation
    assert (edited @ normal).std() < 1e-4
    assert (edited @ normal).mean() == pytest.approx((with_glasses @ normal).mean().item(), abs=1e-3)


def test_the_mean_difference_leaves_those_who_have_the_value(train: Planted, heldout: Planted) -> None:
    editor = MeanDifference(train.latents, train.table)
    moved = (editor.edit(heldout.latents, 0, heldout.labels[:, 0]) - heldout.latents).norm(dim=1)
    assert (moved < 1).float().mean() > 0.95  # the class means lie 4 apart


@pytest.mark.parametrize("baseline", BASELINES)
def test_missing_labels_are_left_out(baseline: type, train: Planted, heldout: Planted) -> None:
    labels = train.labels.clone()
    labels[:2500, 0] = torch.nan
    partial = baseline(train.latents, FactorTable(FACTORS, labels))
    if baseline is MeanDifference:
        alone = baseline(train.latents[2500:], FactorTable(FACTORS, train.labels[2500:]))
        ones = torch.ones(500)
        torch.testing.assert_close(partial.edit(heldout.latents, 0, ones), alone.edit(heldout.latents, 0, ones))
    after = heldout.read(partial.edit(heldout.latents, 0, torch.ones(500)))
    assert (after[:, 0] == 1).float().mean() > 0.95


@pytest.mark.parametrize("baseline", BASELINES)
def test_fitting_repeats_and_leaves_random_state_alone(baseline: type, train: Planted, heldout: Planted) -> None:
    state = torch.get_rng_state()
    first, second = (baseline(train.latents, train.table).edit(heldout.latents, 0, torch.ones(500)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state) and np.random.rand() == np.random.RandomState(0).rand()


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("value", [1.0, torch.nan])
def test_a_factor_that_does_not_vary(baseline: type, value: float, train: Planted) -> None:
    labels = train.labels.clone()
    labels[:, 0] = value
    with pytest.raises(UserError, match="'glasses' to vary"):
        baseline(train.latents, FactorTable(FACTORS, labels))


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_class_without_training_images(baseline: type, train: Planted) -> None:
    labels = torch.where(train.labels == 2, torch.nan, train.labels)
    labels[:, [0, 2]] = train.labels[:, [0, 2]]
    editor = baseline(train.latents, FactorTable(FACTORS, labels))
    with pytest.raises(UserError, match="got 'c'"):
        editor.edit(train.latents, 1, torch.full((4000,), 2.0))
    assert editor.edit(train.latents, 1, torch.ones(4000)).isfinite().all()


def test_an_editor_at_twice_its_strength() -> None:
    planted = Planted(400)
    editor = MeanDifference(planted.latents, FactorTable(FACTORS, planted.labels))
    z, value = planted.latents[:5], torch.ones(5)
    torch.testing.assert_close(AtStrength(editor, 2.0).edit(z, 0, value), editor.edit(z, 0, value, 2.0))
    torch.testing.assert_close(AtStrength(editor, 2.0).edit(z, 0, value, 0.5), editor.edit(z, 0, value))
