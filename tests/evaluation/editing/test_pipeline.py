"""Who judges: images of people whom the reader never saw, by judges that have names."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from datamodules.features import Latents
from datamodules.splits import TEST, TRAIN, VALIDATION
from evaluation.editing import pipeline as measuring
from evaluation.editing.pipeline import identity_model, judge_networks, judged_rows, measure_iin, member_keys
from evaluation.run import load
from models import UserError
from models.iin import IIN
from tests.evaluation.colours import colour_images
from tests.evaluation.linear_world import RotatedPixels
from training import iin as training
from training.committee_members import Convolution, Transformer
from training.run_folder import Run


def flat_iin(objective: Any = "faithful") -> IIN:
    return IIN(4, [("hat", "binary", ["without", "with"])], objective=objective, blocks=1, width=4)


class Enough(Exception):
    """Nothing that follows is of interest."""


class Truth:
    """Reads the labels of as many images as there are of validation; of the others those of test images."""

    def __init__(self, validation: torch.Tensor, test: torch.Tensor) -> None:
        self.validation, self.test = validation, test

    def read(self, images: torch.Tensor) -> torch.Tensor:
        return (self.validation if len(images) == len(self.validation) else self.test)[: len(images)]


def settings(weight: float, objective: str = "faithful", **others: Any) -> Any:
    chosen = {"iin": {"objective": objective}, "guide": {"reading_weight": weight}, "model": {"name": "iin"}}
    return OmegaConf.create(
        {**chosen, "seed": 0, "cache_dir": None, "trainer": {"accelerator": "cpu", "scale": 1.0}, **others}
    )


def test_the_judges_see_nobody_whom_the_reader_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = replace(colour_images()[0], people=torch.arange(60) // 3)
    read: list[torch.Tensor] = []

    def train(*_: object, rows: torch.Tensor, **__: object) -> None:
        read.append(rows)
        raise Enough

    monkeypatch.setattr(training, "train_judge", train)
    encoder, config = RotatedPixels(), settings(1.0)
    latents = Latents(torch.zeros(60, 4), torch.zeros(60, 4))
    with pytest.raises(Enough):
        training.train_guide(config, data, latents, encoder, Run(tmp_path, config))
    judged = judged_rows(config, data, flat_iin())
    assert data.people is not None and not set(data.people[read[0]].tolist()) & set(data.people[judged].tolist())
    assert torch.equal(torch.cat([read[0], judged]).sort().values, data.rows(TRAIN))


def test_without_a_reader_the_judges_see_all_training_images() -> None:
    data = colour_images()[0]
    assert torch.equal(judged_rows(settings(0.0), data, flat_iin()), data.rows(TRAIN))
    assert torch.equal(judged_rows(settings(1.0), data, flat_iin("likelihood")), data.rows(TRAIN))
    assert 0 < len(judged_rows(settings(1.0), data, flat_iin())) < len(data.rows(TRAIN))  # by image: nobody is known


def test_a_diffusion_flow_has_a_reader_whose_people_the_judges_do_not_see() -> None:
    data = replace(colour_images()[0], people=torch.arange(60) // 3)
    assert data.people is not None
    iin = IIN(64, [("hat", "binary", ["without", "with"])], shape=(4, 4, 4), diffusion={"width": 8})
    judged, read = judged_rows(settings(0.0), data, iin), data.rows(TRAIN)[training.reader_rows(data)]
    assert len(judged) and len(read) and not set(data.people[read].tolist()) & set(data.people[judged].tolist())


def test_each_member_has_its_keys() -> None:
    qualities = {"gradients": {"hat": {"accuracy": 0.9}}, "outside": {"hat": {"accuracy": 0.8}}}
    assert member_keys(qualities) == {"judge/hat/gradients/accuracy": 0.9, "judge/hat/outside/accuracy": 0.8}


def test_the_judge_model_is_read_first() -> None:
    device = torch.device("cpu")
    assert judge_networks(settings(0.0), device) == {} == judge_networks(settings(0.0, judge_model=None), device)
    for given in ("nothing.pt", {"warm": "nothing.pt"}):
        with pytest.raises(UserError, match="a judge model .* got no file at nothing.pt"):
            judge_networks(settings(0.0, judge_model=given), device)


@pytest.mark.parametrize(
    ("embed", "message"),
    [
        (lambda images: torch.ones(1, 8), r"return an embedding for each image, got shape \(1, 8\) for one image and"),
        (lambda images: images.mean((1, 2, 3)), r"return an embedding for each image, got shape \(1,\) for one"),
        (lambda images: images.flatten(1) * torch.nan, "tell three images apart, got numbers that are not finite"),
        (lambda images: torch.ones(len(images), 8), "tell three images apart, got the same one for all"),
        (lambda images: images[:, :, 999], "embed RGB images, got index 999 is out of bounds"),
    ],
)
def test_an_identity_model_is_tried_before_training(embed: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "load_identity", lambda name, device: embed)
    with pytest.raises(UserError, match=f"^Expected identity_model=face.pt to {message}") as error:
        identity_model(settings(0.0, identity_model="face.pt"), torch.device("cpu"))
    assert "\n" not in str(error.value)


def test_photographs_are_judged_by_a_committee(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faces that cannot be redrawn take the way of photographs, each member with its own accuracy."""
    for kind in (Convolution, Transformer):
        monkeypatch.setattr(kind, "views", 160)
    loaded = load(run_copy)
    data = replace(loaded.data, counterfactual=None)
    latents = Latents(*loaded.encoder.encode(data.images))
    run, config = Run(run_copy, loaded.config), settings(1.0, measured_images=7, compose="blend")
    truth = Truth(data.factors.values[data.rows(VALIDATION)], data.factors.values[data.rows(TEST)])
    measure_iin(config, data, loaded.encoder, latents, loaded.iin, run, outside=truth)
    members = ("convolution", "transformer", "gradients", "outside")
    assert all(f"judge/hat/{name}/balanced_accuracy" in run.metrics for name in members)
    assert run.metrics["judge/hat/outside/accuracy"] == 1
    assert 0 <= run.metrics["judge/hat/balanced_accuracy"] <= 1
