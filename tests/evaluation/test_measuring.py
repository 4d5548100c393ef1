"""Who judges: images of people whom the reader never saw, by judges that have names."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules.factors import TRAIN
from evaluation import training
from evaluation.measuring import judge_networks, judged_rows, member_keys
from models import UserError
from tests.evaluation.colours import colour_images


def settings(weight: float, objective: str = "faithful") -> Any:
    return SimpleNamespace(
        iin=SimpleNamespace(objective=objective), guide=SimpleNamespace(reading_weight=weight), seed=0, cache_dir=None,
        trainer=SimpleNamespace(accelerator="cpu"), model=SimpleNamespace(name="iin"), get={}.get,
    )  # fmt: skip


def test_the_judges_see_nobody_whom_the_reader_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = replace(colour_images()[0], people=torch.arange(60) // 3)
    read: list[torch.Tensor] = []

    class Stopped(Exception):
        pass

    def train(*_: object, rows: torch.Tensor, **__: object) -> None:
        read.append(rows)
        raise Stopped

    monkeypatch.setattr(training, "train_judge", train)
    run: Any = SimpleNamespace(path=tmp_path, stage=lambda *_: nullcontext())
    with pytest.raises(Stopped):
        training.train_guide(settings(1.0), data, None, None, run)  # type: ignore[arg-type]
    judged = judged_rows(settings(1.0), data)
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
    config = settings(0.0)
    assert judge_networks(config, torch.device("cpu")) == {}
    config.get = {"judge_model": "nothing.pt"}.get
    with pytest.raises(UserError, match="a judge model .* got no file at nothing.pt"):
        judge_networks(config, torch.device("cpu"))
