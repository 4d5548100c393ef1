"""Train the VAE of a run and its final decoder; other runs with the same data and settings load them."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import Tensor

from datamodules.batches import ValidationBatches, row_batches
from datamodules.cache import code_digest, fingerprint
from datamodules.checksums import forget
from datamodules.factors import ImageData
from datamodules.features import as_read
from datamodules.splits import TRAIN, VALIDATION
from models import UserError, final_decoder, gaussian, muon, networks
from models.precision import fast_precision
from models.vae import VAE
from training.build import build, device_of
from training.callbacks import Pictures
from training.checkpoints import finish, load_module, plain
from training.files import read_json, write_json
from training.fit import STEPS_PER_EPOCH, fit, stage_steps
from training.run_folder import Run
from training.settings import Settings

__all__ = ["CHANGEABLE", "grid", "train_vae"]

# The settings that a run may continue with changed until vae.ckpt is there.
CHANGEABLE = {"vae": ("vae.learning_rate", "trainer.vae", "trainer.final_decoder", "trainer.bf16", "trainer.scale")}


def grid(images: Tensor, columns: int) -> Tensor:
    from torchvision.utils import make_grid

    return make_grid(images.clamp(0, 1).cpu(), columns, padding=1)


def reconstruction_grid(vae: VAE, images: Tensor) -> Tensor:
    """Draw images above their reconstructions by the first decoder, (3, height, width) in [0, 1]."""
    images = images.to(vae.device)
    shown = torch.cat([images.float() / 255, vae.draft(vae.encode(images)[0])])
    return grid(shown, len(images))


def key_of(checkpoint: Path) -> str | None:
    """Return the key of the data and settings that a VAE was trained with, or None if it is unknown."""
    try:
        return read_json(checkpoint.with_suffix(".json")).get("key")
    except UserError:
        return None


def elsewhere(config: Settings, key: str) -> Path | None:
    """Find the checkpoint of encoder.checkpoint=, or the newest finished VAE with the same data and settings."""
    if config.encoder.checkpoint:
        source = Path(config.encoder.checkpoint).expanduser()
        if not source.is_file():
            raise UserError(f"Expected a VAE checkpoint at encoder.checkpoint={source}, got no such file.")
        return source
    finished = Path(config.runs_dir).glob("*/*/*/checkpoints/vae.ckpt")
    newest = sorted(finished, key=lambda path: path.stat().st_mtime, reverse=True)
    return next((path for path in newest if key_of(path) == key), None)


def train_final_decoder(config: Settings, vae: VAE, images: Tensor, data: ImageData, run: Run, precision: str) -> None:
    """Train the VAE's final decoder on the posterior means of the training images."""
    assert vae.final is not None
    steps, size = stage_steps(config, config.trainer.final_decoder.steps), config.trainer.final_decoder.batch_size
    rows, device = data.rows(TRAIN), device_of(config)
    with run.stage("final_decoder") as stage:
        pl.seed_everything(config.seed + 3, verbose=False)
        vae.to(device).eval()
        with torch.no_grad():
            means = torch.cat([vae.encode(images[part].to(device))[0].cpu() for part in rows.split(512)])
        tensors = {"images": images[rows], "mean": means}
        batches = row_batches(tensors, size, config.seed + 3, torch.arange(len(rows)), STEPS_PER_EPOCH)
        vae.final.train()
        rate = "vae.learning_rate"
        stage.items = size * fit(vae.final, batches, run, "final_decoder", config, steps, precision, rate=rate)
    forget(run.path, "checkpoints/final_decoder.partial.ckpt")


def trained_vae(config: Settings, settings: dict[str, Any], data: ImageData, run: Run) -> VAE:
    steps, size = stage_steps(config, config.trainer.vae.steps), config.trainer.vae.batch_size
    with run.stage("vae") as stage:
        if settings["flip"] is None:
            settings["flip"] = data.counterfactual is None  # drawn data needs no mirroring
        pl.seed_everything(config.seed, verbose=False)
        vae: VAE = build(settings)
        images = as_read(data.images, vae.size)
        bf16 = config.trainer.bf16
        bf16 = fast_precision(device_of(config)) == torch.bfloat16 if bf16 is None else bf16
        shown = images[data.rows(TRAIN)[:16]]
        batches = row_batches({"images": images}, size, config.seed, data.rows(TRAIN), STEPS_PER_EPOCH)
        pictures = Pictures(lambda module: [("reconstructions", reconstruction_grid(module, shown))])
        precision = "bf16-mixed" if bf16 else "32-true"
        stage.items = size * fit(
            vae, batches, run, "vae", config, steps, precision, (pictures,),
            validation=lambda: ValidationBatches({"images": images}, data.rows(VALIDATION), size),
        )  # fmt: skip
    if vae.final is not None:
        train_final_decoder(config, vae, images, data, run, precision)
    return vae


def train_vae(config: Settings, data: ImageData, run: Run) -> VAE:
    """Return the VAE of a run: its own, the newest matching one of other runs, or one that is trained now.

    `vae.json` beside the checkpoint has the key of the data and settings with which it was trained from start to end.
    """
    own = run.path / "checkpoints" / "vae.ckpt"
    note, partial = own.with_suffix(".json"), own.with_name("vae.partial.ckpt")
    if own.exists():
        return load_module(get_class(config.vae._target_), own)
    settings = plain(OmegaConf.to_container(config.vae, resolve=True))
    trained = [dict(config.trainer.vae), config.trainer.scale, config.trainer.bf16]
    trained += [dict(config.trainer.final_decoder)] if settings.get("final_width") else []
    parts = get_class(config.vae._target_), final_decoder, gaussian, muon, networks, train_final_decoder, trained_vae
    code = code_digest(*parts)
    key = fingerprint("vae", code, data.fingerprint, sorted(settings.items()), config.seed, *trained)
    if source := elsewhere(config, key) if config.encoder.checkpoint or not partial.exists() else None:
        print(f"Using the VAE {source}.")
        vae = load_module(get_class(config.vae._target_), source)
        if source_key := key_of(source):
            write_json(note, {"key": source_key})
    else:
        if not partial.exists():
            write_json(note, {"key": key})
        elif key_of(own) != key:  # resumed with other settings, so it has neither key
            note.unlink(missing_ok=True)
        vae = trained_vae(config, settings, data, run)
    finish(vae, run, "vae")
    return vae.eval().requires_grad_(False)
