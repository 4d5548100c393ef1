"""Batches of tensors in memory, whose order depends only on the seed and the epoch."""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["Batches"]


class Batches:
    """A data loader of shuffled batches of rows, for tensors that are already on their device.

    Lightning calls `set_epoch`, so the order depends only on the seed and the epoch, and a resumed run gets the same
    batches as an uninterrupted one.
    """

    def __init__(self, tensors: dict[str, Tensor], batch_size: int, seed: int, rows: Tensor,
                 steps: int) -> None:  # fmt: skip
        self.tensors, self.batch_size, self.seed, self.rows, self.steps = tensors, batch_size, seed, rows, steps
        self.epoch = 0
        self.sampler = self  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the `steps` batches of one epoch; consecutive passes over the rows have different orders."""
        first = self.epoch * self.steps * self.batch_size
        needed = torch.arange(first, first + self.steps * self.batch_size)
        passes = needed // len(self.rows)
        orders = {int(p): self.order(int(p)) for p in passes.unique()}
        chosen = torch.cat([orders[int(p)][needed[passes == p] % len(self.rows)] for p in passes.unique()])
        for rows in chosen.split(self.batch_size):
            yield {name: tensor[rows.to(tensor.device)] for name, tensor in self.tensors.items()}

    def order(self, number: int) -> Tensor:
        """Return the order of the rows in one pass."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        return self.rows[torch.randperm(len(self.rows), generator=generator)]
