import pytest
import torch

from datamodules.factors import FactorTable
from datamodules.features import Latents
from datamodules.pairs import PairSampler, decorrelating_weights, discretise, edit_batches, pair_batches
from models import UserError
from models.labels import Factor

GLASSES, HAT, AGE = (
    Factor("glasses", "binary", ("no", "yes")),
    Factor("hat", "binary", ("no", "yes")),
    Factor("age", "continuous", ("young", "old")),
)


def correlated(n: int = 20_000, share: float = 0.9) -> FactorTable:
    generator = torch.Generator().manual_seed(0)
    glasses = torch.randint(2, (n,), generator=generator)
    hat = torch.where(torch.rand(n, generator=generator) < share, glasses, 1 - glasses)
    return FactorTable(
        (GLASSES, HAT, AGE), torch.stack([glasses, hat, torch.rand(n, generator=generator) * 60], 1).float()
    )


def test_partners_share_their_factor() -> None:
    table = correlated()
    a, b, factor = PairSampler(table).sample(3000, torch.Generator().manual_seed(0))
    assert factor.bincount().tolist() == [1000, 1000, 1000]
    values = table.values
    for f in range(2):
        rows = factor == f
        assert (values[a[rows], f] == values[b[rows], f]).all()
    apart = (values[a[factor == 2], 2] - values[b[factor == 2], 2]).abs()
    assert apart.max() < 60 / 10 * 1.1 and apart.mean() > 0.5


def test_decorrelated_pairs_are_uncorrelated_and_plain_pairs_are_not() -> None:
    table = correlated()
    for decorrelate, low, high in ((True, -0.05, 0.05), (False, 0.75, 0.85)):
        a, b, factor = PairSampler(table, decorrelate).sample(30_000, torch.Generator().manual_seed(0))
        rows = factor == 0
        for chosen in (a[rows], b[rows]):
            correlation = torch.corrcoef(table.values[chosen, :2].T)[0, 1]
            assert low < correlation < high
        hats = table.values[:, 1]
        shared_hat = torch.corrcoef(torch.stack([hats[a[rows]], hats[b[rows]]]))[0, 1]
        assert (shared_hat.abs() < 0.05) == decorrelate


def test_weights_by_hand() -> None:
    bins = torch.tensor([[0, 0]] * 4 + [[0, 1]] + [[1, 0]] + [[1, 1]] * 4)
    weights = decorrelating_weights(bins)
    torch.testing.assert_close(weights[0], torch.tensor(0.25 / 0.4))
    torch.testing.assert_close(weights[4], torch.tensor(0.25 / 0.1))
    assert weights.mean().item() == pytest.approx(1)
    assert decorrelating_weights(bins, cap=1.0).tolist() != weights.tolist()


def test_rows_without_the_label_are_in_no_pair_of_that_factor() -> None:
    table = correlated(1000)
    table.values[::2, 0] = torch.nan
    assert (discretise(table)[::2, 0] == -1).all()
    a, b, factor = PairSampler(table).sample(900, torch.Generator().manual_seed(0))
    rows = factor == 0
    assert (a[rows] % 2 == 1).all() and (b[rows] % 2 == 1).all()
    assert (a[~rows] % 2 == 0).any()


def test_no_factor_is_refused() -> None:
    with pytest.raises(UserError, match="at least one factor"):
        PairSampler(FactorTable((), torch.zeros(5, 0)))


def test_batches_repeat_with_the_epoch_and_keep_rows_together() -> None:
    table = correlated(500)
    latents = Latents(torch.arange(500.0)[:, None].expand(500, 2).contiguous(), torch.zeros(500, 2))

    def epoch(number: int) -> list[dict[str, torch.Tensor]]:
        batches = pair_batches(PairSampler(table), latents, table, 30, seed=1, steps=3, partners=True)
        batches.set_epoch(number)
        return list(batches)

    first, again, other = epoch(0), epoch(0), epoch(1)
    assert all(torch.equal(x["mean"], y["mean"]) for x, y in zip(first, again, strict=True))
    assert not torch.equal(first[0]["mean"], other[0]["mean"])
    for batch in first:
        rows = batch["mean"][:, 0].long()
        assert torch.equal(batch["labels"], table.values[rows])
        assert batch["factor"][:10].unique().numel() == 3, "any part of a batch holds every factor"


def test_edit_batches_hold_each_edit_once_an_epoch_with_its_own_target() -> None:
    factors = (Factor("glasses", "binary", ("without", "with")), Factor("sex", "binary", ("female", "male")))
    labels = FactorTable(factors, torch.randint(2, (10, 2)).float())
    latents = Latents(torch.arange(10.0)[:, None].expand(10, 3).contiguous(), torch.zeros(10, 3))
    rows = torch.tensor([7, 2, 5, 4])
    after = torch.stack([labels.values[rows].clone() for _ in factors], 1)
    for factor in range(2):
        after[:, factor, factor] = 1 - after[:, factor, factor]
    targets = (rows[:, None, None] + torch.tensor([0.25, 0.5])[None, :, None]).expand(4, 2, 3).half()
    batches = edit_batches(latents, labels, rows, after, targets, batch_size=4, seed=0, steps=2)
    seen = set()
    for batch in batches:
        row = batch["mean"][:, 0].long()
        torch.testing.assert_close(batch["labels"], labels.values[row])
        torch.testing.assert_close(batch["target"][:, 0], row + 0.25 * (batch["factor"] + 1))
        differs = batch["after"] != batch["labels"]
        assert torch.equal(differs.long().argmax(1), batch["factor"]) and (differs.sum(1) == 1).all()
        seen |= set(zip(row.tolist(), batch["factor"].tolist(), strict=True))
    assert len(batches) == 2 and seen == {(row, factor) for row in rows.tolist() for factor in range(2)}
