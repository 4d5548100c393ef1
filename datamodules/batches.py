"""Batches of tensors in memory, whose order depends only on the seed and the epoch."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import torch
from jaxtyping import Int64
from torch import Tensor

__all__ = ["Batches", "ValidationBatches", "row_batches", "shuffled"]

VALIDATED = 2048  # rows that a loss on held-out rows is averaged over at most

Draw = Callable[[int], Sequence[Tensor]]  # of an epoch's number all its indices: one tensor or several of equal length


class Batches:
    """A data loader for tensors that are already on their device; `row_batches` and `datamodules.pairs` make them.

    Lightning calls `set_epoch`, so what is drawn depends only on the seed and the epoch, and a resumed run gets the
    same batches as an uninterrupted one.

    Arguments:
        draw: draws the indices of all batches of an epoch at once.
        take: makes a batch of one part of each tensor that was drawn.
        batch_size: length of a part.
        steps: batches of an epoch.
    """

    def __init__(self, draw: Draw, take: Callable[..., dict[str, Tensor]], batch_size: int, steps: int) -> None:
        self.draw, self.take, self.batch_size, self.steps, self.epoch = draw, take, batch_size, steps, 0
        self.taken = 0  # batches of the next epoch that were taken before the training was stopped
        self.sampler = self  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        drawn, taken, self.taken = self.draw(self.epoch), self.taken, 0
        batches = zip(*(indices.split(self.batch_size) for indices in drawn), strict=True)
        for parts in islice(batches, taken, None):
            yield self.take(*parts)


def row_batches(tensors: dict[str, Tensor], batch_size: int, seed: int, rows: Int64[Tensor, " rows"],
                steps: int) -> Batches:  # fmt: skip
    """Return batches of these rows of the tensors, shuffled; every row comes once before one comes again.

    >>> [batch["x"].tolist() for batch in row_batches({"x": torch.arange(4)}, 2, 0, torch.arange(4), 2)]
    [[0, 1], [3, 2]]
    """
    return Batches(shuffled(rows, seed, batch_size * steps), partial(taken, tensors), batch_size, steps)


def taken(tensors: dict[str, Tensor], rows: Int64[Tensor, " batch"]) -> dict[str, Tensor]:
    return {name: tensor[rows.to(tensor.device)] for name, tensor in tensors.items()}


def shuffled(rows: Int64[Tensor, " rows"], seed: int, count: int) -> Draw:
    """Draw `count` rows per epoch; consecutive passes over the rows, each longer or shorter, have different orders."""

    def order(number: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        return rows[torch.randperm(len(rows), generator=generator)]

    def draw(epoch: int) -> list[Tensor]:
        needed = torch.arange(epoch * count, (epoch + 1) * count)
        passes = needed // len(rows)
        return [torch.cat([order(int(p))[needed[passes == p] % len(rows)] for p in passes.unique()])]

    return draw


class ValidationBatches:
    """A data loader of batches of up to `size` rows in their order, of 2,048 rows at most.

    >>> [batch["x"].tolist() for batch in ValidationBatches({"x": torch.arange(10)}, torch.tensor([3, 5, 7]), 2)]
    [[3, 5], [7]]
    """

    def __init__(self, tensors: dict[str, Tensor], rows: Int64[Tensor, " rows"], size: int) -> None:
        self.tensors, self.parts = tensors, rows[:VALIDATED].split(size) if len(rows) else ()

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (taken(self.tensors, part) for part in self.parts)
