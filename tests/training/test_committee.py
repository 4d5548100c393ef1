"""A committee of judges: its votes, its members without a say, and that a smear which fools one does not fool it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules.faces import FaceParameters, render, sample_parameters
from datamodules.factors import FactorTable, ImageData
from datamodules.splits import TEST
from evaluation.editing.counterfactual_metrics import effectiveness, mean_known
from evaluation.report.tables import disagreement
from models.factor_classifier import Judge
from models.labels import Factor
from training import committee as committees
from training.committee import Committee, train_committee, vote
from training.committee_members import Convolution, Gradients, Transformer, fit_linear
from training.factor_classifier import judge_quality, train_judge, unfit

BINARY = Factor("glasses", "binary", ("without", "with"))
CLASSES = Factor("hair", "categorical", ("a", "b", "c"))
NUMBER = Factor("age", "continuous", ("low", "high"))
NAN = torch.nan


class Says:
    """Reads what it was given, whatever the images."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def read(self, images: Tensor) -> Tensor:
        return self.values[: len(images)]


def test_votes() -> None:
    read = torch.tensor([
        [[1.0, 2, 10], [0, 0, 10], [1, 0, NAN]],
        [[1.0, 1, 20], [1, 1, 30], [0, NAN, 20]],
        [[0.0, 1, 30], [1, 2, 20], [NAN, 2, 30]],
    ])  # fmt: skip
    assert vote(read, (BINARY, CLASSES, NUMBER)).tolist() == [[1, 1, 20], [1, 0, 20], [1, 0, 25]]
    assert vote(read[:1], (BINARY, CLASSES, NUMBER))[:2].tolist() == read[0, :2].tolist()
    four = torch.tensor([1.0, 0, 0, 1])[:, None, None]
    assert [vote(values, (BINARY,)).item() for values in (four, 1 - four, four.roll(1, 0))] == [1, 0, 1]
    assert vote(torch.tensor([1.0, 0, 0, 0])[:, None, None], (BINARY,)).item() == 0
    assert vote(read[:, :0], (BINARY, CLASSES, NUMBER)).shape == (0, 3)


