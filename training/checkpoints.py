"""Write and read checkpoints of trained modules, and refuse damaged ones."""

import io
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from models import UserError
from models.archives import check_zip
from models.weights import first_line, load_tensors
from training.files import write_file
from training.run_folder import Run

__all__ = ["check_readable", "finish", "load_module", "plain"]


def check_readable(partial: Path) -> None:
    """Check that a partial checkpoint, if there is one, can be loaded.

    Raises:
        UserError: the file is damaged.
    """
    if not partial.exists():
        return
    try:
        load_tensors(partial)
    except Exception as error:  # torch, pickle and zipfile each raise their own kind
        raise UserError(
            f"Expected a checkpoint to go on from, got a damaged file {partial} ({first_line(error)}): remove it "
            "to train this stage from its start."
        ) from error


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
    folder = run.path / "checkpoints"
    module.to("cpu")
    content = {"state_dict": module.state_dict(), "hyper_parameters": plain(module.hparams),
               "pytorch-lightning_version": pl.__version__}  # fmt: skip
    file = io.BytesIO()
    torch.save(content, file)
    write_file(folder / f"{name or stage}.ckpt", file.getvalue())
    (folder / f"{stage}.partial.ckpt").unlink(missing_ok=True)


def load_module(kind: Any, file: Path) -> Any:
    """Load a module from its checkpoint, frozen; `kind` is its class, a LightningModule.

    Raises:
        UserError: there is no such file, or it is no checkpoint of this class.
    """
    if not file.is_file():
        raise UserError(f"Expected the checkpoint {file}, got no such file: this run has no {kind.__name__}.")
    try:
        check_zip(file)
        # The content is data: Lightning calls `kind` with the arguments in it, and builds no other class.
        module = kind.load_from_checkpoint(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle, zipfile and Lightning each raise their own kind
        raise UserError(
            f"Expected a checkpoint of {kind.__name__}, got {file} ({first_line(error)}): train the run again."
        ) from error
    return module.eval().requires_grad_(False)
