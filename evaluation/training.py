"""The stages of a run: train what is missing, load what is there.

Every stage writes `checkpoints/<stage>.partial.ckpt` while it trains and `checkpoints/<stage>.ckpt` when it is done,
so that a killed run goes on where it was.
"""

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from datamodules.factors import TRAIN, FactorTable, ImageData, fingerprint
from datamodules.features import Batches, ImageEncoder, Latents
from datamodules.pairs import PairBatches, PairSampler
from evaluation.fitting import STEPS_PER_EPOCH, Pictures, device_of, finish, fit, plain, stage_steps
from evaluation.judge import fast_precision, train_judge
from evaluation.record import Run, made
from models import UserError
from models.guide import Guide
from models.iin import IIN, block_sizes_from_pairs
from models.vae import VAE

__all__ = ["check_iin", "image_encoder", "train_guide", "train_iin", "train_vae"]

READER = 1_000_003  # from the seed of the judge to that of the reader


def train_vae(config: DictConfig, data: ImageData, run: Run) -> VAE:
    """The VAE of this data: this run's, the newest matching one of other runs, or one trained now."""
    own = run.path / "checkpoints" / "vae.ckpt"
    settings = plain(OmegaConf.to_container(config.vae, resolve=True))
    key = fingerprint(
        "vae", data.fingerprint, sorted(settings.items()), config.seed, dict(config.trainer.vae), config.trainer.scale
    )
    source = Path(config.encoder.checkpoint) if config.encoder.checkpoint else own if own.exists() else None
    source = source or newest_vae(Path(config.runs_dir), key)
    if source is None:
        with run.stage("vae") as stage:
            if settings["flip"] is None:
                settings["flip"] = data.counterfactual is None  # drawn data needs no mirroring
            pl.seed_everything(config.seed, verbose=False)
            vae: VAE = made(settings)
            steps, size = stage_steps(config, config.trainer.vae.steps), config.trainer.vae.batch_size
            bf16 = config.trainer.bf16
            bf16 = fast_precision(device_of(config)) == torch.bfloat16 if bf16 is None else bf16
            shown = data.images[data.rows(TRAIN)[:16]]
            batches = Batches({"images": data.images}, size, config.seed, data.rows(TRAIN), STEPS_PER_EPOCH)
            pictures = Pictures(lambda module: [("reconstructions", reconstruction_grid(module, shown))])
            fit(vae, batches, run, "vae", config, steps, "bf16-mixed" if bf16 else "32-true", (pictures,))
            stage.items = steps * size
    else:
        if not source.exists():
            raise UserError(f"Expected a VAE checkpoint at encoder.checkpoint={source}, got no such file.")
        if source != own:
            print(f"Using the VAE {source}.")
        vae = VAE.load_from_checkpoint(source, map_location="cpu")
    finish(vae, run, "vae")
    (run.path / "checkpoints" / "vae.json").write_text(json.dumps({"key": key}))
    return vae.eval().requires_grad_(False)


