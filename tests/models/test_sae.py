"""TopK, Matryoshka and the auxiliary loss by hand; planted codes found again."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from evaluation.planted import atoms, matched, support_f1, train
from models import UserError
from models.sae import SAE, auxiliary_loss, combination, matryoshka_loss, top_units


def test_top_units_by_hand() -> None:
    codes = top_units(torch.tensor([[0.5, 3.0, -1.0, 2.0], [-1.0, -2.0, 4.0, -3.0]]), 2)
    assert codes.values.tolist() == [[3.0, 2.0], [4.0, 0.0]]
    assert codes.units[0].tolist() == [1, 3]
    assert codes.units[1, 0] == 2
    assert codes.first(1).values.tolist() == [[3.0], [4.0]]
    assert codes.dense(4).tolist() == [[0.0, 3.0, 0.0, 2.0], [0.0, 0.0, 4.0, 0.0]]


def test_a_combination_is_the_dense_product() -> None:
    codes, directions = top_units(torch.randn(5, 9), 4), torch.randn(9, 3)
    torch.testing.assert_close(combination(codes, directions), codes.dense(9) @ directions)


@pytest.mark.parametrize(("weighting", "expected"), [("uniform", (4.0 + 1.0) / 2), ("reverse", (2 * 4.0 + 1.0) / 3)])
def test_matryoshka_loss_by_hand(weighting: Any, expected: float) -> None:
    sae = SAE(2, active=[2, 1], weighting=weighting)
    rows, zero = torch.tensor([[2.0, 2.0]]), torch.zeros(1, 2)
    assert float(matryoshka_loss(rows, [zero, zero + 1], sae.weights)) == pytest.approx(expected)
    assert sae.active == [1, 2]


def test_matryoshka_is_trained_at_every_number_of_units() -> None:
    """Units at right angles: of the row (3, 4) one unit leaves 3², both leave nothing."""
    sae = SAE(2, expansion=1, active=[1, 2])
    with torch.no_grad():
        sae.decoder.copy_(torch.eye(2))
        sae.encoder.copy_(torch.eye(2))
    terms, codes = sae.terms(torch.tensor([[3.0, 4.0]]))
    assert float(terms["unexplained"].detach()) == pytest.approx((9 / 2 + 0) / 2)
    assert codes.units.tolist() == [[1, 0]]
    assert set(terms) == {"unexplained"}  # nothing is dead


def test_auxiliary_loss_by_hand() -> None:
    error, directions = torch.tensor([[3.0, 4.0]]), torch.eye(2)
    activations, dead = torch.tensor([[2.0, 9.0]]), torch.tensor([True, False])
    # The living unit, however active, says nothing: what is left is (1, 4).
    assert float(auxiliary_loss(error, activations, directions, dead, 5)) == pytest.approx((1 + 16) / 25)
    assert float(auxiliary_loss(error, -activations, directions, dead, 1)) == pytest.approx(1.0)


def test_dead_units_are_counted_and_taught_by_what_is_unexplained() -> None:
    rows = atoms(n=256)[0]
    sae = SAE(32, expansion=1, active=2, dead_after=512)
    sae.start(rows)
    with torch.no_grad():
        sae.encoder_bias[:30] = -1000.0
        sae.encoder_bias[0] = -1.0  # activates, but is never among the two largest
        sae.encoder_bias[30:] = 1000.0
    sae.log_dict = lambda _: None  # type: ignore[method-assign, assignment, misc]  # there is no trainer
    for _ in range(2):
        assert set(sae.terms(rows)[0]) == {"unexplained"}
        sae.training_step({"features": rows}, 0)
    assert (sae.unused >= 512).tolist() == [True] * 30 + [False] * 2
    sae.training_step({"features": rows}, 0).backward()
    assert sae.encoder.grad is not None
    assert bool(sae.encoder.grad[0].any())
    assert not bool(sae.encoder.grad[1:30].any())


def test_directions_keep_their_length_and_codes_are_in_the_rows_units() -> None:
    rows = atoms(n=500)[0]
    torch.manual_seed(0)
    sae = SAE(32, expansion=2, active=4)
    train(sae, rows, 20, 256)
    torch.testing.assert_close(sae.decoder.norm(dim=1), torch.ones(64))
    torch.manual_seed(0)
    larger = SAE(32, expansion=2, active=4)
    train(larger, 10 * rows - 7, 20, 256)
    torch.testing.assert_close(larger.encode(10 * rows - 7).values, 10 * sae.encode(rows).values, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(larger.decode(larger.encode(10 * rows - 7)), 10 * sae.decode(sae.encode(rows)) - 7,
                               rtol=1e-3, atol=1e-2)  # fmt: skip


@pytest.mark.parametrize("active", [3, [1, 3]])
def test_planted_codes_are_recovered(active: Any) -> None:
    rows, directions, support = atoms()
    torch.manual_seed(0)
    sae = SAE(32, expansion=2, active=active, learning_rate=0.01)
    train(sae, rows, 700, 256)
    codes = sae.encode(rows)
    assert codes.values.shape == (4000, 3)
    assert support_f1(matched(codes, sae.directions.detach(), directions), support) >= 0.95
    error = (sae.decode(codes) - rows).square().sum() / (rows - rows.mean(0)).square().sum()
    assert float(error) < 0.05


def test_a_checkpoint_gives_the_same_codes(tmp_path: Any) -> None:
    rows, sae = atoms(n=64)[0], SAE(32, expansion=1, active=[1, 2])
    sae.start(rows)
    content = {"state_dict": sae.state_dict(), "hyper_parameters": dict(sae.hparams)}
    torch.save(content | {"pytorch-lightning_version": pl.__version__}, tmp_path / "sae.ckpt")
    again = SAE.load_from_checkpoint(tmp_path / "sae.ckpt", weights_only=True)
    assert again.active == [1, 2]
    assert torch.equal(again.encode(rows).values, sae.encode(rows).values)
    assert sae.encode(rows, 5).values.shape == (64, 5)


def test_errors() -> None:
    for active in (0, [], 65, [2, 100]):
        with pytest.raises(UserError, match="Expected sae.active from 1 to 64"):
            SAE(8, active=active)
    with pytest.raises(UserError, match="Expected finite rows that differ"):
        SAE(8).start(torch.ones(5, 8))
    with pytest.raises(UserError, match="Expected finite rows that differ"):
        SAE(8).start(torch.full((5, 8), float("nan")))
    with pytest.raises(UserError, match="Expected active= from 1 to 64"):
        SAE(8).encode(torch.randn(2, 8), 65)
