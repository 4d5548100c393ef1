"""Write files atomically, read and write JSON, and convert pictures."""

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from datamodules.cache import write_whole
from datamodules.images import decode
from models import UserError

__all__ = ["ImageSource", "jsonable", "read_image", "read_json", "to_pillow", "write_file", "write_json"]

ImageSource: TypeAlias = str | Path | Image.Image


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file atomically, see `write_whole`.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        with write_whole(path) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise UserError(
            f"Expected to write {path}, got {error.strerror or error}: free space there or choose another folder."
        ) from error


def jsonable(value: Any) -> Any:
    """Convert a value for JSON: tensors and arrays to lists, NaN and infinities to null.

    >>> jsonable({"loss": float("nan"), "shape": (2, 3)})
    {'loss': None, 'shape': [2, 3]}
    """
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_file(path, json.dumps(jsonable(content), indent=1))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run, or return an empty dictionary if there is none.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"Expected JSON in {path}, got {error}: put the run's own file back.") from error


def read_image(image: ImageSource, size: int, crop: float = 1.0) -> UInt8[Tensor, "3 size size"]:
    """Read an image, cropped and resized like the images of a data set.

    Raises:
        UserError: there is no such file, or it is not an image.
    """
    try:
        if isinstance(image, Image.Image):
            file = io.BytesIO()
            image.save(file, "PNG")
            return torch.from_numpy(decode(file.getvalue(), size, crop).copy())
        return torch.from_numpy(decode(Path(image).expanduser().read_bytes(), size, crop).copy())
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        got = "no such file" if isinstance(error, FileNotFoundError) else "a file that cannot be read as one"
        raise UserError(f"Expected an image at {image}, got {got}: give the path of a JPEG or PNG file.") from error


def to_pillow(images: Float[Tensor, "n 3 size size"]) -> list[Image.Image]:
    """Convert images in [0, 1] to Pillow images, to save or show them."""
    pixels = images.detach().cpu().clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(pixel) for pixel in pixels]
