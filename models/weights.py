"""The SHA-256 of a network's weights, by which the features that it computed are cached."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["weights_sha256"]


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the tensors' names, types, shapes and bytes.

    It does not depend on the tensors' order, their device or the file that they were loaded from.

    >>> weights_sha256({"a": torch.zeros(2)}) == weights_sha256({"b": torch.zeros(2)})
    False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
