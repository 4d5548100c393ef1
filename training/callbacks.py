"""Lightning callbacks of every stage: stop at NaN, print progress, store the random state, log images."""

import sys
import time
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from models import UserError
from training.interrupt import end_if_pending, install, pending
from training.run_folder import Run

__all__ = ["Bar", "Pictures", "Watch"]


def complete_epoch(progress: dict[str, Any]) -> None:
    """Mark the checkpoint's epoch as complete, which Lightning 2.6 omits where `max_steps` limits the training.

    Without this, the resumed training takes one batch of the next epoch and skips the other 99.
    """
    for part in progress["epoch_progress"].values():
        part["completed"] = part["processed"]
    batches = progress["epoch_loop.batch_progress"]["current"]
    batches.update(dict.fromkeys(batches, 0))


def complete_batch(progress: dict[str, Any]) -> None:
    """Leave out the batch that a signal ended before its step, so that the resumed epoch goes on with it."""
    for batches in (progress["epoch_loop.batch_progress"][part] for part in ("current", "total")):
        batches.update(dict.fromkeys(("ready", "started", "processed"), batches["completed"]))


def epochs_of(trainer: pl.Trainer) -> int:
    """Count the epochs of the training; the last may be shorter."""
    return max(1, -(-trainer.max_steps // int(trainer.num_training_batches)))


def take_configured_rates(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Set the learning rates of a restored optimizer and schedule to the configured ones; their state stays.

    Lightning restores the rates with the state, so a run could not resume with a lower rate. A new schedule takes the
    same steps again, because some compute a rate from the one before: so an unchanged rate stays equal to the bit.
    """
    schedule: Any = trainer.lr_scheduler_configs[0].scheduler
    configured: Any = module.configure_optimizers()
    fresh = configured["lr_scheduler"]["scheduler"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the new optimizer has taken no step
        for _ in range(schedule.last_epoch):
            fresh.step()
    for group, wanted in zip(trainer.optimizers[0].param_groups, configured["optimizer"].param_groups, strict=True):
        group.update({name: value for name, value in wanted.items() if name != "params"})
    schedule.load_state_dict(fresh.state_dict())


class Watch(pl.Callback):
    """Store the random state in checkpoints, stop at NaN, print progress lines, and time the waiting for data."""

    def __init__(self, run: Run, stage: str, rate: str, changeable: bool, batches: Any) -> None:
        self.run, self.stage, self.batches = run, stage, batches
        self.taken = 0  # batches of an epoch that a signal ended
        self.rate = rate  # the setting of the learning rate
        self.changeable = changeable  # by ckpt=
        self.first = 0  # the step at which this fit starts or resumes
        self.waited = self.worked = 0.0
        self.mark = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        now = time.perf_counter()
        self.waited, self.mark = self.waited + now - self.mark, now
        if pending():
            if index:  # otherwise the checkpoint of the epoch before has just been written
                self.taken = index
                trainer.save_checkpoint(self.run.path / "checkpoints" / f"{self.stage}.partial.ckpt", False)
            end_if_pending()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        # Reading the value synchronises the GPU, so only every tenth loss is read; checkpoints check the weights.
        if (index % 10 == 9 or not loss.is_cuda) and not bool(torch.isfinite(loss)):
            raise self.diverged(trainer, f"a finite loss, got {float(loss)}")
        now = time.perf_counter()
        self.worked, self.mark = self.worked + now - self.mark, now

    def diverged(self, trainer: pl.Trainer, what: str) -> UserError:
        """Return an error that advises a lower rate, from the last good checkpoint where the stage can resume."""
        folder = self.run.path / "checkpoints"
        kept = sorted(folder.glob("*.ckpt"), key=lambda path: (path.name != f"{self.stage}.partial.ckpt", path.name))
        advice = f"lower {self.rate} and start again with another run_dir="
        if kept and self.changeable:
            advice = f"the last good checkpoint is kept: go on with ckpt={kept[0]} and a lower {self.rate}"
        return UserError(f"Expected {what} at step {trainer.global_step} of stage {self.stage}; {advice}.")

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        install()
        if self.first:
            take_configured_rates(trainer, module)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # Runs before the checkpoint is written. A loss precedes its step, so the last weights are checked themselves.
        if not bool(torch.stack([weight.isfinite().all() for weight in module.parameters()]).all()):
            raise self.diverged(trainer, "finite weights, got NaN or infinities")
        every = max(1, epochs_of(trainer) // 8)
        if not sys.stdout.isatty() and (trainer.current_epoch + 1) % every == 0:
            numbers = "  ".join(f"{k.split('/')[-1]} {float(v):.4g}" for k, v in trainer.callback_metrics.items())
            print(f"  {self.stage} step {trainer.global_step}/{trainer.max_steps}  {numbers}", flush=True)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.run.metrics[f"waiting/{self.stage}"] = self.waited / max(self.waited + self.worked, 1e-9)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["taken"] = self.taken
        checkpoint["rng"] = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            checkpoint["rng"]["cuda"] = torch.cuda.get_rng_state()

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.first, self.batches.taken = checkpoint["global_step"], checkpoint.get("taken", 0)
        complete = complete_batch if self.batches.taken else complete_epoch
        complete(checkpoint["loops"]["fit_loop"])
        torch.set_rng_state(checkpoint["rng"]["cpu"].cpu())
        if torch.cuda.is_available() and "cuda" in checkpoint["rng"]:
            torch.cuda.set_rng_state(checkpoint["rng"]["cuda"].cpu())


class Bar(pl.Callback):
    """Show the stage, its step of all steps, the loss and the time left, on a terminal."""

    def __init__(self, stage: str) -> None:
        loss = TextColumn("loss {task.fields[loss]}")
        columns = TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), loss, TimeRemainingColumn()
        self.progress, self.stage = Progress(*columns, transient=True), stage

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.progress.start()
        self.task = self.progress.add_task(self.stage, total=trainer.max_steps, completed=trainer.global_step, loss="…")

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self.progress.update(self.task, completed=trainer.global_step)
        if index % 10 == 9:  # reading the loss makes a GPU wait
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs
            self.progress.update(self.task, loss=f"{float(loss):.4g}")

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.progress.stop()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self.progress.stop()  # which gives the terminal its cursor back


class Pictures(pl.Callback):
    """Log images to TensorBoard `times` times during a training: `draw(module)` gives (name, image grid) pairs."""

    def __init__(self, draw: Any, times: int = 5) -> None:
        self.draw, self.times = draw, times

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        every = max(1, epochs_of(trainer) // self.times)
        if (trainer.current_epoch + 1) % every == 0:
            module.eval()
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                for name, grid in self.draw(module):
                    writer: SummaryWriter = trainer.logger.experiment  # type: ignore[union-attr]
                    writer.add_image(name, grid, trainer.global_step)
            module.train()
