"""NumPy's arrays and torch's tensors alike, for functions that measure."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Array", "Values", "as_array", "as_tensor"]

Array: TypeAlias = np.ndarray | Tensor
Values: TypeAlias = Float[Array, " n"] | Sequence[int | float]


def as_tensor(values: Array | Sequence[int | float]) -> Tensor:
    """Return the values as a tensor in their own precision, numbers of a list in float64; no copy where none is needed.

    >>> as_tensor(np.arange(2.0))
    tensor([0., 1.], dtype=torch.float64)
    """
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    shared = array.flags.writeable and array.flags.c_contiguous  # others torch warns of or refuses
    return torch.from_numpy(array if shared else array.copy())


def as_array(values: Array | Sequence[int | float]) -> np.ndarray:
    """Return the values as an array on the CPU, in their own precision, which NumPy lacks for bfloat16: float32 then.

    >>> as_array(torch.ones(2, requires_grad=True))
    array([1., 1.], dtype=float32)
    """
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
