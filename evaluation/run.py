"""The run folder: written while a run goes on, read back when it is done.

from evaluation.run import load
run = load("runs/faces/iin")  # the newest run below
run.edit("face.png", glasses=1).save("with_glasses.png")
"""

import math
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from jaxtyping import Float, UInt8
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console
from torch import Tensor

from datamodules.celeba import WIDTH
from datamodules.factors import FactorTable, ImageData, near_names
from evaluation.comparison import edit_rows, edit_table, metric_table
from evaluation.files import ImageSource, read_image, read_json, to_pillow, write_file, write_json
from evaluation.manifest import label, manifest
from models import UserError
from models.vae import VAE

__all__ = ["LoadedRun", "Run", "Stage", "find_run", "load", "made", "remove_unused"]

BATCH = 256


@dataclass
class Stage:
    """A stage under way; `items` may also be set while it runs."""

    items: int | None = None


class Run:
    """A run folder being written: `config.yaml` at once, the numbers whenever `save` is called.

    `metrics` is flat, path -> number; `measurements` is what is not flat (see `evaluation.figures.draw_measurements`).

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any]) -> None:
        self.path, self.started = Path(path), time.perf_counter()
        # A resumed run keeps what the stages measured that it need not repeat.
        earlier = self.path / "metrics.json"
        self.metrics: dict[str, float] = read_json(earlier) if earlier.is_file() else {}
        self.earlier_s = self.metrics.get("time/total_s", 0.0)
        self.measurements: dict[str, Any] = {}
        console = Console(highlight=False)
        self.console = console if console.is_terminal else Console(highlight=False, width=120)
        write_file(self.path / "config.yaml", OmegaConf.to_yaml(config, resolve=True))

    @contextmanager
    def stage(self, name: str, items: int | None = None) -> Iterator[Stage]:
        """Times what runs inside as `time/<name>_s` and, where the items are known, `throughput/<name>_per_s`.

        Saved at once, so that a run killed later still knows.
        """
        stage, started = Stage(items), time.perf_counter()
        self.console.print(f"[bold]{name}[/] started", soft_wrap=True)
        yield stage
        seconds = time.perf_counter() - started
        speed = ""
        self.metrics[f"time/{name}_s"] = seconds
        if stage.items is not None:
            self.metrics[f"throughput/{name}_per_s"] = stage.items / max(seconds, 1e-9)
            speed = f", {stage.items / max(seconds, 1e-9):,.0f} per s"
        self.console.print(f"[bold]{name}[/] took {seconds:.1f} s{speed}", soft_wrap=True)
        self.save()

    def update(self, metrics: Mapping[str, float | Tensor | None]) -> None:
        """Add metrics; None and NaN say that there is no such number, and stay out of the file."""
        self.metrics.update({key: float(value) for key, value in metrics.items() if value is not None})

    def save(self) -> None:
        """Write `metrics.json` and `measurements.json`."""
        self.metrics["time/total_s"] = self.earlier_s + time.perf_counter() - self.started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.metrics["memory/peak_mib"] = peak / (2**20 if sys.platform == "darwin" else 2**10)
        if torch.cuda.is_available():
            self.metrics["memory/gpu_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
        finite = {key: value for key, value in self.metrics.items() if math.isfinite(value)}
        write_json(self.path / "metrics.json", finite)
        if self.measurements:
            write_json(self.path / "measurements.json", self.measurements)

    def manifest(
        self,
        data: ImageData,
        encoder: Mapping[str, str | int | float | bool] | None,
        seed: int,
        device: str,
        random_weights: bool = False,
    ) -> None:
        """Write `manifest.json`, see `evaluation.manifest`."""
        write_json(self.path / "manifest.json", manifest(data, encoder, seed, device, random_weights))

    def summary(self) -> None:
        """Print the main numbers and what to open next."""
        edits = edit_rows(self.metrics)
        self.console.print()
        self.console.print(edit_table(self.metrics) if edits else metric_table(self.metrics))
        self.console.print(f"\nOpen: {self.path / 'report.html'}", soft_wrap=True, markup=False)
        self.console.print(f"      tensorboard --logdir {self.path / 'tensorboard'}", soft_wrap=True, markup=False)


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


def remove_unused(path: str | Path) -> None:
    """Take away the folder of a run that ended before it made anything."""
    if {entry.name for entry in Path(path).glob("*")} <= {"config.yaml", "metrics.json"} and Path(path).is_dir():
        shutil.rmtree(path)


def made(settings: Mapping[str, Any], **arguments: Any) -> Any:
    """What the configuration names, made with these arguments.

    Raises:
        UserError: what its constructor refuses.
    """
    try:
        return instantiate(settings, **arguments)
    except InstantiationException as error:  # Hydra's, around every other
        if isinstance(error.__cause__, ValueError):
            raise UserError(str(error.__cause__)) from error
        raise


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
