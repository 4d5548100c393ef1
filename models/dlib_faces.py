"""Faces in photographs, where their eyes are, and who they are: dlib's detector, landmarks and identity network.

King (2009), "Dlib-ml: A Machine Learning Toolkit". The detector is dlib's frontal one (gradients, five views). The
five-point landmarks and the identity network (128 numbers, trained so that two photographs of one person lie less than
.6 apart) are files of the package face_recognition_models. Its 68-point landmarks may not be used commercially and
are not read here.
"""

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from models import UserError

__all__ = ["DlibIdentity", "Face", "are_installed", "find_faces", "landmarks_of"]

LANDMARKS = "shape_predictor_5_face_landmarks.dat"
IDENTITY = "dlib_face_recognition_resnet_model_v1.dat"
PASSES = (1024, 2048)  # pixels of the longer side: the first pass finds faces from 80 pixels, a twelfth of it
LEAST_SCORE = 0.2  # of a detection in a whole photograph; logos and folds of cloth score up to .15
CROP = 256  # pixels to which a crop of a face is brought, whatever its size
RECTANGLE = (0.06, 0.15, 0.89, 0.99)  # left, top, right, bottom of the face in such a crop
BATCH = 32


class Face(NamedTuple):
    """A face in pixels of its picture.

    `box` is left, top, right, bottom; `points` (x, y) are the corners of the eye at the right of the picture (outer,
    inner), of the one at its left (outer, inner), and the place below the nose.
    """

    box: tuple[float, float, float, float]
    points: Float[Tensor, "5 2"]


def are_installed() -> bool:
    """Whether the extra `faces` is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("dlib", "face_recognition_models"))


def library() -> Any:
    """The package dlib.

    Raises:
        UserError: the extra `faces` is not installed.
    """
    try:
        import dlib
    except ImportError as error:
        raise UserError(
            f"Expected the package dlib to read faces, got none ({error}): pip install -c constraints.txt -e "
            "'.[faces]'."
        ) from error
    return dlib


def file(name: str) -> str:
    """The path of a model's file; the package itself cannot be imported without pkg_resources, which is gone.

    Raises:
        UserError: the extra `faces` is not installed.
    """
    found = importlib.util.find_spec("face_recognition_models")
    for folder in [] if found is None else found.submodule_search_locations or []:
        if (path := Path(folder, "models", name)).is_file():
            return str(path)
    raise UserError(
        f"Expected {name} of the package face_recognition_models, got none: pip install -c constraints.txt -e "
        "'.[faces]'."
    )


@cache
def detector() -> Any:
    return library().get_frontal_face_detector()


@cache
def predictor() -> Any:
    return library().shape_predictor(file(LANDMARKS))


@cache
def network() -> Any:
    return library().face_recognition_model_v1(file(IDENTITY))


def as_array(image: UInt8[Tensor, "3 height width"]) -> UInt8[np.ndarray, "height width 3"]:
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


def boxes(image: UInt8[Tensor, "3 height width"], least: float) -> list[Any]:
    """Rectangles of the faces in the image at the size it has, the largest first."""
    found, scores, _ = detector().run(as_array(image), 0, 0.0)
    kept = [box for box, score in zip(found, scores, strict=True) if score >= least]
    return sorted(kept, key=lambda box: (-box.area(), box.left(), box.top()))


def brought_to(image: UInt8[Tensor, "3 height width"], longer: int) -> UInt8[Tensor, "3 _ _"]:
    height, width = image.shape[-2:]
    share = longer / max(height, width)
    size = (max(1, round(height * share)), max(1, round(width * share)))
    return image if share == 1 else functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def predicted(array: UInt8[np.ndarray, "height width 3"], box: Any) -> Float[Tensor, "5 2"]:
    """Landmarks inside a rectangle, in pixels whose centres are at .5."""
    return torch.tensor([[point.x + 0.5, point.y + 0.5] for point in predictor()(array, box).parts()])


def find_faces(image: UInt8[Tensor, "3 height width"]) -> list[Face]:
    """The faces of a photograph of any size, the largest first; the same picture always gives the same list.

    It is looked through with its longer side at 1,024 pixels, and, where nothing is found, at 2,048. Landmarks are
    found at the photograph's own resolution.

    Raises:
        UserError: the extra `faces` is not installed.
    """
    for longer in PASSES:
        seen = brought_to(image, longer)
        if found := boxes(seen, LEAST_SCORE):
            return [measured(image, box, max(image.shape[-2:]) / longer) for box in found]
    return []


def measured(image: UInt8[Tensor, "3 height width"], box: Any, scale: float) -> Face:
    edges = (box.left() * scale, box.top() * scale, box.right() * scale, box.bottom() * scale)
    return Face(edges, predicted(as_array(image), library().rectangle(*(round(edge) for edge in edges))))


def landmarks_of(image: UInt8[Tensor, "3 size size"]) -> Float[Tensor, "5 2"] | None:
    """Landmarks of the largest face in a crop, as shares of the crop's side; None where no face is found."""
    seen = brought_to(image, CROP)
    found = boxes(seen, 0.0)
    return predicted(as_array(seen), found[0]) / CROP if found else None


