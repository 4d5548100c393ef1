"""Who judges: images of people whom the reader never saw, by judges that have names."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from datamodules.factors import TRAIN
from datamodules.features import Latents
from evaluation import training
from evaluation.measuring import judge_networks, judged_rows, member_keys
from evaluation.record import Run
from models import UserError
from tests.evaluation.colours import colour_images
from tests.evaluation.linear_world import RotatedPixels


class Enough(Exception):
    """Nothing that follows is of interest."""


def settings(weight: float, objective: str = "faithful", **others: Any) -> Any:
    chosen = {"iin": {"objective": objective}, "guide": {"reading_weight": weight}, "model": {"name": "iin"}}
    return OmegaConf.create({**chosen, "seed": 0, "cache_dir": None, "trainer": {"accelerator": "cpu"}, **others})


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
    judged = judged_rows(config, data)
    assert data.people is not None and not set(data.people[read[0]].tolist()) & set(data.people[judged].tolist())
    assert torch.equal(torch.cat([read[0], judged]).sort().values, data.rows(TRAIN))


def test_without_a_reader_the_judges_see_all_training_images() -> None:
    data = colour_images()[0]
    for config in (settings(0.0), settings(1.0, "likelihood")):
        assert torch.equal(judged_rows(config, data), data.rows(TRAIN))
    assert 0 < len(judged_rows(settings(1.0), data)) < len(data.rows(TRAIN))  # by image where nobody is known


def test_each_member_has_its_keys() -> None:
    qualities = {"gradients": {"hat": {"accuracy": 0.9}}, "outside": {"hat": {"accuracy": 0.8}}}
    assert member_keys(qualities) == {"judge/hat/gradients/accuracy": 0.9, "judge/hat/outside/accuracy": 0.8}


def test_the_judge_model_is_read_first() -> None:
    device = torch.device("cpu")
    assert judge_networks(settings(0.0), device) == {} == judge_networks(settings(0.0, judge_model=None), device)
    for given in ("nothing.pt", {"warm": "nothing.pt"}):
        with pytest.raises(UserError, match="a judge model .* got no file at nothing.pt"):
            judge_networks(settings(0.0, judge_model=given), device)
