"""Face detection, landmarks and identity embeddings of photographs, by dlib.

King (2009), "Dlib-ml: A Machine Learning Toolkit". The detector is dlib's frontal one (HOG, five views). The weights of
the five-point landmarks and of the identity network (128 dimensions, trained so that two photographs of one person are
less than .6 apart) come from the package face_recognition_models. Its 68-point landmarks may not be used commercially
and are not loaded here.
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
PASSES = (1024, 2048)  # longer side in pixels: the first pass finds faces from 80 pixels on, a twelfth of it
LEAST_SCORE = 0.2  # of a detection in a whole photograph; logos and folds of cloth score up to .15
CROP = 256  # side in pixels that crops of faces are resized to
RECTANGLE = (0.06, 0.15, 0.89, 0.99)  # left, top, right, bottom of the face in such a crop, as shares of its side
BATCH = 32


class Face(NamedTuple):
    """A detected face, in pixels of its picture.

    `box` is left, top, right, bottom. `points` are (x, y) of the corners of the eye on the right of the picture (outer,
    inner), of the eye on its left (outer, inner), and of the point below the nose.
    """

    box: tuple[float, float, float, float]
    points: Float[Tensor, "5 2"]


def are_installed() -> bool:
    """Return whether the extra `faces` is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("dlib", "face_recognition_models"))


def library() -> Any:
    """Import the package dlib.

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
    """Return the path of a model's file.

    The package itself cannot be imported, because it needs pkg_resources, which no longer exists.

    Raises:
        UserError: the extra `faces` is not installed.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in [] if spec is None else spec.submodule_search_locations or []:
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
    """Detect faces in an image at its own size; return their rectangles with a score of `least` or more.

    The largest comes first.
    """
    detected, scores, _ = detector().run(as_array(image), 0, 0.0)
    kept = [box for box, score in zip(detected, scores, strict=True) if score >= least]
    return sorted(kept, key=lambda box: (-box.area(), box.left(), box.top()))


def resized(image: UInt8[Tensor, "3 height width"], longer: int) -> UInt8[Tensor, "3 _ _"]:
    """Resize an image so that its longer side has so many pixels."""
    height, width = image.shape[-2:]
    share = longer / max(height, width)
    size = (max(1, round(height * share)), max(1, round(width * share)))
    return image if share == 1 else functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def predicted(array: UInt8[np.ndarray, "height width 3"], box: Any) -> Float[Tensor, "5 2"]:
    """Predict the landmarks inside a rectangle, in pixels whose centres are at .5."""
    return torch.tensor([[point.x + 0.5, point.y + 0.5] for point in predictor()(array, box).parts()])


def find_faces(image: UInt8[Tensor, "3 height width"]) -> list[Face]:
    """Detect the faces of a photograph of any size, the largest first; the result is deterministic.

    Faces are detected with the longer side at 1,024 pixels, and, if there are none, at 2,048. Landmarks are predicted
    at the photograph's own resolution.

    Raises:
        UserError: the extra `faces` is not installed.
    """
    for longer in PASSES:
        if detected := boxes(resized(image, longer), LEAST_SCORE):
            return [face_at(image, box, max(image.shape[-2:]) / longer) for box in detected]
    return []


def face_at(image: UInt8[Tensor, "3 height width"], box: Any, scale: float) -> Face:
    """Scale a rectangle to the image's own pixels and predict the landmarks in it."""
    edges = (box.left() * scale, box.top() * scale, box.right() * scale, box.bottom() * scale)
    return Face(edges, predicted(as_array(image), library().rectangle(*(round(edge) for edge in edges))))


def landmarks_of(image: UInt8[Tensor, "3 size size"]) -> Float[Tensor, "5 2"] | None:
    """Return the landmarks of the largest face in a crop, as shares of its side, or None if there is no face."""
    crop = resized(image, CROP)
    detected = boxes(crop, 0.0)
    return predicted(as_array(crop), detected[0]) / CROP if detected else None


class DlibIdentity:
    """Embeds images of faces, (batch, 3, size, size) in [0, 1], with dlib's identity network: (batch, 128).

    Images are crops of faces, as in face data sets. They are resized to 256 pixels. If no face is detected, it is
    assumed to lie in a fixed rectangle, from (.06, .15) to (.89, .99) of the side: the median of the detections in
    CelebA's usual crop (160 of 178 pixels) of `photo_faces`. Landmarks predicted in this rectangle differ from those
    at a detection by .0006 of the side on average, and distances by less than .001.

    Measured on 100 people of that set with two photographs each, at 64 and at 128 pixels: photographs of one person
    are .44 apart, of two people .82, and a threshold between them separates 99.9 % of the pairs. An image takes .1 to
    .2 s on one core, nearly all of it in the network.

    Raises:
        UserError: the extra `faces` is not installed.
    """

    def __init__(self) -> None:
        network(), predictor(), detector()  # raises now if something is missing

    def __call__(self, images: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 128"]:
        return self.at(images, self.landmarks(images))

    def landmarks(self, images: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 5 2"]:
        """Return the landmarks of the largest face of each image, as shares of its side."""
        fixed = library().rectangle(*(round(share * CROP) for share in RECTANGLE))
        points = []
        for image in crops(images):
            detected = boxes(image, 0.0)
            points.append(predicted(as_array(image), detected[0] if detected else fixed) / CROP)
        return torch.stack(points) if points else torch.empty(0, 5, 2)

    def at(
        self, images: Float[Tensor, "batch 3 size size"], landmarks: Float[Tensor, "batch 5 2"]
    ) -> Float[Tensor, "batch 128"]:
        """Embed faces at given landmarks; with those of the original image, an edit cannot move the compared crop."""
        arrays = [as_array(image) for image in crops(images)]
        chips = [chip(array, points) for array, points in zip(arrays, landmarks, strict=True)]
        parts = [np.array(network().compute_face_descriptor(part)) for part in batches_of(chips)]
        embeddings = torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0, 128)
        return embeddings.to(images.device, torch.float32)


def crops(images: Float[Tensor, "batch 3 size size"]) -> UInt8[Tensor, "batch 3 256 256"]:
    """Resize images in [0, 1] to `CROP` pixels, as uint8."""
    large = functional.interpolate(images.detach().cpu().float(), (CROP, CROP), mode="bicubic", antialias=True)
    return large.clamp(0, 1).mul(255).round().to(torch.uint8)


def chip(array: UInt8[np.ndarray, "256 256 3"], landmarks: Float[Tensor, "5 2"]) -> UInt8[np.ndarray, "150 150 3"]:
    """Cut out the aligned face, the input of the identity network."""
    dlib = library()
    points = [dlib.point(int(x), int(y)) for x, y in (landmarks * CROP).tolist()]
    whole = dlib.rectangle(0, 0, CROP - 1, CROP - 1)  # required, but not used for aligning
    return dlib.get_face_chip(array, dlib.full_object_detection(whole, points), 150, 0.25)


def batches_of(chips: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    return [list(chips[start : start + BATCH]) for start in range(0, len(chips), BATCH)]
