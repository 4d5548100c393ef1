"""The stages of a run: train what is missing, load what is there.

Every stage writes `checkpoints/<stage>.partial.ckpt` while it trains and `checkpoints/<stage>.ckpt` when it is done,
so that a killed run goes on where it was.
"""

import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from datamodules.factors import TRAIN, FactorTable, ImageData, fingerprint
from datamodules.features import Batches, ImageEncoder, Latents
from datamodules.pairs import PairBatches, PairSampler
from evaluation.judge import fast_precision, train_judge
from evaluation.run import Run, made
from models import UserError
from models.guide import Guide
from models.iin import IIN, block_sizes_from_pairs
from models.vae import VAE

__all__ = ["check_iin", "device_of", "fit", "image_encoder", "train_guide", "train_iin", "train_vae"]

for noisy in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda", "tensorboard"):
    logging.getLogger(noisy).setLevel(logging.WARNING)  # which devices there are, tips, and that a fit has ended
warnings.filterwarnings("ignore", "Checkpoint directory .* exists", category=UserWarning)  # several stages share it
warnings.filterwarnings("ignore", ".*treespec, LeafSpec", category=FutureWarning)  # Lightning's own use of torch
READER = 1_000_003  # from the seed of the judge to that of the reader
STEPS_PER_EPOCH = 100  # how often a checkpoint is written and a line printed


def device_of(config: DictConfig) -> torch.device:
    gpu = config.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


class Watch(pl.Callback):
    """Keeps the random state with the checkpoint, stops at NaN, prints plain lines, and times the waiting for data."""

    def __init__(self, run: Run, stage: str) -> None:
        self.run, self.stage = run, stage
        self.waited = self.worked = 0.0
        self.mark = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        now = time.perf_counter()
        self.waited, self.mark = self.waited + now - self.mark, now

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        # Asking a GPU for the value makes it wait, so ask it rarely; a checkpoint comes only after an asked one.
        if (index % 10 == 9 or not loss.is_cuda) and not bool(torch.isfinite(loss)):
            raise UserError(
                f"Expected a finite loss, got {float(loss)} at step {trainer.global_step} of stage {self.stage}; the "
                f"last good checkpoint is kept in {self.run.path / 'checkpoints'}: lower {self.stage}.learning_rate "
                "and go on with ckpt=."
            )
        now = time.perf_counter()
        self.worked, self.mark = self.worked + now - self.mark, now

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        every = max(1, (trainer.max_epochs or 1) // 8)
        if not sys.stdout.isatty() and (trainer.current_epoch + 1) % every == 0:
            numbers = "  ".join(f"{k.split('/')[-1]} {float(v):.4g}" for k, v in trainer.callback_metrics.items())
            print(f"  {self.stage} step {trainer.global_step}/{trainer.max_steps}  {numbers}", flush=True)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.run.metrics[f"waiting/{self.stage}"] = self.waited / max(self.waited + self.worked, 1e-9)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["rng"] = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            checkpoint["rng"]["cuda"] = torch.cuda.get_rng_state()

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        torch.set_rng_state(checkpoint["rng"]["cpu"].cpu())
        if torch.cuda.is_available() and "cuda" in checkpoint["rng"]:
            torch.cuda.set_rng_state(checkpoint["rng"]["cuda"].cpu())


class Pictures(pl.Callback):
    """Shows in TensorBoard what the model makes of a few images: `draw(module)` gives (name, image grid) pairs."""

    def __init__(self, draw: Any, times: int = 5) -> None:
        self.draw, self.times = draw, times

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        every = max(1, (trainer.max_epochs or 1) // self.times)
        if (trainer.current_epoch + 1) % every == 0:
            module.eval()
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                for name, grid in self.draw(module):
                    writer: SummaryWriter = trainer.logger.experiment  # type: ignore[union-attr]
                    writer.add_image(name, grid, trainer.global_step)
            module.train()


def fit(
    module: pl.LightningModule,
    batches: Any,
    run: Run,
    name: str,
    config: DictConfig,
    steps: int,
    precision: str = "32-true",
    callbacks: tuple[pl.Callback, ...] = (),
    clip: float | None = None,
) -> None:
    """Train for `steps` steps, going on from the stage's partial checkpoint where there is one."""
    folder = run.path / "checkpoints"
    partial = folder / f"{name}.partial.ckpt"
    keep = pl.callbacks.ModelCheckpoint(
        folder, f"{name}.partial", save_on_train_epoch_end=True, enable_version_counter=False
    )
    terminal = sys.stdout.isatty()
    epochs = -(-steps // len(batches))
    trainer = pl.Trainer(
        accelerator=device_of(config).type.replace("cuda", "gpu"),
        devices=config.trainer.devices,
        max_steps=steps,
        max_epochs=epochs,
        precision=precision,  # type: ignore[arg-type]
        logger=TensorBoardLogger(run.path, name="tensorboard", version=name),
        callbacks=[Watch(run, name), keep, *callbacks, *([pl.callbacks.RichProgressBar()] if terminal else [])],
        enable_progress_bar=terminal,
        enable_model_summary=False,
        gradient_clip_val=clip,
        log_every_n_steps=min(20, steps),
        num_sanity_val_steps=0,
    )
    trainer.fit(module, batches, ckpt_path=partial if partial.exists() else None)


def finish(module: pl.LightningModule, run: Run, stage: str, name: str | None = None) -> None:
    """Write the stage's final checkpoint: weights and constructor arguments, loadable by `load_from_checkpoint`."""
    folder = run.path / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    module.to("cpu")
    content = {"state_dict": module.state_dict(), "hyper_parameters": plain(module.hparams),
               "pytorch-lightning_version": pl.__version__}  # fmt: skip
    temporary = folder / f"{stage}.tmp"
    torch.save(content, temporary)
    temporary.replace(folder / f"{name or stage}.ckpt")
    (folder / f"{stage}.partial.ckpt").unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Lists, dicts and scalars only, so that a checkpoint loads without running code."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def stage_steps(config: DictConfig, steps: int) -> int:
    return max(10, round(steps * config.trainer.scale))


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
        read = reader.scores
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
