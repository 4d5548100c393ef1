"""The judge: learns from images only, repeats by seed, is cached, and reads in the table's units."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.faces import FACTORS as FACE_FACTORS
from datamodules.faces import FaceParameters, render, sample_parameters
from datamodules.factors import FactorTable, ImageData
from datamodules.splits import TEST, TRAIN
from models import UserError
from models.factor_classifier import Judge, augment, class_weights, factor_loss
from models.labels import Factor, factor_statistics
from training import factor_classifier as judging
from training.factor_classifier import judge_quality, train_judge, unfit

FACTORS = (
    Factor("bright", "binary", ("no", "yes")),
    Factor("colour", "categorical", ("red", "green", "blue")),
    Factor("level", "continuous", ("low", "high")),
)


def patches(n: int = 400) -> ImageData:
    """16 × 16 images: the upper half bright or dark, the lower in one of three colours at a level in 10 … 30."""
    generator = torch.Generator().manual_seed(0)
    bright, colour = (torch.randint(k, (n,), generator=generator) for k in (2, 3))
    level = torch.rand(n, generator=generator)
    images = torch.zeros(n, 3, 16, 16)
    images[:, :, :8] = (0.3 + 0.4 * bright)[:, None, None, None]
    images[torch.arange(n), colour, 8:] = (0.2 + 0.8 * level)[:, None, None]
    images = (images + 0.05 * torch.rand(images.shape, generator=generator)).clamp(0, 1)
    values = torch.stack([bright.float(), colour.float(), 10 + 20 * level], dim=1)
    split = torch.zeros(n, dtype=torch.uint8)
    split[n // 2 :] = 2
    split[n // 2 : n // 2 + n // 10] = 1
    pixels = (images * 255).round().to(torch.uint8)
    return ImageData("patches", pixels, [str(i) for i in range(n)], FactorTable(FACTORS, values), split, "patches")


@pytest.fixture(scope="module")
def data() -> ImageData:
    return patches()


def quickly(data: ImageData, **options: object) -> Judge:
    defaults: dict[str, object] = {"epochs": 10, "batch": 20, "width": 8}
    return train_judge(data, **(defaults | options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def judge(data: ImageData) -> Judge:
    return quickly(data)


def weights(judge: Judge) -> Tensor:
    return torch.cat([tensor.flatten().float() for tensor in judge.state_dict().values()])


def test_reads_every_kind_of_factor(data: ImageData, judge: Judge) -> None:
    rows = data.rows(TEST)
    read, labels = judge.read(data.images[rows]), data.factors.values[rows]
    assert (read[:, 0] == labels[:, 0]).float().mean() > 0.97
    assert (read[:, 1] == labels[:, 1]).float().mean() > 0.97
    assert (read[:, 2] - labels[:, 2]).abs().mean() < 2  # of 20
    quality = judge_quality(judge, data.images[rows], data.factors[rows])
    assert quality["level"]["r2"] > 0.9 and quality["colour"]["balanced_accuracy"] > 0.97
    assert unfit(quality) == []


def test_reads_the_same_from_floats_in_any_batches(data: ImageData, judge: Judge) -> None:
    images = data.images[:50]
    read = judge.read(images)
    torch.testing.assert_close(judge.read(images / 255, batch=7), read, rtol=1e-4, atol=1e-3)
    assert judge.read(images[:0]).shape == (0, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(judge.read(images), read)


def test_drawn_faces() -> None:
    n = 1500
    parameters = sample_parameters(n, seed=0)
    parts = zip(parameters.factors.split(250), parameters.nuisances.split(250), strict=True)
    images = torch.cat([render(FaceParameters(*part), size=32) for part in parts])
    split = torch.tensor([0] * 1200 + [1] * 100 + [2] * 200, dtype=torch.uint8)
    table = FactorTable(FACE_FACTORS, parameters.factors)
    data = ImageData("faces", images, [str(i) for i in range(n)], table, split, "faces")
    judge = train_judge(data, epochs=5, batch=60, width=16)
    rows = data.rows(TEST)
    quality = judge_quality(judge, data.images[rows], data.factors[rows])
    # A person sees glasses, hat and beard at 32 pixels, too; the others need more pixels or more faces.
    assert all(quality[name]["balanced_accuracy"] > 0.95 for name in ("glasses", "hat", "beard")), quality
    assert unfit(quality) == [], quality


def test_a_seed_repeats_and_random_state_is_left_alone(data: ImageData) -> None:
    state = torch.get_rng_state()
    first = quickly(data, epochs=2)
    torch.rand(3)
    second, other = quickly(data, epochs=2), quickly(data, epochs=2, seed=1)
    assert torch.equal(weights(first), weights(second)) and not torch.equal(weights(first), weights(other))
    torch.set_rng_state(state)
    quickly(data, epochs=1)
    assert torch.equal(torch.get_rng_state(), state) and np.random.rand() == np.random.RandomState(0).rand()


def test_test_labels_are_never_seen(data: ImageData) -> None:
    changed = data.factors.values.clone()
    changed[data.rows(TEST)] = torch.nan
    without = replace(data, factors=FactorTable(FACTORS, changed))
    assert torch.equal(weights(quickly(data, epochs=1)), weights(quickly(without, epochs=1)))


def test_learns_from_the_labels_there_are(data: ImageData) -> None:
    values = data.factors.values.clone()
    values[data.rows(TRAIN)[::2], 0] = torch.nan
    values[data.rows(TRAIN)[1::3], 1] = torch.nan
    judge = quickly(replace(data, factors=FactorTable(FACTORS, values)), epochs=20)
    rows = data.rows(TEST)
    quality = judge_quality(judge, data.images[rows], data.factors[rows])
    assert quality["bright"]["balanced_accuracy"] > 0.95 and quality["colour"]["balanced_accuracy"] > 0.95


def test_loss_masks_missing_labels() -> None:
    weights = torch.tensor([1.0, 2.0, 1.0])
    for factor, outputs, labels in (
        (FACTORS[0], torch.tensor([[0.3], [-1.0], [2.0]]), torch.tensor([1.0, torch.nan, 0.0])),
        (FACTORS[1], torch.randn(3, 3), torch.tensor([2.0, torch.nan, 1.0])),
        (FACTORS[2], torch.tensor([[0.3], [-1.0], [2.0]]), torch.tensor([1.0, torch.nan, 0.0])),
    ):
        kept = [0, 2]
        whole = factor_loss(outputs, labels, factor, weights)
        assert whole > 0 and torch.equal(whole, factor_loss(outputs[kept], labels[kept], factor, weights))
        assert factor_loss(outputs, torch.full((3,), torch.nan), factor, weights) == 0
    squares = factor_loss(torch.tensor([[0.3], [9.0], [2.0]]), torch.tensor([1.0, torch.nan, 0.0]), FACTORS[2], weights)
    assert squares == pytest.approx((0.7**2 + 2**2) / 4)


def test_class_weights() -> None:
    labels = torch.tensor([0.0, 0, 0, 1, torch.nan])
    torch.testing.assert_close(class_weights(labels, 2), torch.tensor([4 / 6, 2.0]))
    torch.testing.assert_close(class_weights(torch.tensor([0.0, 1, 1, 0]), 2), torch.ones(2))
    rare = class_weights(torch.cat([torch.zeros(1000), torch.ones(1)]), 2)
    assert rare[1] == 10


def test_augmentation() -> None:
    """A constant image stays; a marked one is moved by at most two pixels, blurred, and mirrored half of the time."""
    generator = torch.Generator().manual_seed(0)
    assert torch.allclose(augment(torch.full((4, 3, 16, 16), 0.5), generator), torch.tensor(0.5))
    images = torch.zeros(200, 3, 16, 16)
    images[:, :, 8, 3] = 1
    changed = augment(images, generator)
    assert changed.shape == images.shape
    torch.testing.assert_close(changed.sum(dim=(2, 3)), torch.ones(200, 3))
    column = changed[:, 0].sum(1).argmax(1)
    mirrored = column > 8
    assert (
        70 < mirrored.sum() < 130
        and column[~mirrored].unique().numel() == 1
        and abs(int(column[~mirrored][0]) - 3) <= 2
    )
    peaks = changed.amax(dim=(1, 2, 3))
    assert peaks.max() > 0.95 and peaks.min() < 0.3
    assert not (augment(images, generator, flip=False)[:, 0].sum(1).argmax(1) > 8).any()


def test_training_says_how_far_it_is(data: ImageData, capsys: pytest.CaptureFixture[str]) -> None:
    quickly(data, epochs=20)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[0].startswith("Training the classifier on images: 400 of 4000, ")
    assert lines[-1].startswith("Training the classifier on images: 4000 of 4000, ")


def test_the_best_epoch_is_kept(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    scores = iter([0.5, 0.9, 0.9, 0.2])

    def score(judge: Judge, data: ImageData, rows: Tensor) -> float:
        seen.append(weights(judge))
        return next(scores)

    monkeypatch.setattr(judging, "validation_score", score)
    kept = weights(quickly(data, epochs=4))
    assert torch.equal(kept, seen[2]) and not torch.equal(seen[2], seen[3])


def test_a_factor_that_cannot_be_judged_is_flagged(data: ImageData, judge: Judge) -> None:
    rows = data.rows(TEST)
    shuffled = data.factors.values[rows].clone()
    shuffled[:, 0] = shuffled[torch.randperm(len(rows)), 0]
    assert unfit(judge_quality(judge, data.images[rows], FactorTable(FACTORS, shuffled))) == ["bright"]


def test_the_cache(data: ImageData, judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = quickly(data, epochs=1, cache_dir=tmp_path)
    (file,) = (tmp_path / "judge").iterdir()
    content = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(judging, "with_progress", lambda *arguments: pytest.fail("trained although it is cached"))
        again = quickly(data, epochs=1, cache_dir=tmp_path)
    assert torch.equal(again.read(data.images[:40]), first.read(data.images[:40]))
    assert not again.training and not any(p.requires_grad for p in again.parameters())

    for damaged in (content[: len(content) // 2], content[:-9] + b"\x01" + content[-8:], b""):
        file.write_bytes(damaged)
        assert torch.equal(weights(quickly(data, epochs=1, cache_dir=tmp_path)), weights(first))
        assert file.read_bytes() == content

    for other in ({"seed": 1}, {"width": 4}, {"flip": False}):
        quickly(data, **({"epochs": 1, "cache_dir": tmp_path} | other))
    quickly(replace(data, fingerprint="other"), epochs=1, cache_dir=tmp_path)
    assert len(list((tmp_path / "judge").iterdir())) == 5


def test_a_cache_folder_that_cannot_be_written(data: ImageData, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="cache folder"):
        quickly(data, epochs=1, cache_dir=tmp_path / "file")


@pytest.mark.parametrize("size", [16, 28, 64, 96, 128])
def test_image_sizes(size: int) -> None:
    judge = Judge(FACTORS, factor_statistics(torch.rand(5, 3)), size, width=4)
    read = judge.read(torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8))
    assert read.shape == (2, 3) and read.isfinite().all()
    assert judge.read(torch.rand(0, 3, size, size)).shape == (0, 3)


def test_a_handful_of_images(data: ImageData) -> None:
    few = ImageData(
        "few", data.images[:3], data.ids[:3], data.factors[:3], torch.tensor([0, 0, 2], dtype=torch.uint8), ""
    )
    for epochs in (1, 2):
        assert quickly(few, epochs=epochs, batch=1).read(few.images).isfinite().all()


def test_a_label_counts_as_it_is_sure() -> None:
    output, labels = torch.tensor([[2.0], [-1.0], [3.0]]), torch.tensor([1.0, 1.0, float("nan")])
    even = torch.ones(2)
    each = torch.nn.functional.softplus(-output[:2, 0])
    found = factor_loss(output, labels, FACTORS[0], even, torch.tensor([1.0, 0.6, 0.9]))
    torch.testing.assert_close(found, (each[0] + 0.6 * each[1]) / 2)
    torch.testing.assert_close(factor_loss(output, labels, FACTORS[0], even), each.mean())


def test_confidence_changes_the_judge_and_its_cache(data: ImageData, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    confidence = 0.6 + 0.4 * torch.rand(data.factors.values.shape, generator=generator)
    unsure = replace(data, factors=replace(data.factors, confidence=confidence))
    judges = [quickly(d, epochs=1, cache_dir=tmp_path) for d in (data, unsure)]
    assert len(list((tmp_path / "judge").iterdir())) == 2
    assert not torch.equal(*map(weights, judges))


def test_a_short_run_trains_its_judge_for_an_epoch_at_least(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []
    monkeypatch.setattr(judging, "fit", lambda judge, data, rows, generator, count, *_, **__: epochs.append(count))
    for scale in (1.0, 0.5, 0.001, 4.0):
        train_judge(data, width=8, scale=scale)
    assert epochs == [60, 30, 1, 60]


def test_no_epoch_is_no_default(data: ImageData) -> None:
    with pytest.raises(ValueError, match="Expected epochs to be at least 1, got 0"):
        train_judge(data, epochs=0)
