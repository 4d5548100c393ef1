"""The members of a committee: each reads every kind of factor, repeats by seed, and is cached."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.factors import FactorTable, ImageData
from datamodules.splits import TEST, TRAIN
from models.factor_classifier import Judge
from models.labels import Factor, factor_statistics
from training.committee_members import Convolution, Gradients, Transformer, fit_linear, linear_head
from training.factor_classifier import judge_quality, train_judge

FACTORS = (
    Factor("stripes", "binary", ("down", "across")),
    Factor("colour", "categorical", ("red", "green", "blue")),
    Factor("level", "continuous", ("dark", "light")),
)


def stripes(n: int = 360) -> ImageData:
    """16 × 16 images of stripes down or across, in one of three colours, on a ground of some level."""
    generator = torch.Generator().manual_seed(0)
    across, colour = (torch.randint(k, (n,), generator=generator) for k in (2, 3))
    level = torch.rand(n, generator=generator)
    images = (0.2 + 0.4 * level)[:, None, None, None].repeat(1, 3, 16, 16)
    lines = (torch.arange(16) // 2 % 2).float() * 0.3
    pattern = torch.where(across[:, None, None] == 1, lines[:, None].expand(16, 16), lines.expand(16, 16))
    images[torch.arange(n), colour] += pattern
    images += 0.05 * torch.rand(images.shape, generator=generator)
    values = torch.stack([across.float(), colour.float(), 10 + 20 * level], dim=1)
    split = torch.tensor([0] * (n // 2) + [1] * (n // 6) + [2] * (n - n // 2 - n // 6), dtype=torch.uint8)
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    return ImageData("stripes", pixels, [str(i) for i in range(n)], FactorTable(FACTORS, values), split, "stripes")


@pytest.fixture(scope="module")
def data() -> ImageData:
    return stripes()


def train(kind: type[Judge], data: ImageData, **options: Any) -> Judge:
    if kind is Gradients:
        return train_judge(data, epochs=1, kind=Gradients, learn=fit_linear, **options)
    width = 32 if kind is Transformer else 8
    defaults: dict[str, Any] = {"epochs": 12, "batch": 20, "width": width, "kind": kind}
    return train_judge(data, **(defaults | options))


@pytest.mark.parametrize("kind", [Convolution, Transformer, Gradients])
def test_reads_every_kind_of_factor(kind: type[Judge], data: ImageData) -> None:
    judge, rows = train(kind, data), data.rows(TEST)
    quality = judge_quality(judge, data.images[rows], data.factors[rows])
    assert quality["stripes"]["balanced_accuracy"] > 0.95, quality
    assert quality["colour"]["balanced_accuracy"] > 0.9, quality
    assert quality["level"]["balanced_accuracy"] > 0.7, quality
    images = data.images[rows][:20]
    torch.testing.assert_close(judge.read(images / 255, batch=7), judge.read(images), rtol=1e-3, atol=1e-2)
    assert judge.read(images[:0]).shape == (0, 3)


@pytest.mark.parametrize("kind", [Convolution, Transformer, Gradients])
def test_repeats_and_is_cached(kind: type[Judge], data: ImageData, tmp_path: Path) -> None:
    options = {} if kind is Gradients else {"epochs": 1}
    state = torch.get_rng_state()
    first, second = (train(kind, data, cache_dir=folder, **options) for folder in (tmp_path, None))
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    (file,) = (tmp_path / "judge").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    again = train(kind, data, cache_dir=tmp_path, **options)
    assert torch.equal(again.read(data.images[:30]), first.read(data.images[:30]))
    train(kind, data, cache_dir=tmp_path, rows=data.rows(TRAIN)[::2], **options)
    assert len(list((tmp_path / "judge").iterdir())) == 2
    assert not any(p.requires_grad for p in again.parameters())


def test_learns_from_its_rows_alone(data: ImageData) -> None:
    rows = data.rows(TRAIN)[::2]
    pixels = data.images.clone()
    pixels[data.rows(TRAIN)[1::2]] = 0
    first, second = (train(Gradients, d, rows=rows) for d in (data, replace(data, images=pixels)))
    assert torch.equal(first.head.weight, second.head.weight)


@pytest.mark.parametrize("size", [17, 28, 64, 128])
@pytest.mark.parametrize("kind", [Convolution, Transformer, Gradients])
def test_image_sizes(kind: type[Judge], size: int) -> None:
    judge = kind(FACTORS, factor_statistics(torch.rand(5, 3)), size, 32)
    read = judge.read(torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8))
    assert read.shape == (2, 3) and read.isfinite().all()


def test_a_linear_head_trusts_a_label_as_far_as_it_is_sure() -> None:
    """Labels that contradict each other: the surer ones win."""
    table = torch.tensor([[1.0], [-1.0]]).repeat(40, 1)
    labels, sure = torch.zeros(80), torch.ones(80)
    labels[:40], labels[40:] = (table[:40, 0] > 0).float(), (table[40:, 0] < 0).float()
    for half, sign in ((slice(0, 40), -1), (slice(40, 80), 1)):
        weights = sure.clone()
        weights[half] = 0.6
        assert linear_head(table, labels, FACTORS[0], weights)[0][0].sign() == sign


def test_linear_heads_of_few_labels() -> None:
    table = 5 * torch.randn(12, 4)
    unknown = torch.full((12,), torch.nan)
    for factor, count in zip(FACTORS, (1, 3, 1), strict=True):
        assert torch.stack(linear_head(table, unknown, factor)).shape == (count, 5)
    always = linear_head(table, torch.ones(12), FACTORS[0])[0]
    assert (always[:4] == 0).all() and always[4] > 0
    assert torch.stack(linear_head(table, torch.full((12,), 2.0), FACTORS[1]))[:, 4].argmax() == 2
    labels = (table[:, 0] > 0).float() * 2  # two classes of three
    lines = torch.stack(linear_head(table, labels, FACTORS[1]))
    logits = table @ lines[:, :4].T + lines[:, 4]
    assert (logits.argmax(1) == labels).float().mean() > 0.8 and (logits.argmax(1) != 1).all()
