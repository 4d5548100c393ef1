"""Train by epochs in a loop that goes on where it was stopped: after every epoch, and at a signal, its state is stored.

Lightning does this for the stages of a run (`training.fit`). This loop is that of the judges, of the guide's reader and
of the oracle, which are cached by what they are trained on, so the state lies beside the cache.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from datamodules.cache import cache_errors, write_whole
from models import UserError
from models.weights import weights_sha256
from training.interrupt import end_if_pending, pending

__all__ = ["Epochs", "train_once"]


class Epochs:
    """The epochs of a training on n rows, whose order the generator draws.

    Use it inside `training.interrupt.saving`, so that a signal waits for the end of a step.

    Arguments:
        n: number of rows.
        batch: rows of a step.
        epochs: number of epochs.
        generator: draws the order of rows, and whatever else the steps draw from it.
        parts: modules, optimiser and schedule, by name: all that has a `state_dict`.
        kept: tensors and numbers that the steps change.
        file: where the state is stored; None stores nothing.
    """

    def __init__(self, n: int, batch: int, epochs: int, generator: torch.Generator, parts: Mapping[str, Any],
                 kept: dict[str, Any], file: Path | None) -> None:  # fmt: skip
        self.n, self.batch, self.epochs, self.generator = n, batch, epochs, generator
        self.parts, self.kept, self.file = parts, kept, file
        self.epoch = self.done = 0  # complete epochs, and steps of the current one
        self.order: Tensor | None = None
        if file is not None and file.is_file():
            self.load(file)

    @property
    def left(self) -> int:
        """The number of rows of the epochs that are not complete."""
        return (self.epochs - self.epoch) * self.n

    def __iter__(self) -> Iterator[Iterator[Tensor]]:
        """Yield for each epoch the rows of its steps.

        Raises:
            UserError: weights are not finite after an epoch; the state cannot be stored.
            Interrupted: a signal has been received; the state is stored.
        """
        while self.epoch < self.epochs:
            yield self.steps()
            self.check_finite()
            self.epoch, self.done, self.order = self.epoch + 1, 0, None
            self.save()

    def steps(self) -> Iterator[Tensor]:
        if self.order is None:
            self.order = torch.randperm(self.n, generator=self.generator)
        for rows in self.order.split(self.batch)[self.done :]:
            if pending():
                self.save()
                end_if_pending()
            yield rows
            self.done += 1

    def check_finite(self) -> None:
        for name, part in self.parts.items():
            weights = part.parameters() if isinstance(part, nn.Module) else ()
            if not all(bool(weight.isfinite().all()) for weight in weights):
                raise UserError(
                    f"Expected finite weights of the {name}, got NaN or infinities in epoch {self.epoch + 1}: look for "
                    "images, labels or latents that are far from the others."
                )

    def save(self) -> None:
        if self.file is None:
            return
        state = {
            "epoch": self.epoch, "done": self.done, "order": self.order, "generator": self.generator.get_state(),
            "kept": self.kept, "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }  # fmt: skip
        content = io.BytesIO()
        torch.save(state, content)
        with cache_errors(self.file.parent), write_whole(self.file) as temporary:
            temporary.write_bytes(hashlib.sha256(content.getvalue()).digest() + content.getvalue())

    def load(self, file: Path) -> None:
        """Take over the stored state; one that is damaged is left aside, and the training starts anew."""
        stored = file.read_bytes()
        if hashlib.sha256(stored[32:]).digest() != stored[:32]:
            print(f"The stored state {file} is damaged: this training starts again.")
            return
        state = torch.load(io.BytesIO(stored[32:]), map_location="cpu", weights_only=True)
        self.epoch, self.done, self.order = state["epoch"], state["done"], state["order"]
        self.generator.set_state(state["generator"])
        self.kept.update(state["kept"])
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])


def restore(module: nn.Module, path: Path) -> bool:
    """Load cached weights; return False if there are none or they are damaged."""
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            if file.metadata()["sha256"] != weights_sha256(state):
                return False
        module.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError):
        return False
    module.eval().requires_grad_(False)
    return True


def store(module: nn.Module, path: Path) -> None:
    """Write the weights with their checksum."""
    state = {name: tensor.cpu().contiguous() for name, tensor in module.state_dict().items()}
    content = save(state, {"sha256": weights_sha256(state)})
    with cache_errors(path.parent), write_whole(path) as temporary:
        temporary.write_bytes(content)


def train_once(module: nn.Module, folder: Path | None, key: str, train: Callable[[Path | None], None]) -> None:
    """Load a module's weights from a folder of the cache by their key, or train and store them.

    `train` is called with the file for the state of the training; without a folder nothing is stored.

    Raises:
        UserError: the folder cannot be written.
    """
    if folder is None:
        train(None)
        return
    path, state = folder / f"{key[:32]}.safetensors", folder / f"{key[:32]}.partial"
    if not restore(module, path):
        train(state)
        store(module, path)
    state.unlink(missing_ok=True)
