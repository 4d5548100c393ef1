"""Train one stage with Lightning.

Every stage writes `checkpoints/<stage>.partial.ckpt` while it trains and `checkpoints/<stage>.ckpt` when it is done,
so that a killed run resumes where it stopped.
"""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from datamodules.batches import ValidationBatches
from training.build import build, device_of
from training.callbacks import Bar, Watch
from training.checkpoints import WholeCheckpoints, resumable
from training.interrupt import saving
from training.run_folder import Run
from training.settings import Settings, of_pipeline

__all__ = ["STEPS_PER_EPOCH", "fit", "stage_steps"]

NOISY = ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda", "tensorboard")
STEPS_PER_EPOCH = 100  # a checkpoint is written and a line printed after each of these epochs


def stage_steps(config: Settings, steps: int) -> int:
    """Scale a stage's steps by `trainer.scale`; at least 10 are taken."""
    return max(10, round(steps * config.trainer.scale))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Lightning prints at every stage: the devices, tips, and that there is no validation loader."""
    levels = {name: logging.getLogger(name).level for name in NOISY}
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists", category=UserWarning)  # stages share it
        warnings.filterwarnings("ignore", ".*treespec, LeafSpec", category=FutureWarning)  # raised within Lightning
        warnings.filterwarnings("ignore", ".*have no `val_dataloader`")
        warnings.filterwarnings("ignore", ".*a checkpoint that ended before the epoch ended")  # `Batches` goes on there
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def configured_logger(config: Settings, stage: str) -> list[Logger]:
    """Build the logger of `logger=`, which joins TensorBoard's; a setting that is null becomes the stage's name."""
    settings = config.get("logger")
    if not settings or "_target_" not in settings:
        return []
    return [build({key: stage if value is None else value for key, value in settings.items()})]


def monitored(callback: pl.Callback) -> bool:
    """Tell whether a callback watches a metric of held-out rows."""
    return str(getattr(callback, "monitor", None)).startswith("val/")


def configured_callbacks(config: Settings) -> list[pl.Callback]:
    """Build the callbacks of `callbacks=`, one for each entry."""
    return [build(settings) for settings in (config.get("callbacks") or {}).values()]


@contextmanager
def compiled(module: pl.LightningModule, wanted: bool) -> Iterator[None]:
    """Compile the module's networks by torch.compile inside the block, if that is wanted.

    Its steps stay as they are: they read the trainer's counters, so each would be compiled anew.
    """
    networks = list(module.children()) if wanted else []
    for network in networks:
        network.compile()
    try:
        yield
    finally:
        for network in networks:
            network._compiled_call_impl = None


def fit(
    module: pl.LightningModule,
    batches: Any,
    run: Run,
    name: str,
    config: Settings,
    steps: int,
    precision: str = "32-true",
    callbacks: tuple[pl.Callback, ...] = (),
    clip: float | None = None,
    rate: str | None = None,
    validation: Callable[[], ValidationBatches] | None = None,
) -> int:
    """Train up to `steps` steps, resuming from the stage's partial checkpoint if there is one.

    Gradients are clipped to the norm `clip`. `rate` names the setting of the learning rate where that is not
    NAME.learning_rate. `validation` gives batches of held-out rows, on which `callbacks=` may watch the module
    after every epoch; where there are none, such callbacks are left out.

    Returns:
        The number of steps taken by this call.

    Raises:
        UserError: a loss or weights that are not finite; a damaged partial checkpoint; one that cannot be written.
        Interrupted: a signal ended the training, whose state is saved.
    """
    folder = run.path / "checkpoints"
    start = resumable(folder / f"{name}.partial.ckpt")
    rate = rate or f"{name}.learning_rate"
    changeable = any(rate in keys for keys in of_pipeline(config, "CHANGEABLE").values())
    watch = Watch(run, name, rate, changeable, batches)
    keep = pl.callbacks.ModelCheckpoint(
        folder, f"{name}.partial", save_on_train_epoch_end=True, enable_version_counter=False
    )
    watching, loggers = configured_callbacks(config), configured_logger(config, name)
    held_out = validation() if validation and any(map(monitored, watching)) else None
    watching = [callback for callback in watching if held_out or not monitored(callback)]
    with quiet():
        trainer = pl.Trainer(
            accelerator=device_of(config).type.replace("cuda", "gpu"),
            devices=config.trainer.devices,
            max_steps=steps,
            max_epochs=-1,  # until the steps are done
            precision=precision,  # type: ignore[arg-type]
            logger=[TensorBoardLogger(run.path, name="tensorboard", version=name), *loggers],
            callbacks=[watch, keep, *callbacks, *watching, *([Bar(name)] if sys.stdout.isatty() else [])],
            plugins=[WholeCheckpoints(run.path)],
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=clip,
            log_every_n_steps=min(20, steps, len(batches)),
            num_sanity_val_steps=0,
        )
        with saving(), compiled(module, bool(config.get("compile"))):
            trainer.fit(module, batches, held_out or None, ckpt_path=start, weights_only=True)
    for logger in loggers:
        if callable(finish := getattr(getattr(logger, "experiment", None), "finish", None)):
            finish()  # the next stage is another run of Weights & Biases
    return trainer.global_step - watch.first
