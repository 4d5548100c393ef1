"""TURTLE: its terms against the paper's formulas, its choice of a head, and the clusters that it finds."""

import inspect
import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from datamodules.batches import Batches, row_batches
from models import UserError, turtle
from models.turtle import TURTLE, cross_entropy, fit_linear, generalization_score, mean_entropy, standardisation
from tests.references import turtle as reference
from training.checkpoints import finish
from training.fit import fit
from training.run_folder import Run

CONFIG = OmegaConf.create({"trainer": {"accelerator": "cpu", "devices": 1, "scale": 1.0}})
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # as fitting.py asks, too


def planted(seed: int, clusters: int = 4, width: int = 8, count: int = 400) -> tuple[Tensor, Tensor]:
    """Round clusters, eight deviations from the origin, no two of them near each other; and which one a row is of."""
    generator = torch.Generator().manual_seed(seed)
    centres = 8 * torch.linalg.qr(torch.randn(width, width, generator=generator))[0][:clusters]
    label = torch.randint(clusters, (count,), generator=generator)
    return centres[label] + torch.randn(count, width, generator=generator), label


def accuracy(assignment: Tensor, label: Tensor) -> float:
    """The share of rows in the right cluster, under the best naming of clusters."""
    counts = torch.zeros(assignment.shape[1], int(label.max()) + 1)
    counts.index_put_((assignment.argmax(1), label), torch.ones(len(label)), accumulate=True)
    return float(counts[linear_sum_assignment(-counts)].sum() / len(label))


def batches(features: Tensor, steps: int = 20) -> Batches:
    rows = torch.arange(len(features))
    return row_batches({"features": features, "row": rows}, 256, 0, rows, steps)


def trained(module: TURTLE, features: Tensor, seed: int = 0, steps: int = 50) -> TURTLE:
    module.start(features, seed)
    pl.Trainer(accelerator="cpu", max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False,
               enable_progress_bar=False, enable_model_summary=False).fit(module, batches(features))  # fmt: skip
    return module


def quick(width: int = 8) -> TURTLE:
    """At a rate that few rows take, so that a test does not wait."""
    return TURTLE(width, 4, heads=4, learning_rate=3e-2)


def test_terms_are_the_papers() -> None:
    logits, labels = torch.randn(2, 3, 5).double(), torch.randn(2, 3, 5).double().softmax(1)
    rows = [(one.T.tolist(), other.T.tolist()) for one, other in zip(logits, labels, strict=True)]
    assert cross_entropy(logits, labels).tolist() == pytest.approx([reference.cross_entropy(*pair) for pair in rows])
    assert mean_entropy(labels).tolist() == pytest.approx([reference.mean_entropy(label) for _, label in rows])


def test_labels_are_the_papers() -> None:
    module = TURTLE(3, 4, heads=2)
    features = torch.randn(6, 3)
    module.start(features, 0)
    with torch.no_grad():
        module.gain.uniform_(0.5, 3)
        module.offset.normal_()
        labels = module.labels(features)
    rows = ((features - features.mean(0)) / module.distance).tolist()
    for h in range(2):
        parameters = (module.direction[h].tolist(), module.gain[h, :, 0].tolist(), module.offset[h, :, 0].tolist())
        expected = torch.tensor([reference.soft_label(row, *parameters) for row in rows])
        torch.testing.assert_close(labels[h].T, expected)


def test_the_classifier_is_adams() -> None:
    rows, labels = torch.randn(5, 4).double(), torch.randn(2, 3, 5).double().softmax(1)
    weights = fit_linear(rows, labels, 4, 0.6)
    for h in range(2):
        expected = reference.fit_linear(rows.tolist(), labels[h].T.tolist(), 4, 0.3)  # 0.6 / √4 features
        torch.testing.assert_close(weights[h], torch.tensor(expected, dtype=torch.float64))


