"""Networks from files; face-embedding models, dlib's or from a file, to see whether an edit keeps the person."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from evaluation.interfaces import Embed
from models import UserError
from models.dlib_faces import DlibIdentity

__all__ = ["Network", "embed_edited", "load_identity", "load_network"]

DLIB = "dlib"  # identity_model=dlib: not a file
# Images in [-1, 1] to whatever the network in a file returns.
Network = Callable[[Float[Tensor, "batch 3 high wide"]], Tensor]


def load_identity(path: str | Path, size: int = 112, device: str | torch.device = "cpu") -> Embed:
    """A face-embedding model: images (batch, 3, any, any) in [0, 1] to embeddings (batch, embedding).

    `path` is `dlib` for the model of the extra `faces` (`models.dlib_faces.DlibIdentity`), or the path of an ONNX file
    (.onnx) or a TorchScript one, which takes RGB in [-1, 1], channels first, as ArcFace and FaceNet do. Images are
    resized to `size`, or to the size that an ONNX file states.

    Raises:
        UserError: no such file; it cannot be read; onnxruntime or the extra `faces` is missing.
    """
    if str(path) == DLIB:
        return DlibIdentity()
    network = load_network(path, "face-embedding model", size, device)

    @torch.no_grad()
    def embed(images: Float[Tensor, "batch 3 high wide"]) -> Float[Tensor, "batch embedding"]:
        return network(images.float() * 2 - 1).flatten(1).to(images.device)

    return embed


def embed_edited(
    embed: Embed, edited: Float[Tensor, "batch 3 size size"], originals: Float[Tensor, "batch 3 size size"]
) -> Float[Tensor, "batch embedding"]:
    """Embeddings of edited images, by a model that finds landmarks at those of the originals.

    The edit then cannot move the crop of the face that is compared; other models read the whole image.
    """
    return embed.at(edited, embed.landmarks(originals)) if isinstance(embed, DlibIdentity) else embed(edited)


def load_network(path: str | Path, kind: str, size: int | None = None, device: str | torch.device = "cpu") -> Network:
    """The network in an ONNX file (.onnx) or a TorchScript one, `kind` being what it is in messages.

    Images are resized to `size`, or to the size that an ONNX file states; without either they stay as they are.

    Raises:
        UserError: no such file; it cannot be read; onnxruntime is missing.
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
            warnings.simplefilter("ignore")  # TorchScript is deprecated, and what people's files are in
            network = torch.jit.load(path, map_location=device).eval()
    except RuntimeError as error:
        raise unreadable(path, f"TorchScript {kind}", error) from error
    return lambda images: network(images.to(device))


def load_onnx(path: Path, kind: str, size: int | None) -> tuple[Callable[[Tensor], Tensor], int | None]:
    """The network and its image side; a model exported for one batch size is run in batches of that."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"Expected the package onnxruntime to read {path.name}, got none ({error}): pip install "
            "-e '.[identity]', or give a TorchScript file."
        ) from error
    try:
        session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises several kinds, none public
        raise unreadable(path, f"ONNX {kind}", error) from error
    entry = session.get_inputs()[0]
    fixed, side = entry.shape[0], entry.shape[-1]

    def network(images: Tensor) -> Tensor:
        parts = images.cpu().split(fixed if isinstance(fixed, int) else max(len(images), 1))
        if isinstance(fixed, int) and len(parts[-1]) < fixed:
            last = torch.cat([parts[-1], parts[-1][:1].expand(fixed - len(parts[-1]), -1, -1, -1)])
            parts = (*parts[:-1], last)
        found = [torch.from_numpy(session.run(None, {entry.name: part.numpy()})[0]) for part in parts]
        return torch.cat(found)[: len(images)]

    return network, side if isinstance(side, int) else size


def unreadable(path: Path, kind: str, error: Exception) -> UserError:
    reason = str(error).strip().split("\n")[0]
    return UserError(f"Expected a {kind} at {path}, got a file that cannot be read ({reason}).")
