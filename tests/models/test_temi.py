"""TEMI: neighbours and loss against brute force and the paper's formulas, its training, and the clusters it finds."""

import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from datamodules.batches import Batches, row_batches
from models import UserError, temi
from models.temi import TEMI, Heads, agreement, pair_loss, pair_weight
from tests.references import temi as reference
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
    return row_batches({"features": features, "row": rows}, 128, 0, rows, steps)


def trained(module: TEMI, features: Tensor, seed: int = 0, steps: int = 100) -> TEMI:
    torch.manual_seed(seed)
    module.start(features, seed)
    pl.Trainer(accelerator="cpu", max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False,
               enable_progress_bar=False, enable_model_summary=False).fit(module, batches(features))  # fmt: skip
    return module


def small(**settings: float) -> TEMI:
    quick: dict[str, Any] = {"learning_rate": 1e-2, **settings}  # few rows take it, and a test does not wait
    return TEMI(8, 4, heads=4, hidden=16, neighbours=20, momentum=0.9, warmup=20, **quick)


def test_few_rows_are_neighbours_of_all_others() -> None:
    module = small()
    module.start(torch.randn(10, 8), seed=0)
    assert module.neighbours.shape == (10, 9)
    assert all(sorted([row, *found]) == list(range(10)) for row, found in enumerate(module.neighbours.tolist()))


def test_terms_are_the_papers() -> None:
    student, teacher = (torch.randn(2, 3, 8).double().softmax(1) for _ in range(2))  # 4 pairs, partners behind
    shares = torch.randn(2, 3).double().softmax(1)
    losses = pair_loss(student.log(), teacher.log(), shares, 0.6)
    weights = pair_weight(teacher[..., :4], teacher[..., 4:])
    agreements = agreement(student[..., :4].log(), teacher[..., 4:].log(), shares, 0.6)
    expected = [0.0, 0.0]
    for i in range(4):
        weight = reference.pair_weight(teacher[..., i].tolist(), teacher[..., 4 + i].tolist())
        assert float(weights[i]) == pytest.approx(weight)
        for h in range(2):
            s, t = ((q[h, :, i].tolist(), q[h, :, 4 + i].tolist()) for q in (student, teacher))
            assert float(agreements[h, i]) == pytest.approx(reference.agreement(s[0], t[1], shares[h].tolist(), 0.6))
            expected[h] += reference.pair_loss(s, t, shares[h].tolist(), weight, 0.6) / 4
    assert losses.tolist() == pytest.approx(expected)


def certain(*clusters: int) -> Tensor:
    """Log-probabilities (1, 4, rows) of rows that are certainly of these clusters."""
    return (50 * torch.nn.functional.one_hot(torch.tensor(clusters), 4).float().T[None]).log_softmax(1)


@pytest.mark.parametrize("beta", [0.6, 1.0])
def test_known_values(beta: float) -> None:
    equal = torch.full((1, 4), 0.25)
    alike = certain(0, 1, 2, 3, 0, 1, 2, 3)  # four pairs that agree
    assert float(pair_loss(alike, alike, equal, beta)) == pytest.approx(-math.log(4))
    assert pair_weight(alike[..., :4].exp(), alike[..., 4:].exp()).tolist() == pytest.approx([1.0] * 4)
    apart = certain(0, 1, 2, 3, 1, 2, 3, 0)  # four pairs that do not: of no weight
    assert float(pair_loss(apart, apart, equal, beta)) == pytest.approx(0.0, abs=1e-6)
    one = certain(2, 2, 2, 2)  # all in one cluster: nothing is gained
    assert float(pair_loss(one, one, one.exp()[..., 0], beta)) == pytest.approx(0.0, abs=1e-6)
    unknown = torch.full((1, 4, 2), 0.25).log()
    expected = -0.25 * math.log(4 * 0.25 ** (2 * beta) / 0.25)  # for β = 1: independent, no information
    assert float(pair_loss(unknown, unknown, equal, beta)) == pytest.approx(expected, abs=1e-6)


def test_certainty_breaks_no_gradient() -> None:
    logits = (1e4 * torch.randn(2, 4, 10)).requires_grad_()
    shares = torch.tensor([[1.0, 0, 0, 0], [0.25] * 4])
    losses = pair_loss(logits.log_softmax(1), logits.detach().log_softmax(1), shares, 0.6)
    losses.sum().backward()
    assert losses.isfinite().all() and logits.grad is not None and logits.grad.isfinite().all()


def test_heads_are_networks_of_their_own() -> None:
    heads, rows = Heads(3, 5, 6, 4), torch.randn(7, 5)
    heads.draw(torch.Generator().manual_seed(0))
    for h in range(3):
        hidden = (rows @ heads.first[h].T + heads.first_offset[h, :, 0]).relu()
        expected = (hidden @ heads.second[h].T + heads.second_offset[h, :, 0]).log_softmax(1)
        torch.testing.assert_close(heads(rows)[h].T, expected)
        torch.testing.assert_close(heads(rows, slice(h, h + 1))[0].T, expected)


