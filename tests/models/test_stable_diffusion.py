"""Stable Diffusion's real pipeline, tiny and at random weights, from a folder."""

import sys
from pathlib import Path

import pytest
import torch

from models import UserError
from models.stable_diffusion import StableDiffusion

pytest.importorskip("diffusers")
pytest.importorskip("transformers")


def test_an_image_of_states_is_that_of_their_text(stable_diffusion: Path) -> None:
    model = StableDiffusion(str(stable_diffusion))
    states = model.states(["cat", "a dog"])
    assert states.shape == (2, 16, 32) and not states[0].allclose(states[1])
    image = model.images(states[0], seed=3, steps=2, guidance=2.0)
    assert image.shape == (3, 16, 16) and 0 <= float(image.min()) and float(image.max()) <= 1
    own = model.pipeline("cat", num_inference_steps=2, guidance_scale=2.0, output_type="pt",
                         generator=torch.Generator().manual_seed(3)).images[0]  # fmt: skip
    assert image.allclose(own, atol=1e-5)
    assert not image.allclose(model.images(states[1], seed=3, steps=2, guidance=2.0), atol=1e-5)
    assert not image.allclose(model.images(states[0], seed=4, steps=2, guidance=2.0), atol=1e-3)


def test_a_folder_without_a_pipeline_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Expected a Stable Diffusion pipeline at .* diffusion=FOLDER"):
        StableDiffusion(str(tmp_path))


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"\[diffusion\]"):
        StableDiffusion("any")
