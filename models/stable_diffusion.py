"""Stable Diffusion, frozen: images from the token-level states of its text encoder (package diffusers).

Rombach et al. 2022, https://arxiv.org/abs/2112.10752. Its U-Net attends to one state per token, (tokens, features), not
to the single embedding that CLIP compares with images: an interpolation between two prompts is one of such states.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from models import UserError
from models.weights import first_line

__all__ = ["StableDiffusion"]

INSTALL = "pip install -c constraints.txt -e '.[diffusion]'"


class StableDiffusion:
    """A text-to-image pipeline, in half precision on a GPU.

    Args:
        model: its folder, or a name on the hub (downloaded once, several GB).
        device: the device that it runs on.

    Raises:
        UserError: diffusers is not installed, or there is no such Stable Diffusion pipeline.
    """

    def __init__(self, model: str, device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        self.pipeline = load_pipeline(model, torch.float16 if device.type == "cuda" else torch.float32).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.device = device

    @torch.inference_mode()
    def states(self, texts: Sequence[str]) -> Float[Tensor, "texts tokens features"]:
        """Compute the text encoder's state of each token; long texts are truncated."""
        states, _ = self.pipeline.encode_prompt(list(texts), self.device, 1, False)
        return states.float().cpu()

    @torch.inference_mode()
    def images(self, states: Float[Tensor, "tokens features"], seed: int = 0, steps: int = 30, guidance: float = 7.5,
               unlike: str = "") -> Float[Tensor, "3 height width"]:  # fmt: skip
        """Generate the image of these states, in [0, 1], from noise with the given seed.

        `guidance` is the scale of classifier-free guidance (Ho and Salimans 2021) away from the text `unlike`; 1 is no
        guidance.
        """
        prompts = {"prompt_embeds": states[None], "negative_prompt_embeds": self.states([unlike])}
        prompts = {name: value.to(self.device, self.pipeline.unet.dtype) for name, value in prompts.items()}
        output = self.pipeline(
            **prompts, num_inference_steps=steps, guidance_scale=guidance, output_type="pt",
            generator=torch.Generator("cpu").manual_seed(seed),
        )  # fmt: skip
        return output.images[0].float().cpu()


def load_pipeline(name: str, dtype: torch.dtype) -> Any:
    """Load a pipeline from a folder or the hub's cache, or download it and print that.

    Raises:
        UserError: diffusers is not installed, or the pipeline cannot be loaded.
    """
    try:
        from diffusers import StableDiffusionPipeline
        from diffusers.utils import logging
    except ImportError as error:
        raise UserError(f"Expected the package diffusers for diffusion=, got none ({error}): {INSTALL}") from error
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bar()  # for loading weights and for downloads
    folder = Path(name).expanduser()
    try:
        if not folder.is_dir() and not isinstance(try_to_load_from_cache(name, "model_index.json"), str):
            print(f"diffusion: downloading {name}, some GB, to {HF_HUB_CACHE}", flush=True)
            enable_progress_bars()
        return StableDiffusionPipeline.from_pretrained(str(folder) if folder.is_dir() else name, dtype=dtype)
    except Exception as error:  # diffusers, transformers, the hub's client and the disk each raise their own types
        raise UserError(
            f"Expected a Stable Diffusion pipeline at {name}, which cannot be loaded ({first_line(error)}): give its "
            "folder, with model_index.json, as diffusion=FOLDER."
        ) from error