def test_a_step_moves_teacher_and_shares_by_their_momentum() -> None:
    features, _ = planted(0)
    module = small(learning_rate=0.1)
    module.start(features, 0)
    before = {name: weight.clone() for name, weight in module.teacher.named_parameters()}
    shares = module.teacher(module.standardised(features)).exp().mean(2)  # of all rows, near those of a batch
    trained(module, features, steps=1)
    for (name, slow), fast in zip(module.teacher.named_parameters(), module.student.parameters(), strict=True):
        torch.testing.assert_close(slow, before[name].lerp(fast, 0.1))
        assert not torch.equal(slow, before[name])
    torch.testing.assert_close(module.shares, 0.9 * 0.25 + 0.1 * shares, rtol=0, atol=0.005)
    assert not torch.allclose(module.shares, torch.tensor(0.25), atol=0.005)


def test_partners_are_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row that the student sees behind the batch is one of the neighbours of its row."""
    features, _ = planted(0)
    module = small()
    module.start(features, 0)
    seen: list[Tensor] = []

    def watched(rows: Tensor) -> Tensor:
        seen.append(rows)
        return Heads.forward(module.student, rows)

    monkeypatch.setattr(module.student, "forward", watched)
    trained(module, features, steps=2)
    standardised = module.standardised(features)
    for rows, batch in zip(seen, batches(features), strict=False):
        torch.testing.assert_close(rows[:128], module.standardised(batch["features"]))
        partner = torch.cdist(rows[128:], standardised).argmin(1)
        assert (module.neighbours[batch["row"]] == partner[:, None]).any(1).all()
    assert len(seen) == 2


def test_the_head_of_the_lowest_loss_is_used() -> None:
    features, _ = planted(0)
    module = small()
    module.start(features, 0)
    module.losses.copy_(torch.tensor([0.0, -0.5, -2.0, -1.0]))
    assert module.best == 2
    torch.testing.assert_close(module.assign(features), module.teacher(module.standardised(features))[2].T.exp())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_clusters_are_found(seed: int) -> None:
    features, label = planted(seed)
    module = trained(small(), features, seed)
    assert accuracy(module.assign(features), label) >= 0.95
    unseen, label = planted(seed, count=401)  # the same centres, other rows
    assert accuracy(module.assign(unseen), label) >= 0.95


@pytest.mark.parametrize("scale", [1e-3, 255.0])
def test_units_do_not_matter(scale: float) -> None:
    features, label = planted(3)
    assert accuracy(trained(small(), scale * features).assign(scale * features), label) >= 0.95


def test_more_clusters_than_there_are() -> None:
    """Two points, five clusters, one neighbour fewer than asked for: nothing breaks."""
    features = torch.eye(2).repeat(5, 1)
    module = trained(TEMI(2, 5, heads=2, hidden=4), features, steps=20)
    assert module.neighbours.shape == (10, 9)
    assignment = module.assign(features)
    assert assignment.isfinite().all() and len(assignment.argmax(1).unique()) <= 2


def test_a_row_of_zeros_does_no_harm() -> None:
    features, label = planted(5)
    features[0] = 0.0  # no direction, so no cosine
    assignment = trained(small(), features).assign(features)
    assert assignment.isfinite().all() and accuracy(assignment[1:], label[1:]) >= 0.95


def test_assignments_are_probabilities_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    features, _ = planted(0)
    module = small()
    module.start(features, 0)
    whole = module.assign(features)
    torch.testing.assert_close(whole.sum(1), torch.ones(len(features)))
    monkeypatch.setattr(temi, "CHUNK", 7)
    torch.testing.assert_close(module.assign(features), whole)


def test_no_label_can_be_given() -> None:
    assert list(inspect.signature(TEMI.start).parameters) == ["self", "features", "seed"]
    assert list(inspect.signature(TEMI.assign).parameters) == ["self", "features"]
    assert all(kind is not Tensor for kind in inspect.get_annotations(TEMI.__init__).values())


@pytest.mark.parametrize(
    "features, clusters, message",
    [
        (torch.randn(5, 2), 6, "Expected from 2 to 5 clusters, one per row at most, got 6"),
        (torch.zeros(5, 2), 2, "Expected features that differ between rows"),
        (torch.tensor([[0.0, 1], [1, torch.nan]]), 2, "Expected finite features, got NaN"),
    ],
)
def test_features_that_cannot_be_clustered(features: Tensor, clusters: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TEMI(2, clusters).start(features, 0)


def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    features, _ = planted(0)
    ends = []
    for name, parts in {"whole": (40,), "resumed": (20, 40)}.items():
        run = Run(tmp_path / name, OmegaConf.create({}))
        torch.manual_seed(0)
        for steps in parts:
            module = small()
            module.start(features, 5)
            assert fit(module, batches(features), run, "temi", CONFIG, steps) == (20 if name == "resumed" else 40)
            torch.rand(steps)  # what comes between leaves no trace
        ends.append(module.state_dict())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_a_checkpoint_loads_as_it_was(tmp_path: Path) -> None:
    features, _ = planted(0)
    module = trained(small(), features, steps=10)
    finish(module, Run(tmp_path, OmegaConf.create({})), "temi")
    kept = tmp_path / "checkpoints" / "temi.ckpt"
    content = torch.load(kept, weights_only=True)
    assert content["hyper_parameters"]["clusters"] == 4
    assert not {"features", "neighbours"} & set(content["state_dict"])  # which are as large as the data
    loaded = TEMI.load_from_checkpoint(kept, map_location="cpu", weights_only=True)
    assert torch.equal(loaded.assign(features), module.assign(features)) and loaded.best == module.best