def test_a_member_that_cannot_tell_a_factor_has_no_say() -> None:
    labels = torch.stack([torch.arange(40) % 2, torch.arange(40) // 2 % 2], dim=1).float()
    other = replace(FactorTable((BINARY, CLASSES), labels), factors=(BINARY, BINARY._replace(name="hat")))
    coin = torch.stack([labels[:, 0], labels[:, 0]], dim=1)  # of the second factor right half of the time
    partial = labels.clone()
    partial[:, 0] = NAN
    members = {"good": Says(labels), "half": Says(coin), "partial": Says(partial)}
    committee = Committee(members, other.factors, torch.zeros(2))
    images = torch.zeros(40, 3, 4, 4)
    (note,) = committee.choose(images, other)
    assert note == (
        "The committee's member half cannot tell hat (balanced accuracy 0.50 < 0.6 on validation images): it has no "
        "say about it."
    )
    assert committee.able.tolist() == [[True, True], [True, False], [False, True]]
    read = committee.read_members(images)
    assert read.shape == (3, 40, 2) and read[1, :, 1].isnan().all() and torch.equal(committee.read(images), labels)
    qualities = committee.qualities(images, other)
    assert qualities["half"]["hat"]["balanced_accuracy"] == 0.5 and list(qualities["partial"]) == ["hat"]


def test_where_no_member_can_tell_a_factor_it_is_unfit() -> None:
    labels = FactorTable((BINARY,), (torch.arange(40) % 2).float()[:, None])
    committee = Committee({"a": Says(torch.ones(40, 1)), "b": Says(torch.ones(40, 1))}, (BINARY,), torch.zeros(1))
    images = torch.zeros(40, 3, 4, 4)
    assert len(committee.choose(images, labels)) == 2 and committee.able.all()
    assert unfit(judge_quality(committee, images, labels)) == ["glasses"]


def glasses(n: int = 700, size: int = 32) -> ImageData:
    parameters = sample_parameters(n, seed=0)
    parts = zip(parameters.factors.split(250), parameters.nuisances.split(250), strict=True)
    images = torch.cat([render(FaceParameters(*part), size=size) for part in parts])
    split = torch.tensor([0] * (n - 200) + [1] * 100 + [2] * 100, dtype=torch.uint8)
    table = FactorTable((BINARY,), parameters.factors[:, :1])
    return ImageData("faces", images, [str(i) for i in range(n)], table, split, "glasses")


@pytest.fixture(scope="module")
def faces() -> ImageData:
    return glasses()


@pytest.fixture(scope="module")
def committee(faces: ImageData) -> Committee:
    members = {
        "convolution": train_judge(faces, epochs=6, batch=50, width=8, kind=Convolution),
        "second": train_judge(faces, 1, epochs=6, batch=50, width=8),
        "gradients": train_judge(faces, epochs=1, kind=Gradients, learn=fit_linear),
    }
    return Committee(members, faces.factors.factors, torch.zeros(1))


def smeared(judge: Judge, images: Tensor, target: Tensor, most: float = 0.08) -> Tensor:
    """Images changed by at most `most` so that this judge sees the target: sign ascent of its own logit."""
    changed = images.clone()
    for _ in range(12):
        changed.requires_grad_(True)
        logits = judge.logits(changed)[0][:, 0] * (2 * target - 1)
        (slope,) = torch.autograd.grad(logits.sum(), changed)
        with torch.no_grad():
            changed = (images + (changed + 0.02 * slope.sign() - images).clamp(-most, most)).clamp(0, 1)
    return changed.detach()


def test_a_smear_that_fools_one_member_does_not_fool_the_committee(faces: ImageData, committee: Committee) -> None:
    rows = faces.rows(TEST)
    images, labels = faces.images[rows].float() / 255, faces.factors.values[rows, 0]
    before = committee.read_members(images)[..., 0]
    starts = (before == labels).all(0)
    assert starts.sum() > 60
    images, target = images[starts], 1 - labels[starts]
    assert effectiveness(before[:, starts], before[:, starts], labels[starts], target, BINARY, 0.5) == [0, 0, 0]
    fooled = committee.members["convolution"]
    assert isinstance(fooled, Judge)
    read = committee.read_members(smeared(fooled, images, target))[..., 0]
    shares = effectiveness(before[:, starts], read, labels[starts], target, BINARY, 0.5)
    first, others = shares[0], mean_known(shares[1:])
    assert first is not None and others is not None and first > 0.95 and others < 0.5, shares
    reported = mean_known(shares)
    assert reported is not None and reported < others + 1 / 3
    assert disagreement({name: share for name, share in zip(committee.names, shares, strict=True) if share is not None})
    seen = vote(read[..., None], (BINARY,))[:, 0]
    assert (seen == target).float().mean() < 0.6


def test_photographs_have_three_members_and_drawn_faces_one(
    faces: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (Convolution, Transformer):
        monkeypatch.setattr(kind, "views", 500)
    rows = faces.rows(0)[::2]
    first = train_committee(faces, rows=rows, cache_dir=tmp_path)
    assert first.names == ("convolution", "transformer", "gradients")
    assert len(list((tmp_path / "judge").iterdir())) == 3
    values = faces.factors.values
    outside = train_committee(faces, rows=rows, cache_dir=tmp_path, outside=Says(values[faces.rows(1)]))
    assert outside.names[3] == "outside" and outside.able[3].all()
    monkeypatch.setattr(committees, "train_judge", lambda data, seed, **_: Says(values))
    drawn = train_committee(replace(faces, counterfactual=lambda rows, name, values: faces.images[rows]))
    assert drawn.names == ("convolution",) and drawn.read_members(faces.images[:5]).shape == (1, 5, 1)
