"""Stable Diffusion, frozen: images from the token-level states of its text encoder (package diffusers).

Rombach et al. 2022, https://arxiv.org/abs/2112.10752. What its U-Net attends to is one state per token, (tokens,
features), not the single embedding that CLIP compares with images: a way between two prompts is one of such states.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from models import UserError
from models.encoders import first_line

__all__ = ["StableDiffusion"]

INSTALL = "pip install -c constraints.txt -e '.[diffusion]'"


class StableDiffusion:
    """A text-to-image pipeline.

    Args:
        model: its folder, or a name on the hub (downloaded once, several GB).
        device: half precision on a GPU.

    Raises:
        UserError: diffusers is not installed; no such pipeline, or one of another kind.
    """

    def __init__(self, model: str, device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        self.pipeline = load_pipeline(model, torch.float16 if device.type == "cuda" else torch.float32).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.device = device

    @torch.inference_mode()
    def states(self, texts: Sequence[str]) -> Float[Tensor, "texts tokens features"]:
        """What the text encoder says of each token; texts that are longer than it reads are cut off."""
        found, _ = self.pipeline.encode_prompt(list(texts), self.device, 1, False)
        return found.float().cpu()

    @torch.inference_mode()
    def images(self, states: Float[Tensor, "tokens features"], seed: int = 0, steps: int = 30, guidance: float = 7.5,
               unlike: str = "") -> Float[Tensor, "3 height width"]:  # fmt: skip
        """The image of these states from the noise of a seed, in [0, 1].

        guidance: of classifier-free guidance (Ho and Salimans 2021) away from the states of the text `unlike`; 1: none.
        """
        given = {"prompt_embeds": states[None], "negative_prompt_embeds": self.states([unlike])}
        given = {name: value.to(self.device, self.pipeline.unet.dtype) for name, value in given.items()}
        made = self.pipeline(
            **given, num_inference_steps=steps, guidance_scale=guidance, output_type="pt",
            generator=torch.Generator("cpu").manual_seed(seed),
        )  # fmt: skip
        return made.images[0].float().cpu()


def load_pipeline(name: str, dtype: torch.dtype) -> Any:
    """From a folder, the hub's cache or, announced, the hub."""
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
    disable_progress_bar()  # of loading weights, and of the hub's downloads
    folder = Path(name).expanduser()
    try:
        if not folder.is_dir() and not isinstance(try_to_load_from_cache(name, "model_index.json"), str):
            print(f"diffusion: downloading {name}, some GB, to {HF_HUB_CACHE}", flush=True)
            enable_progress_bars()
        return StableDiffusionPipeline.from_pretrained(str(folder) if folder.is_dir() else name, dtype=dtype)
    except Exception as error:  # diffusers, transformers, the hub's client and the disk each raise their own kind
        raise UserError(
            f"Expected a Stable Diffusion pipeline at {name}, which cannot be loaded ({first_line(error)}): give its "
            "folder, with model_index.json, as diffusion=FOLDER."
        ) from error
