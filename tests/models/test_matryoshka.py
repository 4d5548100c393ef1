"""The Matryoshka map: its losses by hand, and pairs whose largest directions say nothing of who belongs together."""

import math

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import normalize

from datamodules.batches import row_batches
from models import UserError
from models.matryoshka import Matryoshka, info_nce, neighbour_divergence
from models.reduction import fit_reduction, similarity


def test_info_nce_by_hand() -> None:
    same = torch.ones(4, 3)
    assert float(info_nce(same, same, 0.1)) == pytest.approx(math.log(4))
    x, y = torch.eye(2), normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), dim=1)
    cosines = [[1.0, 0.5**0.5], [0.0, 0.5**0.5]]

    def term(own: float, other: float) -> float:
        return math.log(1 + math.exp((other - own) / 0.5))

    expected = term(cosines[0][0], cosines[0][1]) + term(cosines[1][1], cosines[1][0])  # texts
    expected += term(cosines[0][0], cosines[1][0]) + term(cosines[1][1], cosines[0][1])  # images
    assert float(info_nce(x, y, 0.5)) == pytest.approx(expected / 4)


def test_captions_of_one_image_are_no_counter_examples() -> None:
    """Of three captions the first two are of one image: each has one counter-example, the third has two."""
    x = torch.eye(3)[[0, 0, 2]]
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    expected = (2 * math.log(1 + math.exp(-1)) + math.log(1 + 2 * math.exp(-1))) / 3
    assert float(info_nce(x, x, 1.0, same)) == pytest.approx(expected)
    assert float(info_nce(x, x, 1.0)) > expected


def test_the_divergence_is_zero_where_nothing_is_lost() -> None:
    x = torch.randn(20, 5)
    rotation = torch.linalg.qr(torch.randn(5, 5)).Q
    assert float(neighbour_divergence(x, x @ rotation, 0.5)) == pytest.approx(0, abs=1e-4)
    assert float(neighbour_divergence(x, x[:, :1], 0.5)) > 0.1


def trained(module: Matryoshka, **tensors: Tensor) -> Matryoshka:
    trainer = pl.Trainer(accelerator="cpu", max_steps=150, max_epochs=-1, logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(module, row_batches(tensors, 100, 0, torch.arange(len(tensors["x"])), 150))
    return module.eval()


def test_it_finds_what_pairs_share_below_what_they_do_not() -> None:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(400, 3, generator=generator)
    x, y = (torch.cat([3 * torch.randn(400, 5, generator=generator), shared], 1) for _ in range(2))
    module = Matryoshka(8, [3, 8], kinds=2, learning_rate=0.02)
    module.start(x[:300], y[:300])
    trained(module, x=x[:300], y=y[:300], image=torch.arange(300))

    def right(reduce: Matryoshka | torch.nn.Module) -> float:
        with torch.no_grad():
            scores = similarity(reduce(x[300:], 0)[:, :3], reduce(y[300:], 1)[:, :3], "cosine")
        return float((scores.argmax(1) == torch.arange(100)).float().mean())

    assert right(module) > 0.5 > 0.1 > right(fit_reduction("centred_pca", x[:300], y[:300]))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_rows_without_partners_keep_their_neighbours(metric: str) -> None:
    x = torch.randn(200, 10, generator=torch.Generator().manual_seed(0)) * torch.linspace(2, 0.5, 10) + 3
    module = Matryoshka(10, [2, 4], metric=metric, temperature=0.1)  # type: ignore[arg-type]
    module.start(x)
    before = module.terms({"x": x}).detach()
    after = trained(module, x=x).terms({"x": x}).detach()
    assert bool((after < before).all()) and float(after[1]) < float(after[0])


def test_widths_that_do_not_exist_are_one_line() -> None:
    for widths in ([], [0, 2], [9]):
        with pytest.raises(UserError, match="Expected widths from 1 to 8, as the rows have, got"):
            Matryoshka(8, widths)