def test_known_values() -> None:
    uniform = torch.full((1, 5, 10), 0.2)
    one = torch.zeros(1, 5, 10)
    one[:, 2] = 1.0
    assert float(mean_entropy(uniform)) == pytest.approx(math.log(5))
    assert float(mean_entropy(one)) == 0.0
    each = torch.eye(5)[None].repeat(1, 1, 2)  # every row certain, all clusters of equal size
    assert float(mean_entropy(each)) == pytest.approx(math.log(5))
    assert float(cross_entropy(torch.zeros(1, 5, 10), each)) == pytest.approx(math.log(5))
    assert float(cross_entropy(100 * each, each)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("width", [2, 50, 1000])
def test_a_step_reaches_as_far_in_any_dimension(width: int) -> None:
    """The logits of rows whose labels their side decides, after one step: near `reach`, and not beyond it."""
    side = torch.randint(2, (64,)) * 2 - 1
    rows = side[:, None] * torch.randn(width).sign() / width**0.5
    labels = torch.stack([side > 0, side < 0]).float()[None]
    weights = fit_linear(rows, labels, 1, 0.5)[0, :, :-1]
    torch.testing.assert_close((rows @ weights.T)[:, 0], 0.5 * side.float(), rtol=1e-3, atol=1e-3)


def test_the_outer_gradient_takes_the_classifier_as_it_is() -> None:
    module = TURTLE(8, 4, heads=2)
    features, _ = planted(0)
    module.start(features, 0)
    fit, entropy = module.terms(features)
    found = torch.autograd.grad((fit - 3 * entropy).sum(), module.direction)[0]

    rows, labels = (features - module.mean) / module.distance, module.labels(features)
    fixed = turtle.linear_logits(rows, fit_linear(rows, labels, 10, 1.0).detach())
    loss = cross_entropy(fixed, labels).sum() - 3 * mean_entropy(labels).sum()
    torch.testing.assert_close(found, torch.autograd.grad(loss, module.direction)[0])
    assert found.abs().sum() > 0


def test_the_score_ranks_planted_labels_first() -> None:
    features, label = planted(1)
    truth = torch.nn.functional.one_hot(label, 4).float()
    wrong = truth.clone()
    wrong[::4] = wrong[::4].roll(1, 1)  # a quarter of the rows in another cluster
    merged = truth @ torch.eye(4)[[0, 0, 2, 2]]  # as easy to predict, but two clusters
    noise = torch.rand(len(label), 4)
    scores = [generalization_score(features, labels, 5, 0) for labels in (truth, merged, wrong, noise)]
    assert math.log(4) > scores[0] > 0.95 * math.log(4)
    assert math.log(2) > scores[1] > 0.95 * math.log(2)
    assert scores[1] > scores[2] > 0 > scores[3]
    assert scores[3] == generalization_score(features, noise, 5, 0) != generalization_score(features, noise, 5, 1)


def test_the_score_of_a_single_cluster_is_nothing() -> None:
    features, _ = planted(0)
    one = torch.zeros(len(features), 4)
    one[:, 2] = 1.0
    assert generalization_score(features, one, 5, 0) == pytest.approx(0.0, abs=0.01)
    one[0] = torch.tensor([1.0, 0, 0, 0])
    assert generalization_score(features, one, 5, 0) < 0.01


def test_a_score_with_fewer_rows_than_folds() -> None:
    assert math.isfinite(generalization_score(torch.eye(3), torch.eye(3), 5, 0))


def test_the_best_head_is_used() -> None:
    features, label = planted(2)
    module = TURTLE(8, 4, heads=3)
    module.start(features, 0)
    with torch.no_grad():  # one head knows the clusters, the others name rows alike but for nothing that holds
        module.direction[1] = torch.stack([features[label == c].mean(0) - features.mean(0) for c in range(4)])
        module.gain[1] = 20.0
        module.direction[2] = 0.0
    module.on_train_end()
    assert module.best == 1 and module.scores[1] > 1.3 > max(module.scores[0], module.scores[2])
    assert torch.equal(module.assign(features), module.labels(features)[1].T)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_clusters_are_found(seed: int) -> None:
    features, label = planted(seed)
    module = trained(quick(), features, seed)
    assert accuracy(module.assign(features), label) >= 0.95
    unseen, label = planted(seed, count=401)  # the same centres, other rows
    assert accuracy(module.assign(unseen), label) >= 0.95


@pytest.mark.parametrize("scale, shift", [(1e-3, 1.0), (255.0, 100.0)], ids=["small and far off", "large"])
def test_units_do_not_matter(scale: float, shift: float) -> None:
    features, label = planted(3)
    module = trained(quick(), scale * features + shift)
    assert accuracy(module.assign(scale * features + shift), label) >= 0.95


def test_unit_norm_features_train() -> None:
    features, label = planted(4, width=64)
    features = torch.nn.functional.normalize(features + 10.0, dim=1)  # a narrow cone, as embeddings lie
    assert accuracy(trained(quick(64), features).assign(features), label) >= 0.95


def test_more_clusters_than_there_are() -> None:
    """Two points, five clusters: some stay empty, and nothing breaks."""
    features = torch.eye(2).repeat(50, 1)
    module = trained(TURTLE(2, 5, heads=2), features, steps=20)
    assignment = module.assign(features)
    assert assignment.isfinite().all() and len(assignment.argmax(1).unique()) <= 2


def test_assignments_are_probabilities_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    features, _ = planted(0)
    module = TURTLE(8, 4)
    module.start(features, 0)
    whole = module.assign(features)
    torch.testing.assert_close(whole.sum(1), torch.ones(len(features)))
    monkeypatch.setattr(turtle, "CHUNK", 7)
    torch.testing.assert_close(module.assign(features), whole)


def test_no_label_can_be_given() -> None:
    assert list(inspect.signature(TURTLE.start).parameters) == ["self", "features", "seed"]
    assert list(inspect.signature(TURTLE.assign).parameters) == ["self", "features"]
    assert all(kind is not Tensor for kind in inspect.get_annotations(TURTLE.__init__).values())


def test_standardised_features_have_a_mean_squared_norm_of_one() -> None:
    features = 3 * torch.randn(100, 5) * torch.tensor([1.0, 2, 3, 4, 0]) + 7
    mean, distance = standardisation(features, 2)
    rows = (features - mean) / distance
    assert float(rows.square().sum(1).mean()) == pytest.approx(1.0, rel=1e-5)
    torch.testing.assert_close(rows.std(0) / rows.std(0)[0], features.std(0) / features.std(0)[0])


@pytest.mark.parametrize(
    "features, clusters, message",
    [
        (torch.randn(5, 2), 6, "Expected from 2 to 5 clusters, one per row at most, got 6"),
        (torch.randn(5, 2), 1, "Expected from 2 to 5 clusters, one per row at most, got 1"),
        (torch.full((5, 2), 0.1), 2, "Expected features that differ between rows"),
        (torch.zeros(5, 2), 2, "Expected features that differ between rows"),
        (torch.tensor([[0.0, 1], [1, torch.nan]]), 2, "Expected finite features, got NaN"),
        (torch.tensor([[0.0, 1], [1, torch.inf]]), 2, "Expected finite features, got NaN"),
    ],
)
def test_features_that_cannot_be_clustered(features: Tensor, clusters: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        TURTLE(2, clusters).start(features, 0)
    assert "\n" not in str(error.value)


def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    features, _ = planted(0)
    ends = []
    for name, parts in {"whole": (40,), "resumed": (20, 40)}.items():
        run = Run(tmp_path / name, OmegaConf.create({}))
        for steps in parts:
            torch.manual_seed(steps)
            module = TURTLE(8, 4, heads=2)
            module.start(features, 5)
            assert fit(module, batches(features), run, "turtle", CONFIG, steps) == (20 if name == "resumed" else 40)
        ends.append(module.state_dict())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_a_checkpoint_loads_as_it_was(tmp_path: Path) -> None:
    features, _ = planted(0)
    module = trained(TURTLE(8, 4, heads=2), features, steps=10)
    finish(module, Run(tmp_path, OmegaConf.create({})), "turtle")
    kept = tmp_path / "checkpoints" / "turtle.ckpt"
    assert torch.load(kept, weights_only=True)["hyper_parameters"]["clusters"] == 4
    loaded = TURTLE.load_from_checkpoint(kept, map_location="cpu", weights_only=True)
    assert torch.equal(loaded.assign(features), module.assign(features)) and loaded.best == module.best
