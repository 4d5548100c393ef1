"""Files of weights: read as data, never as programs; and the SHA-256 by which what they computed is cached."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.archives import check_zip

__all__ = ["first_line", "load_tensors", "weights_sha256"]


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


def load_tensors(file: Path, mmap: bool | None = None) -> Any:
    """Load tensors, numbers and texts that torch has saved, onto the CPU, without running pickled code.

    Raises:
        UserError: an archive that is far larger than its file, see `check_archive`.
        Exception: torch, pickle and zipfile each raise their own kind for a damaged file; see `first_line`.
    """
    check_zip(file)
    return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if the message is empty.

    For pickled code, torch and Lightning advise how to run it; this says that it is not run.

    >>> first_line(ValueError("no file" + chr(10) + "look elsewhere"))
    'no file'
    """
    text = str(error).strip()
    if "weights_only" in text or "Weights only" in text:
        code = re.search(r"GLOBAL ([\w.]+)", text)
        return f"it holds pickled code, {code[1]}, which is not run" if code else "it holds more than tensors"
    return text.split("\n")[0].partition(" If you trust this checkpoint")[0] or type(error).__name__
