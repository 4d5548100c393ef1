"""Read the user's photographs, show them to an encoder, and compose edits into them at their own resolution."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from datamodules.factors import ImageData
from datamodules.pictures import frames_of, is_deep, loaded, picture_of, to_rgb
from datamodules.splits import TRAIN
from evaluation.editing.alignment import Square, centred, changed_part, cut_out, side_of, similarity
from models import UserError, dlib_faces
from models.composition import compose
from training.files import ImageSource, name_of, read_image, read_json, readable_picture, to_pillow, write_json
from training.run_files import damaged

__all__ = [
    "Framed",
    "Preprocessing",
    "Subjects",
    "centre_of",
    "facing",
    "stored_landmarks",
    "read_photograph",
    "to_tensor",
]

PLACE = "face_place.json"  # in the run folder
LANDMARK_IMAGES = 64  # training images whose median landmarks are taken
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


class Framed(NamedTuple):
    """An upright photograph, in mode L, LA, RGB or RGBA, and the square of it that the encoder sees."""

    picture: Image.Image
    square: Square

    def colours(self) -> UInt8[Tensor, "3 height width"]:
        """Return the photograph as RGB, with a white background where it is transparent."""
        return to_tensor(to_rgb(self.picture))

    def seen(self, size: int) -> UInt8[Tensor, "3 size size"]:
        """Return the square resized like the run's images, by Pillow's bicubic filter."""
        square = to_picture(self.content(side_of(self.square)))
        return to_tensor(square.resize((size, size), Image.Resampling.BICUBIC))

    def content(self, side: int) -> Float[Tensor, "3 side side"]:
        """Crop the square at a side in pixels, in [0, 1]."""
        return cut_out(self.colours(), self.square, side)

    def composed(
        self, reconstruction: Float[Tensor, "3 size size"], edited: Float[Tensor, "3 size size"], how: str
    ) -> "Framed":
        """Compose the change from the reconstruction to the edit into the square, and return the whole photograph.

        Where the two are equal the photograph is returned bit for bit.
        """
        before = self.content(side_of(self.square))
        after = compose(before[None], reconstruction[None], edited[None], how)[0]
        return Framed(with_change(self.picture, after - before, self.square), self.square)


class Preprocessing(NamedTuple):
    """How images are read for an encoder: the square in the middle, resized to its side, grey where `channels` is 1.

    `crop` is the side of the square as a share of the shorter side of the image.
    """

    size: int
    crop: float = 1.0
    channels: int = 3

    def read(self, images: Sequence[ImageSource]) -> UInt8[Tensor, "n channels size size"]:
        """Read files or pictures.

        Raises:
            UserError: no such file, or one that is no image.
        """
        return self.recoloured(torch.stack([read_image(image, self.size, self.crop) for image in images]))

    def recoloured(self, pixels: UInt8[Tensor, "n 3 size size"]) -> UInt8[Tensor, "n channels size size"]:
        """Convert colours to grey where the data of the encoder are grey."""
        if self.channels == 3:
            return pixels
        # Rounded, unlike torchvision's conversion, so that grey pixels stay exactly as they are.
        grey = (pixels * pixels.new_tensor(LUMA, dtype=torch.float64)[:, None, None]).sum(1, keepdim=True)
        return grey.round().to(torch.uint8)


class Subjects(NamedTuple):
    """Images to edit, as the encoder reads them, and the photographs `framed` that they are cropped from, if any."""

    pixels: UInt8[Tensor, "n 3 size size"]
    framed: list[Framed] | None = None

    def composed(
        self, reconstruction: Float[Tensor, "n 3 size size"], edited: Float[Tensor, "n 3 size size"], how: str
    ) -> list[Image.Image]:
        """Compose edits into their photographs, each whole and at its own resolution.

        Images of the encoder's size are returned at that size; with `how="none"` the decoded edits are returned.
        """
        if how == "none":
            return to_pillow(edited)
        if self.framed is None:
            return to_pillow(compose(self.pixels.float() / 255, reconstruction, edited, how))
        parts = zip(self.framed, reconstruction, edited, strict=True)
        return [framed.composed(before, after, how).picture for framed, before, after in parts]


def to_tensor(picture: Image.Image) -> UInt8[Tensor, "channels height width"]:
    """Convert a Pillow image to a tensor."""
    pixels = np.asarray(picture)
    return torch.from_numpy(np.atleast_3d(pixels).transpose(2, 0, 1).copy())


def to_picture(colours: Float[Tensor, "3 height width"]) -> Image.Image:
    """Convert an RGB tensor in [0, 1] to a Pillow image."""
    return Image.fromarray(colours.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def read_photograph(image: ImageSource) -> Image.Image:
    """Read an image for editing: upright by its EXIF orientation, with eight bits a channel, in a mode of `KEPT`.

    Grey and transparency are kept; palettes, CMYK and the like become RGB. A colour profile is kept if it is still
    valid. Of sixteen bits a channel the high eight are kept, and of several frames the first, with a printed note.

    Raises:
        UserError: no such file, not an image, or one whose numbers are of an unclear range.
    """
    name = name_of(image)
    with readable_picture(image):
        source = loaded(image)
        if is_deep(source):
            print(f"{name} has 16 bits a channel: its edit keeps the high 8.")
        if (count := frames_of(source)) > 1:
            print(f"{name} has {count} frames or pages: one of them is edited, in a file the first.")
        return picture_of(source)


def with_profile(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Keep only the colour profile of the metadata: place, camera and thumbnail belong to the original picture."""
    picture.info = {} if profile is None else {"icc_profile": profile}
    return picture


