import inspect
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from evaluation.clusterers import KINDS, by_centers
from models.autoencoder import Autoencoder

MODEL = OmegaConf.load(Path(__file__).parents[2] / "configs/model/dec.yaml")
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


@pytest.mark.parametrize("name", ["autoencoder", *KINDS])
def test_the_configuration_shows_every_argument_at_its_default(name: str) -> None:
    kind = KINDS.get(name, Autoencoder)
    shown = {key: value for key, value in MODEL[name].items() if not key.startswith("_")}
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(kind.__init__).parameters.items()
        if key not in GIVEN and not (name in ("dec", "idec") and key in ("hidden", "code"))  # the auto-encoder's
    }
    assert set(shown) == set(defaults)
    changed = {key for key in shown if shown[key] != (list(d) if isinstance(d := defaults[key], tuple) else d)}
    assert changed == ({"reconstruction_weight", "clustering_weight", "learning_rate"} if name == "idec" else set())
