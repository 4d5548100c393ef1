"""Networks from TorchScript and ONNX files, and face-embedding models that measure whether an edit keeps the person."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from models import UserError
from models.dlib_faces import DlibIdentity
from models.interfaces import FaceEmbedder

__all__ = ["Network", "embed_edited", "load_identity", "load_network"]

DLIB = "dlib"  # identity_model=dlib: not a file
# Maps images in [-1, 1] to the output of the network in a file.
Network = Callable[[Float[Tensor, "batch 3 high wide"]], Tensor]


def load_identity(path: str | Path, size: int = 112, device: str | torch.device = "cpu") -> FaceEmbedder:
    """Load a face-embedding model, which maps images (batch, 3, any, any) in [0, 1] to (batch, embedding).

    `path` is `dlib` for the model of the extra `faces` (`models.dlib_faces.DlibIdentity`), or an ONNX file (.onnx) or
    a TorchScript file. A network from a file takes RGB in [-1, 1], channels first, as ArcFace and FaceNet do. Images
    are resized to `size`, or to the size that an ONNX file states.

    Raises:
        UserError: the file is missing or cannot be read, or onnxruntime or the extra `faces` is not installed.
    """
    if str(path) == DLIB:
        return DlibIdentity()
    network = load_network(path, "face-embedding model", size, device)

    @torch.no_grad()
    def embed(images: Float[Tensor, "batch 3 high wide"]) -> Float[Tensor, "batch embedding"]:
        return network(images.float() * 2 - 1).flatten(1).to(images.device)

    return embed


def embed_edited(
    embed: FaceEmbedder, edited: Float[Tensor, "batch 3 size size"], originals: Float[Tensor, "batch 3 size size"]
) -> Float[Tensor, "batch embedding"]:
    """Embed edited images; a model that uses landmarks takes those of the original images.

    So the edit cannot move the crop of the face that is compared. Other models embed the whole image.
    """
    return embed.at(edited, embed.landmarks(originals)) if isinstance(embed, DlibIdentity) else embed(edited)


def load_network(path: str | Path, kind: str, size: int | None = None, device: str | torch.device = "cpu") -> Network:
    """Load the network in an ONNX file (.onnx) or a TorchScript file; messages call it `kind`.

    Images are resized to `size`, or to the size that an ONNX file states; if neither is known, they are not resized.

    Raises:
        UserError: the file is missing or cannot be read, or onnxruntime is not installed.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"Expected a {kind} (TorchScript or ONNX), got no file at {path}: check the path.")
    if path.suffix.lower() == ".onnx":
        network, size = load_onnx(path, kind, size)
    else:
        network = load_torchscript(path, kind, torch.device(device))

    @torch.no_grad()
    def run(images: Float[Tensor, "batch 3 high wide"]) -> Tensor:
        if size is not None:
            images = functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
        return network(images)

    return run


def load_torchscript(path: Path, kind: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, but many models are published in it
            network = torch.jit.load(path, map_location=device).eval()
    except RuntimeError as error:
        raise unreadable(path, f"TorchScript {kind}", error) from error
    return lambda images: network(images.to(device))


def load_onnx(path: Path, kind: str, size: int | None) -> tuple[Callable[[Tensor], Tensor], int | None]:
    """Load the network and its image side; a model exported for one batch size is run in batches of that size."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"Expected the package onnxruntime to read {path.name}, got none ({error}): pip install "
            "-e '.[identity]', or give a TorchScript file."
        ) from error
    try:
        session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises several types, none of them public
        raise unreadable(path, f"ONNX {kind}", error) from error
    entry = session.get_inputs()[0]
    fixed, side = entry.shape[0], entry.shape[-1]

    def network(images: Tensor) -> Tensor:
        parts = images.cpu().split(fixed if isinstance(fixed, int) else max(len(images), 1))
        if isinstance(fixed, int) and len(parts[-1]) < fixed:
            last = torch.cat([parts[-1], parts[-1][:1].expand(fixed - len(parts[-1]), -1, -1, -1)])
            parts = (*parts[:-1], last)
        outputs = [torch.from_numpy(session.run(None, {entry.name: part.numpy()})[0]) for part in parts]
        return torch.cat(outputs)[: len(images)]

    return network, side if isinstance(side, int) else size


def unreadable(path: Path, kind: str, error: Exception) -> UserError:
    reason = str(error).strip().split("\n")[0]
    return UserError(f"Expected a {kind} at {path}, got a file that cannot be read ({reason}).")
