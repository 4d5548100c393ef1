"""Pretrained auto-encoders of diffusers as frozen encoders, with the same interface as the project's own VAE."""

import hashlib
import importlib.util
import json
import threading
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from models import UserError
from models.precision import half_precision
from models.weights import first_line, weights_sha256

__all__ = ["SDVAE", "TinyAutoencoder", "missing_weights"]

FILES = ("config.json", "diffusion_pytorch_model.safetensors")
PATIENCE = 5.0  # seconds to wait for the hub if the weights are only a default


class Kind(NamedTuple):
    """A kind of auto-encoder: the option that chooses it, and its class in diffusers."""

    choice: str
    architecture: str

    @property
    def required_files(self) -> str:
        return f"{' and '.join(FILES)} of an {self.architecture}"


SD_VAE, TAESD = Kind("encoder=sd_vae", "AutoencoderKL"), Kind("encoder=taesd", "AutoencoderTiny")


class Pretrained(nn.Module):
    """A frozen auto-encoder of diffusers for images of one size.

    Raises:
        UserError: the weights are missing, or the size is not a multiple of the auto-encoder's factor.
    """

    vae: Any  # a module of diffusers, whose attributes mypy cannot see through nn.Module

    def __init__(self, kind: Kind, blocks: str, size: int, weights: str, subfolder: str) -> None:
        super().__init__()
        self.vae = load_autoencoder(kind, weights, subfolder)
        self.config = {key: value for key, value in self.vae.config.items() if not key.startswith("_")}
        factor = 2 ** (len(self.config[blocks]) - 1)
        if size < factor or size % factor:
            near = max(factor, round(size / factor) * factor)
            raise UserError(
                f"{kind.choice} with {weights} reads image sizes that are multiples of {factor}, got {size}: "
                f"set the data's size to {near}, for instance."
            )
        self.size = size
        self.latent_shape: tuple[int, ...] = (self.config["latent_channels"], size // factor, size // factor)
        self.identity: dict[str, str | int | float | bool] = {
            "sha256": weights_sha256(self.vae.state_dict()),
            "architecture": hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest(),
            "size": size,
            "preprocessing": "RGB / 127.5 - 1",
        }
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Pretrained":
        """Keep the network in evaluation mode, because it is frozen."""
        return super().train(False)


class SDVAE(Pretrained):
    """The auto-encoder of latent diffusion models (diffusers' `AutoencoderKL`), frozen.

    Latents are in the scaled space of those models, (z - shift) * scale, and flattened. Everything runs in float32,
    also under autocast: latents are cached, and half precision overflows in some of these decoders.

    Args:
        size: side of the images, a multiple of the auto-encoder's downsampling factor (8 for Stable Diffusion's).
        weights: a folder that `AutoencoderKL.save_pretrained` wrote, or a repository's name on the Hugging Face hub.
        subfolder: the auto-encoder's folder in there, often "vae".
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, size: int, weights: str = "stabilityai/sd-vae-ft-mse", subfolder: str = "") -> None:
        super().__init__(SD_VAE, "block_out_channels", size, weights, subfolder)
        config = self.config
        shift = config.get("latents_mean") or [config.get("shift_factor") or 0.0]
        deviation = config.get("latents_std") or [1.0]
        scale = config["scaling_factor"] / torch.tensor(deviation)
        self.register_buffer("shift", torch.tensor(shift).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("scale", scale.reshape(1, -1, 1, 1), persistent=False)

        self.identity |= {
            "name": "sd_vae",
            "scaling_factor": float(config["scaling_factor"]),
            "shift_factor": float(config.get("shift_factor") or 0.0),
        }

    @torch.no_grad()
    def encode(
        self, images: UInt8[Tensor, "batch 3 size size"]
    ) -> tuple[Float[Tensor, "batch latents"], Float[Tensor, "batch latents"]]:
        """Return mean and log-variance of the posterior, in the scaled space."""
        with torch.autocast(images.device.type, enabled=False):
            posterior = self.vae.encode(images.float() / 127.5 - 1).latent_dist
        mean = (posterior.mean - self.shift) * self.scale
        logvar = posterior.logvar + 2 * self.scale.log()
        return mean.flatten(1), logvar.flatten(1)

    def decode(self, latents: Float[Tensor, "batch latents"]) -> Float[Tensor, "batch 3 size size"]:
        """Decode to images in [0, 1], differentiably."""
        z = latents.float().unflatten(1, self.latent_shape) / self.scale + self.shift
        with torch.autocast(latents.device.type, enabled=False):
            images = self.vae.decode(z).sample
        return (images / 2 + 0.5).clamp(0, 1)


class TinyAutoencoder(Pretrained):
    """A tiny auto-encoder of latent diffusion (TAESD, Ollin Boer Bohan; diffusers' `AutoencoderTiny`), frozen.

    Its latents are spatial, (channels, size / 8, size / 8), flattened, with standard deviations of about .7. Images are
    encoded in float32, because latents are cached, and decoded in bfloat16 where that is faster: on photographs the two
    precisions differ by .001 of an image's range, a thirtieth of the reconstruction error.

    Args:
        size: side of the images, a multiple of the auto-encoder's downsampling factor (8 for TAESD's).
        weights: a folder that `AutoencoderTiny.save_pretrained` wrote, or a repository's name on the hub.
        subfolder: the auto-encoder's folder in there.
    """

    NAMES = {4: "taesd", 16: "taesd3"}  # by the number of latent channels
    # Standard deviation of the posterior, because the encoder is deterministic: noise of .12 changes decoded
    # photographs by .030 (128 px, taesd) to .033 (64 px, taesd3) root mean square, about as much as the reconstruction
    # error of .036 and .031.
    DEVIATION = 0.12
    PIXELS = 2**20  # per pass: 64 images of 128 pixels, whose activations take 256 MB per layer

    def __init__(self, size: int, weights: str = "madebyollin/taesd", subfolder: str = "") -> None:
        super().__init__(TAESD, "encoder_block_out_channels", size, weights, subfolder)
        self.identity |= {
            "name": self.NAMES.get(self.latent_shape[0], "AutoencoderTiny"),
            "posterior_deviation": self.DEVIATION,
        }
        self.vae.to(memory_format=torch.channels_last)
        self.batch = max(1, self.PIXELS // size**2)

    @torch.no_grad()
    def encode(
        self, images: UInt8[Tensor, "batch 3 size size"]
    ) -> tuple[Float[Tensor, "batch latents"], Float[Tensor, "batch latents"]]:
        """Return the latents as the mean of a posterior, and the logarithm of its constant variance."""
        with torch.autocast(images.device.type, enabled=False):
            parts = [self.vae.encode(last(part.float() / 127.5 - 1)).latents for part in images.split(self.batch)]
        mean = torch.cat(parts).flatten(1)
        return mean, torch.full_like(mean, self.DEVIATION).square().log()

    def decode(self, latents: Float[Tensor, "batch latents"]) -> Float[Tensor, "batch 3 size size"]:
        """Decode to images in [0, 1], differentiably."""
        z = latents.float().unflatten(1, self.latent_shape)
        with half_precision(latents.device):
            parts = [self.vae.decode(last(part)).sample.float() for part in z.split(self.batch)]
        return (torch.cat(parts) / 2 + 0.5).clamp(0, 1).contiguous()


def last(images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
    """Store channels last in memory, which makes convolutions on a CPU half as fast again."""
    return images.contiguous(memory_format=torch.channels_last)


def load_autoencoder(kind: Kind, weights: str, subfolder: str = "") -> nn.Module:
    """Load the auto-encoder from a folder or the hub's cache, or download it and print that.

    Raises:
        UserError: diffusers is not installed, or the weights are missing, incomplete or cannot be read.
    """
    try:
        import diffusers
        from diffusers.utils import logging

        architecture = getattr(diffusers, kind.architecture)
    except ImportError as error:
        raise UserError(
            f"{kind.choice} needs diffusers, which cannot be imported ({error}): pip install -e '.[diffusion]'"
        ) from error
    logging.set_verbosity_error()  # diffusers would print missing tensors, which raise an error below

    folder = find_folder(kind, weights, subfolder)
    absent = [file for file in FILES if not (folder / file).is_file()]
    if absent:
        raise UserError(f"{folder} holds no {absent[0]}: put {kind.required_files} there, or name its subfolder.")
    try:
        vae, report = architecture.from_pretrained(
            folder,
            torch_dtype=torch.float32,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # diffusers, safetensors and json each raise their own types for a broken file
        raise UserError(
            f"The autoencoder in {folder} cannot be read ({first_line(error)}): put {kind.required_files} there."
        ) from error
    if report["missing_keys"]:  # diffusers would leave these tensors at random values
        raise UserError(
            f"{folder / FILES[1]} lacks {len(report['missing_keys'])} of the autoencoder's tensors, "
            f"{sorted(report['missing_keys'])[0]} first: put {kind.required_files} there."
        )
    return vae


def find_folder(kind: Kind, weights: str, subfolder: str = "") -> Path:
    """Return the local folder of the auto-encoder's two files, downloading them if necessary."""
    folder = Path(weights).expanduser()
    if folder.is_dir():
        return folder / subfolder
    if weights.startswith((".", "~", "/")) or weights.count("/") != 1:
        raise UserError(
            f"encoder.weights={weights} is no folder: put {kind.required_files} there, or give a hub name like "
            "owner/name."
        )
    return cached(weights, subfolder) or downloaded(kind, weights, subfolder)


def patterns(subfolder: str) -> list[str]:
    """Return the paths of the two files in a repository."""
    return [f"{subfolder}/{file}" if subfolder else file for file in FILES]


def cached(weights: str, subfolder: str = "") -> Path | None:
    """Return the folder of both files in the hub's cache, or None if one of them is missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    names = patterns(subfolder)
    try:
        folder = Path(snapshot_download(weights, allow_patterns=names, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):  # not cached, or not a valid name, which the download will report
        return None
    return folder / subfolder if all((folder / name).is_file() for name in names) else None


def downloaded(kind: Kind, weights: str, subfolder: str = "") -> Path:
    """Print that both files are downloaded from the hub, download them and return their folder.

    Raises:
        UserError: the download failed.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    names = patterns(subfolder)
    try:
        files: Any = HfApi().model_info(weights, files_metadata=True).siblings
        size = sum(file.size or 0 for file in files if file.rfilename in names)
        print(f"{kind.choice}: downloading {weights} ({size / 1e6:.0f} MB) to {HF_HUB_CACHE}", flush=True)
        return Path(snapshot_download(weights, allow_patterns=names)) / subfolder
    except Exception as error:  # the hub's client, its transport and the disk each raise their own types
        raise UserError(
            f"{weights} is neither a folder nor in the hub's cache, and its download failed ({first_line(error)}): "
            f"put {kind.required_files} into a folder and pass encoder.weights=FOLDER."
        ) from error


def missing_weights(weights: str) -> str | None:
    """Make the weights of a tiny auto-encoder available, or return why that is not possible, as half a sentence.

    They are downloaded if the hub answers within seconds. None means that they are on this machine; they are not
    loaded.
    """
    if importlib.util.find_spec("diffusers") is None:
        return "diffusers is not installed (pip install -e '.[diffusion]')"
    folder = Path(weights).expanduser()
    if folder.is_dir():
        absent = [file for file in FILES if not (folder / file).is_file()]
        return f"{folder} holds no {absent[0]}" if absent else None
    if weights.count("/") == 1 and cached(weights) is not None:
        return None
    if not answers(weights):
        return f"{weights} is neither a folder nor in the hub's cache, and the hub cannot be reached"
    try:
        find_folder(TAESD, weights)
    except UserError as error:
        return str(error).partition(": put ")[0]
    return None


def answers(weights: str) -> bool:
    """Return whether the hub answers for these weights within seconds; resolving its name alone can take minutes."""
    from huggingface_hub import HfApi

    answered: list[Any] = []

    def look() -> None:
        try:
            answered.append(HfApi().model_info(weights, timeout=PATIENCE))
        except Exception:  # offline mode, no network and an unknown name each raise another type
            pass

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return bool(answered)
