import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from datamodules.batches import Batches, row_batches
from models import UserError
from models.autoencoder import Autoencoder
from models.dec import DEC, clustering_loss, kmeans, soft_assignment, target_distribution
from tests.references import dec as reference
from training.checkpoints import finish
from training.fit import fit
from training.run_folder import Run

SMALL: dict[str, Any] = {"hidden": [32], "code": 4}
CONFIG = OmegaConf.create({"trainer": {"accelerator": "cpu", "devices": 1, "scale": 1.0}})
INTERVAL = 20
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # as fitting.py asks, too


def matrix(rows: Tensor) -> list[list[float]]:
    return rows.double().tolist()


def planted(n: int = 600, clusters: int = 5, d: int = 16, noise: float = 0.45) -> tuple[Tensor, Tensor]:
    """Rows around `clusters` random directions, and which one each is around."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % clusters
    centers = torch.nn.functional.normalize(torch.randn(clusters, d, generator=generator), dim=1)
    return centers[labels] + noise * torch.randn(n, d, generator=generator) / 2, labels


def accuracy(labels: Tensor, clusters: Tensor) -> float:
    """Under the best one-to-one matching."""
    table = np.zeros((int(clusters.max()) + 1, int(labels.max()) + 1), dtype=int)
    np.add.at(table, (clusters.numpy(), labels.numpy()), 1)
    return float(table[linear_sum_assignment(-table)].sum() / len(labels))


def batches(features: Tensor, steps: int = INTERVAL) -> Batches:
    rows = torch.arange(len(features))
    return row_batches({"features": features, "row": rows}, 64, 0, rows, steps)


def train(module: pl.LightningModule, features: Tensor, steps: int, *callbacks: pl.Callback) -> pl.Trainer:
    trainer = pl.Trainer(accelerator="cpu", max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks))  # fmt: skip
    trainer.fit(module, batches(features))
    return trainer


@pytest.fixture(scope="module")
def pretrained() -> Autoencoder:
    """Of the planted clusters; no test may change it."""
    torch.manual_seed(0)
    features, _ = planted()
    autoencoder = Autoencoder(16, **SMALL)
    autoencoder.start(features)
    train(autoencoder, features, 200)
    return autoencoder


def started(autoencoder: Autoencoder, **settings: Any) -> DEC:
    dec = DEC(16, 5, **SMALL, **{"interval": 1} | settings)
    dec.start(autoencoder, planted()[0], seed=0)
    return dec


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_the_formulas_and_both_gradients_are_the_papers(alpha: float) -> None:
    codes, centers = torch.randn(7, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    z, mu = matrix(codes), matrix(centers)
    q = reference.soft_assignment(z, mu, alpha)
    p = reference.target_distribution(q)
    assignment = soft_assignment(codes, centers, alpha)
    target = target_distribution(assignment.detach())
    loss = clustering_loss(target, assignment)
    torch.testing.assert_close(matrix(assignment), q, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(matrix(target), p, rtol=1e-5, atol=1e-7)
    assert 7 * loss.item() == pytest.approx(reference.clustering_loss(p, q), rel=1e-4)
    for got, expected in zip(torch.autograd.grad(7 * loss, (codes, centers)),
                             (reference.code_gradient(z, mu, p, q, alpha),
                              reference.center_gradient(z, mu, p, q, alpha)), strict=True):  # fmt: skip
        torch.testing.assert_close(matrix(got), expected, rtol=1e-4, atol=1e-5)


def test_soft_assignment_by_hand() -> None:
    """Distances 0 and 1: (1, 1/2) of 3/2."""
    assignment = soft_assignment(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(assignment, torch.tensor([[2 / 3, 1 / 3]]))


def test_target_distribution_by_hand() -> None:
    """f = (1.4, .6): p ∝ (.81/1.4, .01/.6) and (.25/1.4, .25/.6)."""
    target = target_distribution(torch.tensor([[0.9, 0.1], [0.5, 0.5]]))
    first, second = (0.81 / 1.4, 0.01 / 0.6), (0.25 / 1.4, 0.25 / 0.6)
    torch.testing.assert_close(target, torch.tensor([[a / sum(row) for a in row] for row in (first, second)]))


def test_clustering_loss_by_hand() -> None:
    target, assignment = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    assert clustering_loss(target, assignment).item() == pytest.approx(np.log(2) / 2)
    assert clustering_loss(assignment, assignment).item() == 0


def test_rows_sum_to_1_near_and_far() -> None:
    codes = torch.randn(50, 10) * torch.logspace(-6, 15, 50)[:, None]
    for alpha in (1e-2, 1.0, 100.0):
        assignment = soft_assignment(codes, torch.randn(7, 10), alpha)
        for rows in (assignment, target_distribution(assignment)):
            torch.testing.assert_close(rows.sum(1), torch.ones(50))


def test_a_code_on_its_centre_has_finite_gradients() -> None:
    codes, centers = torch.zeros(3, 2, requires_grad=True), torch.zeros(2, 2, requires_grad=True)
    loss = clustering_loss(torch.tensor([[0.9, 0.1]] * 3), soft_assignment(codes, centers))
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(loss, (codes, centers)))


def test_distances_far_from_the_origin_are_exact() -> None:
    """‖z‖² + ‖μ‖² − 2zμ would be off by several units here."""
    near = soft_assignment(torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0]]))
    torch.testing.assert_close(soft_assignment(torch.tensor([[4096.0]]), torch.tensor([[4096.0], [4097.0]])), near)


def test_half_precision_codes_are_assigned_in_full() -> None:
    codes, centers = torch.randn(5, 3).bfloat16(), torch.randn(2, 3)
    assert torch.equal(soft_assignment(codes, centers), soft_assignment(codes.float(), centers))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(soft_assignment(codes, centers), soft_assignment(codes.float(), centers))


def test_permuted_clusters_and_rows_are_permuted_assignments() -> None:
    codes, centers = torch.randn(20, 3), torch.randn(6, 3)
    rows, clusters = torch.randperm(20), torch.randperm(6)
    assignment = soft_assignment(codes, centers)
    permuted = soft_assignment(codes[rows], centers[clusters])
    torch.testing.assert_close(permuted, assignment[rows][:, clusters])
    expected = target_distribution(assignment)[rows][:, clusters]
    torch.testing.assert_close(target_distribution(permuted), expected)


def test_the_target_is_sharper_where_clusters_are_as_frequent_and_favours_the_rare() -> None:
    cyclic = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5]])  # every frequency is 1
    target = target_distribution(cyclic)
    torch.testing.assert_close(target, cyclic.square() / cyclic.square().sum(1, keepdim=True))
    assert (target.max(1).values > cyclic.max(1).values).all()
    undecided = target_distribution(torch.tensor([[0.9, 0.1]] * 9 + [[0.5, 0.5]]))[-1]
    assert undecided[1] > 0.8


def test_a_cluster_that_no_row_is_in_gives_no_nan() -> None:
    assignment = torch.tensor([[0.7, 0.3, 0.0], [0.4, 0.6, 0.0]])
    target = target_distribution(assignment)
    torch.testing.assert_close(target[:, :2], target_distribution(assignment[:, :2]))
    assert (target[:, 2] == 0).all() and clustering_loss(target, assignment).isfinite()
    assert clustering_loss(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]])).isfinite()


def test_kmeans_finds_planted_centres_and_repeats() -> None:
    generator = torch.Generator().manual_seed(0)
    centers = 10 * torch.eye(4)
    codes = centers.repeat(50, 1) + torch.randn(200, 4, generator=generator)
    found = kmeans(codes, 4, seed=0)
    assert torch.cdist(centers, found).min(1).values.max() < 0.6
    assert torch.equal(found, kmeans(codes, 4, seed=0))


def test_it_starts_at_kmeans_of_the_codes(pretrained: Autoencoder) -> None:
    dec, (features, _) = started(pretrained), planted()
    codes = pretrained.embed(features)
    assert torch.equal(dec.encode(features), codes)
    assert torch.equal(dec.centers, kmeans(codes, 5, seed=0))
    nearest = torch.cdist(codes, dec.centers).argmin(1)
    assert torch.equal(dec.assign(features).argmax(1), nearest)


def test_planted_clusters_are_found_at_least_as_well_as_by_kmeans(pretrained: Autoencoder) -> None:
    dec, (features, labels) = started(pretrained, learning_rate=0.1), planted()
    before, sharp = accuracy(labels, dec.assign(features).argmax(1)), dec.assign(features).max(1).values.mean()
    train(dec, features, 30 * INTERVAL)
    assert 0.6 < before <= accuracy(labels, dec.assign(features).argmax(1))
    assert dec.assign(features).max(1).values.mean() > sharp + 0.1


class Record(pl.Callback):
    """The target and the step of every update; the weights are those it was computed with."""

    def __init__(self) -> None:
        self.targets: list[Tensor] = []
        self.steps: list[int] = []
        self.expected: list[Tensor] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, index: int) -> None:
        if index == 0:
            self.targets.append(module.target.clone())
            self.expected.append(target_distribution(module.assign(module.rows)))
            self.steps.append(trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        assert torch.equal(module.target, self.targets[-1])  # fixed for the interval


def test_the_target_is_of_all_rows_and_fixed_for_an_interval(pretrained: Autoencoder) -> None:
    dec, record = started(pretrained, tolerance=0.0), Record()
    train(dec, planted()[0], 2 * INTERVAL + 5, record)
    assert record.steps == [0, INTERVAL, 2 * INTERVAL]
    for target, expected in zip(record.targets, record.expected, strict=True):
        assert target.shape == (600, 5)
        assert torch.equal(target, expected)
    assert not torch.equal(record.targets[0], record.targets[1])
    assert dec.details()["updates"] == 3


def test_a_batch_is_trained_on_its_own_rows_of_the_target(pretrained: Autoencoder) -> None:
    dec, (features, _) = started(pretrained), planted()
    train(dec, features, 1)
    rows = torch.tensor([17, 3, 599])
    loss = dec.terms({"features": features[rows], "row": rows})["kl"]
    assert dec.target is not None
    expected = clustering_loss(dec.target[rows], dec.assign(features[rows]))
    torch.testing.assert_close(loss, expected)


def test_it_stops_where_hardly_a_row_changes_its_cluster(pretrained: Autoencoder) -> None:
    dec = started(pretrained, tolerance=0.5)
    trainer = train(dec, planted()[0], 10 * INTERVAL)
    assert trainer.global_step == INTERVAL  # the second update sees few changes and trains nothing
    assert dec.stop_reason == "tolerance"
    assert dec.details()["stop_reason"] == dec.details()["updates"] == 1
    assert 0 <= dec.details()["changed"] < 0.5


def test_it_does_not_stop_at_the_first_update_nor_without_a_tolerance(pretrained: Autoencoder) -> None:
    dec = started(pretrained, tolerance=0.0)
    assert dec.details()["changed"] == 1
    trainer = train(dec, planted()[0], 3 * INTERVAL)
    assert trainer.global_step == 3 * INTERVAL
    assert (dec.stop_reason, dec.details()["stop_reason"], dec.details()["updates"]) == ("steps", 0, 3)


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name.split(".0")[0].split(".2")[0] for name in before if not torch.equal(before[name], after[name])}


def test_idec_trains_the_decoder_and_dec_does_not(pretrained: Autoencoder) -> None:
    features, changes, errors = planted()[0], [], []
    for weight in (0.0, 1.0):
        dec = started(pretrained, reconstruction_weight=weight, clustering_weight=0.1, learning_rate=0.1)
        before = {name: value.clone() for name, value in dec.named_parameters()}
        train(dec, features, 5 * INTERVAL)
        changes.append(moved(before, dict(dec.named_parameters())))
        codes = dec.autoencoder.embed(features)
        errors.append(dec.autoencoder.reconstruction_loss(features, codes).item())
    assert changes == [
        {"centers", "autoencoder.encoder"},
        {"centers", "autoencoder.encoder", "autoencoder.decoder"},
    ]
    assert errors[1] < errors[0]


def test_the_loss_is_weighed(pretrained: Autoencoder) -> None:
    features = planted()[0]
    batch = {"features": features[:64], "row": torch.arange(64)}
    dec = started(pretrained, reconstruction_weight=3.0, clustering_weight=0.5)
    train(dec, features, 1)
    assert dec.target is not None
    terms, codes = dec.terms(batch), dec.encode(batch["features"])
    torch.testing.assert_close(terms["kl"], 0.5 * clustering_loss(dec.target[:64], dec.assign(batch["features"])))
    mse = dec.autoencoder.reconstruction_loss(batch["features"], codes)
    torch.testing.assert_close(terms["reconstruction"], 3 * mse)


@pytest.mark.parametrize("weight", [0.0, 1.0], ids=["dec", "idec"])
def test_a_resumed_training_is_the_uninterrupted_one(pretrained: Autoencoder, tmp_path: Path, weight: float) -> None:
    """Changes of the labels and the stop included."""
    features, ends = planted()[0], []
    settings = {"reconstruction_weight": weight, "tolerance": 0.001, "learning_rate": 0.05}
    for stops in ([30 * INTERVAL], [INTERVAL, 2 * INTERVAL, 30 * INTERVAL]):
        run = Run(tmp_path / str(len(stops)), OmegaConf.create({}))
        for until in stops:
            dec = started(pretrained, **settings)
            fit(dec, batches(features), run, "dec", CONFIG, until)
        ends.append((dec.state_dict(), dec.details()))
    (whole, details), (resumed, others) = ends
    assert details == others and details["stop_reason"] == 1 and details["updates"] > 3, "too early"
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_saved_loaded_and_pickled_it_is_the_same_and_remembers_how_it_ended(
    pretrained: Autoencoder, tmp_path: Path
) -> None:
    features = planted()[0]
    dec, run = started(pretrained, tolerance=0.5), Run(tmp_path / "run", OmegaConf.create({}))
    fit(dec, batches(features), run, "dec", CONFIG, 10 * INTERVAL)
    finish(dec, run, "dec")
    loaded = DEC.load_from_checkpoint(run.path / "checkpoints/dec.ckpt", weights_only=True)
    for again in (loaded, pickle.loads(pickle.dumps(dec))):
        assert torch.equal(again.assign(features), dec.assign(features))
        assert again.details() == dec.details() and again.stop_reason == "tolerance"
    assert "rows" not in "".join(dec.state_dict())


def test_smallest_center_distance_tells_merged_centres() -> None:
    dec = DEC(3, 3, **SMALL)
    with torch.no_grad():
        dec.centers.copy_(torch.tensor([[0.0, 0, 0, 0], [3, 4, 0, 0], [3, 4, 1, 0]]))
    assert dec.details()["smallest_center_distance"] == 1


def test_centres_are_as_far_apart_as_the_codes_are_spread(pretrained: Autoencoder) -> None:
    dec, features = started(pretrained), planted()[0]
    assert "center_separation" not in DEC(3, 3, **SMALL).details(), "no codes, no spread"
    dec.assign(features)
    codes = dec.encode(features).detach()
    spread = (codes - codes.mean(0)).norm(dim=1).square().mean().sqrt()
    separation = dec.details()["center_separation"]
    assert (
        separation == pytest.approx(float(torch.pdist(dec.centers.detach()).min() / spread), rel=1e-5)
        and separation > 0.1
    )
    with torch.no_grad():
        dec.centers[1] = dec.centers[0] + 1e-4 * spread
    assert dec.details()["center_separation"] < 1e-3


def test_assign_takes_any_number_of_rows() -> None:
    dec, features = DEC(3, 2, **SMALL), torch.randn(4097, 3)
    torch.nn.init.normal_(dec.centers)
    assignment = dec.assign(features)
    assert assignment.shape == (4097, 2) and not assignment.requires_grad
    torch.testing.assert_close(assignment[-2:], dec.assign(features[-2:]))


def test_bad_input_is_one_line(pretrained: Autoencoder) -> None:
    features = planted()[0]
    with pytest.raises(UserError, match="Expected at least 2 clusters, got 1: set a higher k"):
        DEC(16, 1)
    with pytest.raises(UserError, match="Expected at most as many clusters as the 4 rows, got 5: set a lower k"):
        DEC(16, 5, **SMALL).start(pretrained, features[:4], 0)
    with pytest.raises(UserError, match="Expected codes that make 5 clusters, got only 1 different ones: set a lower"):
        DEC(16, 5, **SMALL).start(pretrained, features[:1].expand(9, 16), 0)
    with pytest.raises(UserError, match=r"Expected an auto-encoder of widths \[16, 8, 4\], got \[16, 32, 4\]: train"):
        DEC(16, 5, hidden=[8], code=4).start(pretrained, features, 0)


def test_training_needs_a_start() -> None:
    with pytest.raises(RuntimeError, match="Call start or attach before training"):
        train(DEC(16, 5, **SMALL, interval=1), planted()[0], 1)
