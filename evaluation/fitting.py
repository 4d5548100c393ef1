"""One stage's training with Lightning: goes on from its partial checkpoint, watches the loss, keeps the last state."""

import logging
import sys
import time
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from evaluation.record import Run
from models import UserError

__all__ = ["STEPS_PER_EPOCH", "Pictures", "device_of", "finish", "fit", "plain", "stage_steps"]

for noisy in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda", "tensorboard"):
    logging.getLogger(noisy).setLevel(logging.WARNING)  # which devices there are, tips, and that a fit has ended
warnings.filterwarnings("ignore", "Checkpoint directory .* exists", category=UserWarning)  # several stages share it
warnings.filterwarnings("ignore", ".*treespec, LeafSpec", category=FutureWarning)  # Lightning's own use of torch
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
