"""Stable Diffusion's real pipeline, tiny and at random weights, from a folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from models import UserError
from models.diffusion import StableDiffusion

pytest.importorskip("diffusers")
pytest.importorskip("transformers")


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("diffusion")
    letters = [chr(i) for i in range(ord("a"), ord("z") + 1)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    blocks = {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "block_out_channels": (8, 16),
              "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}  # fmt: skip
    tiny: Any = StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4),
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16),
        unet=UNet2DConditionModel(16, 4, 4, cross_attention_dim=32, norm_num_groups=4, attention_head_dim=4,
                                  layers_per_block=1, **blocks),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    tiny.save_pretrained(folder / "tiny")
    return folder / "tiny"


def test_an_image_of_states_is_that_of_their_text(pipeline: Path) -> None:
    model = StableDiffusion(str(pipeline))
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
