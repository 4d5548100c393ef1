"""A finished run, read back.

from evaluation.run import load
run = load("runs/faces/iin")  # the newest run below
run.edit("face.png", glasses=1).save("with_glasses.png")
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float, UInt8
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from datamodules.celeba import WIDTH
from datamodules.factors import FactorTable, ImageData, near_names
from evaluation.files import ImageSource, read_image, read_json, to_pillow
from evaluation.manifest import label
from evaluation.record import made
from models import UserError
from models.vae import VAE

__all__ = ["LoadedRun", "find_run", "load"]

BATCH = 256


def find_run(path: str | Path) -> Path:
    """The run folder at a path, or the newest run below it, one with a checkpoint if there is one.

    Raises:
        UserError: no such folder, or no run in it.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        names = [place.name for place in folder.parent.iterdir()] if folder.parent.is_dir() else []
        near = near_names(folder.name, names)
        raise UserError(f"Expected a run folder at {folder}, got no such folder: give the one training printed.{near}")
    if (folder / "config.yaml").is_file():
        return folder
    found = [place.parent for place in folder.rglob("config.yaml") if not place.parent.name.startswith(".")]
    if not found:
        raise UserError(
            f"Expected a run folder at {folder}, got one without config.yaml: give the one training printed."
        )
    finished = [run for run in found if any((run / "checkpoints").glob("*.ckpt"))]
    return max(finished or found, key=lambda run: (run / "config.yaml").stat().st_mtime)


def load(path: str | Path, device: str | None = None) -> "LoadedRun":
    """A finished run, or the newest one below the path, on the GPU where there is one.

    Raises:
        UserError: as `find_run`; no checkpoint.
    """
    folder = find_run(path)
    if not any((folder / "checkpoints").glob("*.ckpt")):
        expected = folder / "checkpoints" / "last.ckpt"
        raise UserError(f"Expected the checkpoint {expected}, got none: train the run to its end or choose another.")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return LoadedRun(folder, OmegaConf.load(folder / "config.yaml"), read_json(folder / "manifest.json"), place)


def load_module(kind: type[pl.LightningModule], file: Path) -> Any:
    """A module from its checkpoint, frozen.

    Raises:
        UserError: no such file; a file that is no such checkpoint.
    """
    if not file.is_file():
        raise UserError(f"Expected the checkpoint {file}, got no such file: this run has no {kind.__name__}.")
    try:
        module = kind.load_from_checkpoint(file, map_location="cpu")
    except Exception as error:  # torch, pickle, zipfile and Lightning each raise their own kind
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"Expected a checkpoint of {kind.__name__}, got {file} ({reason}): train the run again."
        ) from error
    return module.eval().requires_grad_(False)


@dataclass
class LoadedRun:
    """A finished run; its data, encoder and network are loaded when first asked for."""

    path: Path
    config: Any  # OmegaConf's DictConfig, a class that the shape checks warn of
    manifest: dict[str, Any]
    device: torch.device

    @cached_property
    def data(self) -> ImageData:
        return made(self.config.data)

    @cached_property
    def encoder(self) -> Any:
        """The frozen encoder, see docs/architecture.md.

        Raises:
            UserError: no checkpoint; an encoder that makes other latents than the run's.
        """
        settings = self.config.encoder
        if settings.get("name") == "vae":
            encoder = load_module(VAE, self.path / "checkpoints" / "vae.ckpt")
        else:
            encoder = made({key: value for key, value in settings.items() if key != "name"}).eval()
        recorded = (self.manifest.get("encoder") or {}).get("sha256")
        if recorded and recorded != encoder.identity["sha256"]:
            raise UserError(
                f"Expected the encoder that {self.path} was trained on (weights {recorded[:12]}), got another one "
                f"({str(encoder.identity['sha256'])[:12]}): put its checkpoint back or train the run again."
            )
        return encoder.to(self.device)

    @cached_property
    def iin(self) -> Any:
        """The trained network with the editor interface.

        Raises:
            UserError: no checkpoint of one, or one of other latents than the encoder's.
        """
        from models.iin import IIN

        file = self.path / "checkpoints" / "last.ckpt"
        iin = load_module(IIN, file)
        expected = math.prod(self.encoder.latent_shape)
        if iin.flow.features != expected:
            raise UserError(
                f"Expected a checkpoint for {expected} latents, the encoder's, got one for {iin.flow.features} at "
                f"{file}: put the run's own checkpoint back or train it again."
            )
        return iin.to(self.device)

    def factor(self, name: str) -> int:
        """The number of a factor.

        Raises:
            UserError: no factor has that name; near names are suggested.
        """
        factors = tuple(self.iin.factors)
        if not factors:
            raise UserError(
                f"Expected a run that was trained with factors, got {self.path}, which has none: use component=."
            )
        return FactorTable(factors, torch.empty(0, len(factors))).index(name)

    def value(self, factor: int, value: str | int | float) -> float:
        """A wanted value in the factor's unit, see `label`."""
        wanted = self.iin.factors[factor]
        described = {known["name"]: known for known in self.manifest.get("data", {}).get("factors", [])}
        return label(wanted, value, described.get(wanted.name, {}))

    def pixels(self, images: Sequence[ImageSource]) -> UInt8[Tensor, "n 3 size size"]:
        """Files or pictures, cropped and resized as the run's data was."""
        crop = float(self.config.data.get("crop", 1.0))
        share = crop / WIDTH if crop > 1 else crop  # CelebA's is in pixels
        return torch.stack([read_image(image, self.encoder.size, share) for image in images])

    @torch.inference_mode()
    def encode(self, pixels: UInt8[Tensor, "n 3 size size"]) -> Float[Tensor, "n d"]:
        return torch.cat([self.encoder.encode(part.to(self.device))[0] for part in pixels.split(BATCH)])

    @torch.inference_mode()
    def decode(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n 3 size size"]:
        return torch.cat([self.encoder.decode(part).cpu() for part in latents.split(BATCH)])

    @torch.inference_mode()
    def edit_latents(
        self, latents: Float[Tensor, "n d"], values: Mapping[str, str | int | float], strength: float = 1.0
    ) -> Float[Tensor, "n d"]:
        """Factors set one after the other."""
        for name, value in values.items():
            factor = self.factor(name)
            wanted = torch.full((len(latents),), self.value(factor, value), device=latents.device)
            latents = self.iin.edit(latents, factor, wanted, strength)
        return latents

    def edit(
        self,
        images: ImageSource | Sequence[ImageSource] | UInt8[Tensor, "*n 3 size size"],
        strength: float = 1.0,
        **values: str | int | float,
    ) -> Image.Image | list[Image.Image]:
        """Images with factors set to values, `glasses=1` or `glasses="with"`; one for one, a list for several.

        Raises:
            UserError: an image that cannot be read, an unknown factor, a value it does not have.
        """
        single = isinstance(images, ImageSource) or (isinstance(images, Tensor) and images.ndim == 3)
        several: Any = images if not single else images[None] if isinstance(images, Tensor) else [images]
        pixels = several if isinstance(several, Tensor) else self.pixels(several)
        pictures = to_pillow(self.decode(self.edit_latents(self.encode(pixels), values, strength)))
        return pictures[0] if single else pictures