class DlibIdentity:
    """Images of faces, (batch, 3, size, size) in [0, 1], to the identity network's embeddings, (batch, 128).

    For crops such as data sets have: they are brought to 256 pixels, and where the detector finds nothing there, the
    face is taken to lie in a fixed rectangle, from (.06, .15) to (.89, .99) of the side: the median of detections in
    CelebA's usual crop (160 of 178 pixels) of `photo_faces`. Landmarks found inside of it differ from those at a
    detection by .0006 of the side on average, and distances by less than .001.

    Of 100 people with two photographs each, from there, the two lie .44 apart and two people .82 at 64 and at 128
    pixels; a threshold between them is right for 99.9 % of (same, different). An image takes .1 to .2 s on one core,
    nearly all of it in the network.

    Raises:
        UserError: the extra `faces` is not installed.
    """

    def __init__(self) -> None:
        network(), predictor(), detector()  # says at once what is missing

    def __call__(self, images: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 128"]:
        return self.at(images, self.landmarks(images))

    def landmarks(self, images: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 5 2"]:
        """Landmarks of the largest face of each image, as shares of its side."""
        fixed = library().rectangle(*(round(share * CROP) for share in RECTANGLE))
        points = []
        for image in crops(images):
            found = boxes(image, 0.0)
            points.append(predicted(as_array(image), found[0] if found else fixed) / CROP)
        return torch.stack(points) if points else torch.empty(0, 5, 2)

    def at(
        self, images: Float[Tensor, "batch 3 size size"], landmarks: Float[Tensor, "batch 5 2"]
    ) -> Float[Tensor, "batch 128"]:
        """Embeddings at given landmarks: at those of the original, an edit cannot move the crop that is compared."""
        arrays = [as_array(image) for image in crops(images)]
        chips = [chip(array, points) for array, points in zip(arrays, landmarks, strict=True)]
        found = [np.array(network().compute_face_descriptor(part)) for part in parted(chips)]
        embeddings = torch.from_numpy(np.concatenate(found)) if found else torch.empty(0, 128)
        return embeddings.to(images.device, torch.float32)


def crops(images: Float[Tensor, "batch 3 size size"]) -> UInt8[Tensor, "batch 3 256 256"]:
    large = functional.interpolate(images.detach().cpu().float(), (CROP, CROP), mode="bicubic", antialias=True)
    return large.clamp(0, 1).mul(255).round().to(torch.uint8)


def chip(array: UInt8[np.ndarray, "256 256 3"], landmarks: Float[Tensor, "5 2"]) -> UInt8[np.ndarray, "150 150 3"]:
    """The upright face that the network reads."""
    dlib = library()
    points = [dlib.point(int(x), int(y)) for x, y in (landmarks * CROP).tolist()]
    whole = dlib.rectangle(0, 0, CROP - 1, CROP - 1)  # which only the landmarks' predictor would read
    return dlib.get_face_chip(array, dlib.full_object_detection(whole, points), 150, 0.25)


def parted(chips: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    return [list(chips[start : start + BATCH]) for start in range(0, len(chips), BATCH)]
