"""Write and read checkpoints of trained modules, and refuse damaged ones."""

import io
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from datamodules.checksums import check_recorded, forget, write_recorded
from models import UserError
from models.archives import check_zip
from models.weights import first_line, load_tensors
from training.run_folder import Run

__all__ = ["WholeCheckpoints", "finish", "load_module", "plain", "resumable"]


class WholeCheckpoints(TorchCheckpointIO):
    """Writes Lightning's checkpoints whole beside the ones that they replace, and records their SHA-256.

    Lightning itself writes to a temporary folder and copies: a process killed meanwhile loses the former file, too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        file = io.BytesIO()
        torch.save(checkpoint, file)
        write_recorded(self.folder, Path(path).resolve().relative_to(self.folder.resolve()).as_posix(), file.getvalue())


def resumable(partial: Path) -> Path | None:
    """Return a partial checkpoint, which is the run's own and can be loaded, or None if there is none.

    Raises:
        UserError: the file is damaged, or the run has not written it.
    """
    if not partial.exists():
        return None
    check_recorded(partial)
    try:
        load_tensors(partial)
    except Exception as error:  # torch, pickle and zipfile each raise their own kind
        raise UserError(
            f"Expected a checkpoint to go on from, got a damaged file {partial} ({first_line(error)}): remove it "
            "to train this stage from its start."
        ) from error
    return partial


def plain(value: Any) -> Any:
    """Convert containers to plain lists and dicts, so that a checkpoint loads without running code.

    >>> plain({"widths": (2, 3)})
    {'widths': [2, 3]}
    """
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def finish(module: pl.LightningModule, run: Run, stage: str, name: str | None = None) -> None:
    """Write the stage's final checkpoint: weights and constructor arguments, loadable by `load_from_checkpoint`."""
    module.to("cpu")
    content = {"state_dict": module.state_dict(), "hyper_parameters": plain(module.hparams),
               "pytorch-lightning_version": pl.__version__}  # fmt: skip
    file = io.BytesIO()
    torch.save(content, file)
    write_recorded(run.path, f"checkpoints/{name or stage}.ckpt", file.getvalue())
    forget(run.path, f"checkpoints/{stage}.partial.ckpt")


def load_module(kind: Any, file: Path) -> Any:
    """Load a module from its checkpoint, frozen; `kind` is its class, a LightningModule.

    Raises:
        UserError: there is no such file, it is no checkpoint of this class, or another one than the run has written.
    """
    if not file.is_file():
        raise UserError(f"Expected the checkpoint {file}, got no such file: this run has no {kind.__name__}.")
    check_recorded(file)
    try:
        check_zip(file)
        # The content is data: Lightning calls `kind` with the arguments in it, and builds no other class.
        module = kind.load_from_checkpoint(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle, zipfile and Lightning each raise their own kind
        raise UserError(
            f"Expected a checkpoint of {kind.__name__}, got {file} ({first_line(error)}): train the run again."
        ) from error
    return module.eval().requires_grad_(False)
