"""Frozen encoders from elsewhere, behind the same interface as the project's own VAE."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from models import UserError

__all__ = ["SDVAE", "weights_sha256"]

SDVAE_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
SDVAE_WANTED = f"{' and '.join(SDVAE_FILES)} of an AutoencoderKL"


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes, whatever the order, the device and the file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


class SDVAE(nn.Module):
    """The autoencoder of latent diffusion models (diffusers' `AutoencoderKL`), frozen.

    Latents are in the scaled space those models work in, (z - shift) * scale, flat. Everything runs in float32, also
    under autocast: latents are cached, and half precision overflows in some of these decoders.

    Args:
        size: image side, a multiple of the autoencoder's downsampling factor (8 for Stable Diffusion's).
        weights: a folder that `AutoencoderKL.save_pretrained` wrote, or a repository's name on the Hugging Face hub.
        subfolder: where the autoencoder lies in there, often "vae".
    """

    vae: Any  # diffusers' AutoencoderKL, whose types mypy cannot see through nn.Module
    shift: Tensor
    scale: Tensor

    def __init__(self, size: int, weights: str = "stabilityai/sd-vae-ft-mse", subfolder: str = "") -> None:
        super().__init__()
        self.vae = load_autoencoder(weights, subfolder)
        config = {key: value for key, value in self.vae.config.items() if not key.startswith("_")}
        factor = 2 ** (len(config["block_out_channels"]) - 1)
        if size < factor or size % factor:
            near = max(factor, round(size / factor) * factor)
            raise UserError(
                f"encoder=sd_vae with {weights} reads image sizes that are multiples of {factor}, got {size}: "
                f"set the data's size to {near}, for instance."
            )
        self.size = size
        self.latent_shape: tuple[int, ...] = (config["latent_channels"], size // factor, size // factor)

        shift = config.get("latents_mean") or [config.get("shift_factor") or 0.0]
        deviation = config.get("latents_std") or [1.0]
        scale = config["scaling_factor"] / torch.tensor(deviation)
        self.register_buffer("shift", torch.tensor(shift).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("scale", scale.reshape(1, -1, 1, 1), persistent=False)

        self.identity: dict[str, str | int | float | bool] = {
            "name": "sd_vae",
            "sha256": weights_sha256(self.vae.state_dict()),
            "architecture": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
            "size": size,
            "preprocessing": "RGB / 127.5 - 1",
            "scaling_factor": float(config["scaling_factor"]),
            "shift_factor": float(config.get("shift_factor") or 0.0),
        }
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "SDVAE":
        """Stays in evaluation mode: it is frozen."""
        return super().train(False)

    @torch.no_grad()
    def encode(
        self, images: UInt8[Tensor, "batch 3 size size"]
    ) -> tuple[Float[Tensor, "batch latents"], Float[Tensor, "batch latents"]]:
        """Mean and log-variance of the posterior, in the scaled space."""
        with torch.autocast(images.device.type, enabled=False):
            posterior = self.vae.encode(images.float() / 127.5 - 1).latent_dist
        mean = (posterior.mean - self.shift) * self.scale
        logvar = posterior.logvar + 2 * self.scale.log()
        return mean.flatten(1), logvar.flatten(1)

    def decode(self, latents: Float[Tensor, "batch latents"]) -> Float[Tensor, "batch 3 size size"]:
        """Images in [0, 1], differentiable in the latents."""
        z = latents.float().unflatten(1, self.latent_shape) / self.scale + self.shift
        with torch.autocast(latents.device.type, enabled=False):
            images = self.vae.decode(z).sample
        return (images / 2 + 0.5).clamp(0, 1)


def load_autoencoder(weights: str, subfolder: str = "") -> nn.Module:
    """The AutoencoderKL from a folder, the hub's cache or, announced, the hub."""
    try:
        from diffusers import AutoencoderKL
        from diffusers.utils import logging
    except ImportError as error:
        raise UserError(
            f"encoder=sd_vae needs diffusers, which cannot be imported ({error}): pip install -e '.[diffusion]'"
        ) from error
    logging.set_verbosity_error()  # what it would print about missing tensors is an error below

    folder = find_folder(weights, subfolder)
    absent = [file for file in SDVAE_FILES if not (folder / file).is_file()]
    if absent:
        raise UserError(f"{folder} holds no {absent[0]}: put {SDVAE_WANTED} there, or name its subfolder.")
    try:
        vae, report = AutoencoderKL.from_pretrained(
            folder,
            torch_dtype=torch.float32,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # diffusers, safetensors and json each raise their own kind for a broken file
        raise UserError(
            f"The autoencoder in {folder} cannot be read ({first_line(error)}): put {SDVAE_WANTED} there."
        ) from error
    if report["missing_keys"]:  # diffusers leaves these at random
        raise UserError(
            f"{folder / SDVAE_FILES[1]} lacks {len(report['missing_keys'])} of the autoencoder's tensors, "
            f"{sorted(report['missing_keys'])[0]} first: put {SDVAE_WANTED} there."
        )
    return vae


def find_folder(weights: str, subfolder: str) -> Path:
    """The folder of the autoencoder's two files on this machine."""
    folder = Path(weights).expanduser()
    if folder.is_dir():
        return folder / subfolder
    if weights.startswith((".", "~", "/")) or weights.count("/") != 1:
        raise UserError(
            f"encoder.weights={weights} is no folder: put {SDVAE_WANTED} there, or give a hub name like owner/name."
        )

    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import LocalEntryNotFoundError

    names = [f"{subfolder}/{file}" if subfolder else file for file in SDVAE_FILES]
    try:
        cached = Path(snapshot_download(weights, allow_patterns=names, local_files_only=True))
        if all((cached / name).is_file() for name in names):
            return cached / subfolder
    except (LocalEntryNotFoundError, ValueError):  # not cached, or no valid name, which the next lines report
        pass
    try:
        files: Any = HfApi().model_info(weights, files_metadata=True).siblings
        size = sum(file.size or 0 for file in files if file.rfilename in names)
        print(f"encoder=sd_vae: downloading {weights} ({size / 1e6:.0f} MB) to {HF_HUB_CACHE}", flush=True)
        return Path(snapshot_download(weights, allow_patterns=names)) / subfolder
    except Exception as error:  # the hub's client, its transport and the disk each raise their own kind
        raise UserError(
            f"{weights} is neither a folder nor in the hub's cache, and its download failed ({first_line(error)}): "
            f"put {SDVAE_WANTED} into a folder and pass encoder.weights=FOLDER."
        ) from error


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
