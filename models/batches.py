"""Batches as a user's own `DataLoader` gives them: dictionaries, (inputs, labels) pairs, or inputs alone."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["inputs_of", "labelled_batch"]


def inputs_of(batch: Any, name: str) -> Tensor:
    """Return the inputs of a batch: the entry `name` of a dictionary, the first of a pair, or the batch itself.

    Raises:
        ValueError: a dictionary without that entry, or something that holds no tensor.

    >>> inputs_of((torch.zeros(2, 5), torch.tensor([0, 1])), "features").shape
    torch.Size([2, 5])
    """
    found: Any = batch
    if isinstance(batch, Mapping):
        if name not in batch:
            raise ValueError(f"Expected a batch with {name!r}, got one with {', '.join(map(str, batch)) or 'nothing'}.")
        found = batch[name]
    elif isinstance(batch, list | tuple) and batch:
        found = batch[0]
    if not isinstance(found, Tensor):
        raise ValueError(f"Expected a batch that is a tensor, a pair or a dictionary of tensors, got {type(found)}.")
    return found


def labelled_batch(batch: Any, factors: int) -> Mapping[str, Tensor]:
    """Return a batch of latents as a dictionary: `mean` and `logvar` of the posterior, `labels`, and `factor`.

    A pair of latents (batch, d) and labels (batch, factors), as a `TensorDataset` gives it, has no variance, and the
    factor that is edited is drawn for each row.

    Raises:
        ValueError: neither a dictionary nor such a pair.

    >>> sorted(labelled_batch((torch.zeros(2, 3), torch.tensor([0, 1])), factors=1))
    ['factor', 'labels', 'logvar', 'mean']
    """
    if isinstance(batch, Mapping):
        return batch
    if not (isinstance(batch, list | tuple) and len(batch) == 2 and len(batch[0]) == len(batch[1])):
        raise ValueError("Expected a batch that is a dictionary or a pair of latents and labels, got another.")
    mean, labels = batch[0], batch[1].to(batch[0].dtype).reshape(len(batch[1]), -1)
    if labels.shape[1] != factors:
        raise ValueError(f"Expected labels of {factors} factors, got {labels.shape[1]}: give a column for each.")
    factor = torch.randint(max(factors, 1), (len(mean),), device=mean.device)
    return {"mean": mean, "logvar": torch.full_like(mean, -torch.inf), "labels": labels, "factor": factor}