def with_change(picture: Image.Image, change: Float[Tensor, "3 side side"], square: Square) -> Image.Image:
    """Add a change of the square to a picture, rounded to 8 bits; transparency stays, grey stays grey."""
    pixels = to_tensor(picture)
    part = changed_part(change, square, picture.height, picture.width)
    change = part.change * 255
    if picture.mode in ("L", "LA"):
        change = (change * change.new_tensor(LUMA)[:, None, None]).sum(0, keepdim=True)
    colours, height, width = change.shape
    region = pixels[:colours, part.top : part.top + height, part.left : part.left + width]
    region.copy_((region + change).round().clamp(0, 255))
    changed = Image.fromarray(pixels.permute(1, 2, 0).numpy() if len(pixels) > 1 else pixels[0].numpy())
    return with_profile(changed, picture.info.get("icc_profile"))


def median_landmarks(data: ImageData) -> dict[str, Any]:
    """Compute the median landmarks of the faces in up to 64 training images of a data set.

    `landmarks` are shares of the side of the images, None where fewer than half of the images show a face; `found` of
    `images` images do.

    Raises:
        UserError: the extra `faces` is not installed.
    """
    rows = data.rows(TRAIN)
    rows = rows[torch.linspace(0, len(rows) - 1, min(len(rows), LANDMARK_IMAGES)).round().long()]
    detected = [dlib_faces.landmarks_of(data.images[row].expand(3, -1, -1)) for row in rows.tolist()]
    found = [points for points in detected if points is not None]
    enough = len(found) > 0 and 2 * len(found) >= len(rows)
    landmarks = torch.stack(found).median(0).values.tolist() if enough else None
    return {"landmarks": landmarks, "found": len(found), "images": len(rows)}


def stored_landmarks(folder: Path, data: Callable[[], ImageData]) -> Float[Tensor, "5 2"] | None:
    """Read the median landmarks of a run's images from its folder; compute and store them if they are missing.

    Raises:
        UserError: the data cannot be read, or the extra `faces` is not installed.
    """
    known = read_json(folder / PLACE)
    if "landmarks" not in known:
        known = median_landmarks(data())
        with suppress(UserError):  # a run folder without write permission can still be read
            write_json(folder / PLACE, known)
    if known["landmarks"] is None:
        return None
    try:
        return torch.tensor(known["landmarks"], dtype=torch.float32).reshape(5, 2)
    except (TypeError, ValueError, RuntimeError) as error:
        raise damaged(folder / PLACE, "five landmarks", error) from error


def facing(picture: Image.Image, name: str, place: Float[Tensor, "5 2"], face: int) -> Framed:
    """Choose the square in which the face of a photograph lies where those of the run's images do.

    Faces are numbered by their size, 1 is the largest.

    Raises:
        UserError: no face is found, or fewer than `face`.
    """
    framed = centre_of(picture, 1.0)
    faces = dlib_faces.find_faces(framed.colours())
    if not faces:
        raise UserError(
            f"Expected a face in {name}, got none that is detected: take a photograph from the front, in which it is a "
            "twentieth of the longer side or more, or align=none for the middle of the picture."
        )
    if face > len(faces):
        raise UserError(
            f"Expected face= of at most {len(faces)}, the faces in {name} (1 is the largest), got {face}: choose one."
        )
    return framed._replace(square=similarity(place, faces[face - 1].points))


def centre_of(picture: Image.Image, share: float) -> Framed:
    """Choose the square in the middle whose side is a share of the picture's shorter side."""
    return Framed(picture, centred(picture.height, picture.width, share))