def newest_vae(runs: Path, key: str) -> Path | None:
    """The newest finished VAE below `runs` that was trained on the same data with the same settings."""
    found = sorted(runs.glob("*/*/*/checkpoints/vae.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return next((p.with_suffix(".ckpt") for p in found if json.loads(p.read_text()).get("key") == key), None)


def image_encoder(config: DictConfig, data: ImageData, run: Run) -> ImageEncoder:
    """The frozen encoder that the configuration names, trained first where it is Facet's own VAE."""
    if config.encoder.get("name") == "vae":
        return train_vae(config, data, run).to(device_of(config))
    return made(config.encoder).to(device_of(config))


def reconstruction_grid(vae: VAE, images: Tensor) -> Tensor:
    """Images above their reconstructions, (3, height, width) in [0, 1]."""
    images = images.to(vae.device)
    shown = torch.cat([images.float() / 255, vae.decode(vae.encode(images)[0])])
    return grid(shown, len(images))


def grid(images: Tensor, columns: int) -> Tensor:
    from torchvision.utils import make_grid

    return make_grid(images.clamp(0, 1).cpu(), columns, padding=1)


def check_iin(config: DictConfig, labels: FactorTable) -> None:
    """Refuse settings that no flow can be made with before any time is spent on a VAE for it."""
    if config.model.name == "iin" and config.encoder.get("name") == "vae" and config.iin.block_sizes != "auto":
        made(config.iin, features=config.vae.latent, factors=factor_lists(labels), blocks=1, width=8)


def train_guide(config: DictConfig, data: ImageData, latents: Latents, encoder: ImageEncoder, run: Run) -> Guide:
    """The guide of this run, see `models/guide.py`."""
    labels = data.factors[data.rows(TRAIN)]
    done = run.path / "checkpoints" / "guide.ckpt"
    if done.exists():
        return Guide.load_from_checkpoint(done, map_location="cpu").to(device_of(config)).eval().requires_grad_(False)
    read = None
    if config.guide.reading_weight:
        with run.stage("reader"):  # of another seed than the judge, which measures and must not have been trained for
            reader = train_judge(data, config.seed + READER, device=device_of(config), cache_dir=config.cache_dir)
        read = reader.logits
    pl.seed_everything(config.seed + 1, verbose=False)
    parts = {part: stage_steps(config, config.guide[part]) for part in ("fit_steps", "align_steps")}
    guide: Guide = made(config.guide, features=latents.mean.shape[1], factors=factor_lists(labels), **parts)
    with run.stage("guide") as stage:
        guide.start(latents.mean.cpu(), latents.logvar.cpu(), labels.values)
        guide.decode, guide.read = decoder(encoder), read
        steps, size = sum(parts.values()), config.trainer.guide.batch_size
        batches = PairBatches(
            pair_sampler(config, labels), latents, labels, size, config.seed + 1, STEPS_PER_EPOCH, partners=False
        )
        fit(guide, batches, run, "guide", config, steps, clip=1000.0)
        stage.items = steps * size
    finish(guide, run, "guide")
    return guide.to(device_of(config)).eval().requires_grad_(False)


def decoder(encoder: ImageEncoder) -> Any:
    """The frozen decoder under bfloat16 where that is faster; gradients flow through it."""

    def decode(latents: Tensor) -> Tensor:
        with torch.autocast(
            latents.device.type, fast_precision(latents.device), enabled=fast_precision(latents.device) != torch.float32
        ):
            return encoder.decode(latents).float()

    return decode


def factor_lists(labels: FactorTable) -> list[list[Any]]:
    return [[f.name, f.kind, list(f.values)] for f in labels.factors]


def pair_sampler(config: DictConfig, labels: FactorTable) -> PairSampler | None:
    return PairSampler(labels, config.pairs.decorrelate, config.pairs.bins) if labels.factors else None


def train_iin(config: DictConfig, latents: Latents, labels: FactorTable, guide: Guide | None, run: Run,
              encoder: ImageEncoder) -> IIN:  # fmt: skip
    """The invertible network of this run, trained on latents and labels of the training split."""
    done = run.path / "checkpoints" / "last.ckpt"
    if done.exists():
        return IIN.load_from_checkpoint(done, map_location="cpu").to(device_of(config)).eval()
    pl.seed_everything(config.seed + 2, verbose=False)
    settings = dict(config.iin)
    sampler = pair_sampler(config, labels)
    if settings["block_sizes"] == "auto" and sampler is not None:
        a, b, factor = sampler.sample(20_000, torch.Generator().manual_seed(config.seed))
        settings["block_sizes"] = block_sizes_from_pairs(latents.mean[a], latents.mean[b], factor, len(labels.factors))
        names = [factor.name for factor in labels.factors]
        print(f"Estimated block sizes: {dict(zip(names, settings['block_sizes'], strict=True))}")
    if not labels.factors:
        settings |= {"objective": "likelihood"}
    iin: IIN = made(settings, features=latents.mean.shape[1], factors=factor_lists(labels))
    with run.stage("iin") as stage:
        iin.start(latents.mean.cpu(), latents.logvar.cpu(), labels.values)
        iin.transport = None if guide is None else guide.transport
        steps, size = stage_steps(config, config.trainer.iin.steps), config.trainer.iin.batch_size
        partners = iin.objective == "likelihood" and iin.head == "pairs" and sampler is not None
        batches = PairBatches(sampler, latents, labels, size, config.seed + 2, STEPS_PER_EPOCH, partners)
        shown = latents.mean[:: max(1, len(latents.mean) // 8)][:8]
        pictures = Pictures(lambda module: edit_grids(module, shown, latents, labels, encoder))
        fit(
            iin,
            batches,
            run,
            "iin",
            config,
            steps,
            callbacks=(pictures,),
            clip=200.0 if iin.objective == "faithful" else None,
        )
        iin.to(device_of(config)).eval()
        iin.calibrate(latents.mean, labels.values.to(latents.mean.device))
        stage.items = steps * size
    finish(iin, run, "iin", "last")
    return iin.to(device_of(config))


def edit_grids(
    iin: IIN, shown: Tensor, latents: Latents, labels: FactorTable, encoder: ImageEncoder
) -> list[tuple[str, Tensor]]:
    """Per factor: a few training images above their edits to the first and the last value."""
    iin.calibrate(latents.mean[:4096], labels.values[:4096].to(latents.mean.device))
    grids = []
    for i, factor in enumerate(iin.factors):
        low, high = (
            (0.0, len(factor.values) - 1.0)
            if factor.kind != "continuous"
            else (float(iin.labels.low[i]), float(iin.labels.high[i]))
        )
        edits = [iin.edit(shown, i, shown.new_full((len(shown),), value)) for value in (low, high)]
        grids.append((f"edits/{factor.name}", grid(encoder.decode(torch.cat([shown, *edits])), len(shown))))
    return grids
