import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf

from training.clusterers import ClustererFits, by_centers, methods
from training.run_folder import Run, Stage

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # the stages share it
MODEL: Any = OmegaConf.load(Path(__file__).parents[2] / "configs/model/dec.yaml")
GIVEN = {"self", "features", "clusters"}  # by the data and by k


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_nearest_centre_wherever_the_origin_is(offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(3, 64, generator=generator) + offset
    labels = torch.arange(300) % 3
    clusters, certainty = by_centers(centers[labels] + 0.3 * torch.randn(300, 64, generator=generator), centers)
    assert (clusters == labels).all() and (certainty > 0).all() and (certainty < 1).all()


def test_certainty_by_hand() -> None:
    centers = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    clusters, certainty = by_centers(torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), centers)
    assert clusters[:2].tolist() == [0, 0]
    assert certainty.tolist() == pytest.approx([1, 2 / 3, 0], abs=1e-6)


@pytest.mark.parametrize("name", ["autoencoder", "dec", "idec", "turtle", "temi"])
def test_the_configuration_shows_every_argument_at_its_default(name: str) -> None:
    kind = get_object(MODEL[name]._target_)
    shown = {key: value for key, value in MODEL[name].items() if not key.startswith("_")}
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(kind.__init__).parameters.items()
        if key not in GIVEN
        and not (name in ("dec", "idec") and key in ("hidden", "code", "interval"))  # the auto-encoder's
    }
    assert set(shown) == set(defaults)
    changed = {key for key in shown if shown[key] != (list(d) if isinstance(d := defaults[key], tuple) else d)}
    assert changed == ({"reconstruction_weight", "clustering_weight", "learning_rate"} if name == "idec" else set())


def test_the_methods_are_what_the_configuration_builds() -> None:
    assert methods(MODEL) == ["kmeans", "autoencoder", "dec", "idec", "turtle", "temi"]
    more = OmegaConf.merge(MODEL, {"own": {"_target_": "models.turtle.TURTLE"}, "none": {"_target_": "pathlib.Path"}})
    assert methods(more)[-1] == "own"


class Watched(Run):
    """Which stages ran, and inside of which others."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ran: list[str] = []

    @contextmanager
    def stage(self, name: str, items: int | None = None) -> Iterator[Stage]:
        place = len(self.ran)
        self.ran.append(f"{name} begins")
        with super().stage(name, items) as stage:
            yield stage
        self.ran[place:] = [name, *(f"{inner} in {name}" for inner in self.ran[place + 1 :])]


def test_layers_are_stages_of_their_own_before_the_autoencoder_and_trained_once(tmp_path: Path) -> None:
    settings = {"epochs": 10, "steps": 10, "layer_epochs": 10, "batch_size": 32}
    trainer = {"accelerator": "cpu", "devices": 1, "scale": 1.0, "bf16": False, "autoencoder": settings}
    small = {**MODEL.autoencoder, "hidden": [8], "code": 2}
    config = OmegaConf.create({"seed": 0, "model": {"name": "dec"}, "autoencoder": small, "trainer": trainer})
    values, codes = torch.randn(32, 6), []
    for stages in (["layer_1", "layer_2", "autoencoder"], []):
        run = Watched(tmp_path, config)
        codes.append(ClustererFits(config, values, torch.arange(32), 2, 0, run, torch.device("cpu")).codes)
        assert run.ran == stages
        (tmp_path / "checkpoints/layer_1.ckpt").unlink(missing_ok=True)  # which the finished whole does not need
    assert torch.equal(*codes)
