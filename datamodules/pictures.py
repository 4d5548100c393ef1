"""Turn any picture into pixels: a file, its bytes, a picture of Pillow or an array, all by the same function.

Pictures become upright by their EXIF orientation, with eight bits a channel, in grey or RGB, transparent or not:

- 16 bits a channel: the high eight. Whole numbers of 32 bits: from 0 to 255 as they are, else from 0 to 65,535.
- decimals: from 0 to 1 or from 0 to 255; numbers that fit neither, or either, are refused.
- palettes, CMYK, YCbCr, HSV and LAB: RGB. Colour profiles do not change the pixels, as in torchvision and open_clip.
- several frames or pages: the first; of a picture of Pillow that one which it shows.
"""

import io
import math
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from models import UserError

__all__ = [
    "HEIF", "IMAGE_SUFFIXES", "KEPT", "UNCLEAR", "ImageSource", "decode", "frames_of", "has_heif", "is_deep",
    "is_image", "loaded", "picture_of", "square_of", "to_rgb", "why_unreadable",
]  # fmt: skip

ImageSource: TypeAlias = str | Path | bytes | Image.Image | np.ndarray

KEPT = ("L", "LA", "RGB", "RGBA")  # modes of pictures with eight bits a channel
HEIF = (".heic", ".heif", ".hif")  # are read where pillow-heif is installed
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".apng", ".bmp", ".dib", ".webp", ".avif", ".tif", ".tiff",
    ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpf", ".jpx", ".jpc", ".j2c", ".tga", *HEIF,
)  # fmt: skip
UNCLEAR = "an unclear range of numbers"


def is_image(name: str) -> bool:
    """Return whether a file's name ends like that of a picture.

    >>> is_image("a.JFIF"), is_image("a.txt")
    (True, False)
    """
    return name.lower().endswith(IMAGE_SUFFIXES)


def has_heif() -> bool:
    """Let Pillow read HEIC where the package pillow-heif is installed, and return whether it is."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def frames_of(image: Image.Image) -> int:
    """Return the number of frames or pages; the preview in a phone's JPEG is none."""
    return 1 if image.format in ("JPEG", "MPO") else int(getattr(image, "n_frames", 1))


def in_eight_bits(numbers: np.ndarray) -> UInt8[np.ndarray, "*shape"]:
    """Scale numbers to 0 … 255, see the top of this module.

    Raises:
        ValueError: they fit no range, or more than one.

    >>> in_eight_bits(np.array([0.0, 0.5, 1.0])).tolist(), in_eight_bits(np.array([0, 4096, 65535])).tolist()
    ([0, 128, 255], [0, 16, 255])
    """
    if numbers.dtype == np.uint8:
        return numbers
    if numbers.dtype == np.bool_:
        return numbers.astype(np.uint8) * np.uint8(255)
    if numbers.dtype.kind == "u" and numbers.dtype.itemsize == 2:
        return (numbers >> 8).astype(np.uint8)
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)
    whole = numbers.dtype.kind in "iu"
    if 0 <= low and high <= (255 if whole else 1):
        return numbers.astype(np.uint8) if whole else np.rint(numbers.astype(np.float64) * 255).astype(np.uint8)
    if 0 <= low and whole and high <= 65_535:
        return (numbers.astype(np.int64) >> 8).astype(np.uint8)
    if 0 <= low and 2 < high <= 255:  # up to 2 it may be from 0 to 1, with overshoot
        return np.rint(numbers).astype(np.uint8)
    known = "whole numbers from 0 to 65535" if whole else "decimals from 0 to 1, or from 0 to 255"
    got = f"{low:g} to {high:g}" if math.isfinite(low) and math.isfinite(high) else "NaN or infinity"
    raise ValueError(f"{got} for {known}")


def from_array(array: np.ndarray) -> Image.Image:
    """Return an array of (height, width), with one to four channels last or first, as a picture.

    Raises:
        ValueError: it has another shape, or numbers of an unclear range.
    """
    if array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4) and array.shape[0] in (1, 2, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim not in (2, 3) or not array.size or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        raise ValueError(f"an array of shape {array.shape} for (height, width) or (height, width, 3)")
    pixels = in_eight_bits(array)
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))


def from_lab(image: Image.Image) -> Image.Image:
    """Convert a picture from CIELAB to sRGB."""
    from PIL import ImageCms

    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    assert converted is not None  # which is for inPlace=True
    return converted


def is_deep(image: Image.Image) -> bool:
    """Return whether a picture has 16 bits a channel, also where Pillow read only the high eight of them."""
    return ";16" in f"{image.mode} {getattr(image, 'tile', '')}"  # Pillow's name of the raw mode


def in_kept_mode(image: Image.Image, deep: bool) -> Image.Image:
    """Convert a picture to one of the modes of `KEPT`, with its colour profile where that still applies.

    Raises:
        ValueError: its numbers are of an unclear range.
    """
    profile = image.info.get("icc_profile") if image.mode in (*KEPT, "P", "PA") else None
    if image.mode.startswith("I") or image.mode == "F":
        numbers = np.asarray(image)
        converted = from_array(numbers.astype(np.uint16) if deep else numbers)
    elif image.mode == "LAB":
        converted = from_lab(image)
    elif image.mode in ("La", "RGBa"):
        converted = image.convert(image.mode.upper())
    elif image.has_transparency_data:
        converted = image.convert("LA" if image.mode == "LA" else "RGBA")
    else:
        converted = image.convert("L" if image.mode in ("1", "L") else "RGB")
    # Place, camera and thumbnail belong to the original picture.
    converted.info = {} if profile is None else {"icc_profile": profile}
    return converted


def loaded(source: ImageSource, least: int | None = None) -> Image.Image:
    """Open a source, of a much larger JPEG at a half, a quarter or an eighth of its size, where `least` is given."""
    if isinstance(source, np.ndarray):
        return from_array(source)
    if isinstance(source, Image.Image):
        return source
    content = source if isinstance(source, bytes) else Path(source).expanduser().read_bytes()
    image = Image.open(io.BytesIO(content))
    if least is not None:
        image.draft(None, (least, least))
    return image


def picture_of(source: ImageSource, least: int | None = None) -> Image.Image:
    """Return a picture upright, with eight bits a channel, in a mode of `KEPT`; see the top of this module.

    `least` is the smallest side that is needed: of larger files a smaller version may be read.

    Raises:
        Exception: nearly any, for a damaged file; `why_unreadable` names the reason.
    """
    image = loaded(source, least)
    deep = is_deep(image)
    upright = ImageOps.exif_transpose(image)
    upright.load()
    return in_kept_mode(upright, deep)


def to_rgb(picture: Image.Image) -> Image.Image:
    """Convert a picture of a mode of `KEPT` to RGB; transparency becomes white."""
    if picture.mode in ("LA", "RGBA"):
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def square_of(picture: Image.Image, size: int, crop: float = 1.0) -> UInt8[np.ndarray, "3 size size"]:
    """Return the centred square, `crop` times the shorter side, in RGB, resized with antialiasing."""
    width, height = picture.size
    side = max(1, round(crop * min(width, height)))
    left, top = (width - side) // 2, (height - side) // 2
    square = to_rgb(picture).crop((left, top, left + side, top + side))  # resize(box=) would use pixels outside of it
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def decode(source: ImageSource, size: int, crop: float = 1.0) -> UInt8[np.ndarray, "3 size size"]:
    """Decode the centred square of a picture, see `picture_of` and `square_of`."""
    # A JPEG is decoded at no less than twice the requested size.
    return square_of(picture_of(source, math.ceil(2 * size / crop)), size, crop)


def why_unreadable(error: Exception, name: str = "") -> str:
    """Return in a few words why a picture cannot be read.

    >>> why_unreadable(OSError("image file is truncated (3 bytes not processed)"))
    'truncated'
    """
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if name.lower().endswith(HEIF) and not has_heif():
        return "HEIC, which the package pillow-heif reads: pip install pillow-heif"
    words = str(error).lower()
    if isinstance(error, UnidentifiedImageError):
        return "no picture"
    if "truncated" in words or "not enough" in words or isinstance(error, EOFError):
        return "truncated"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels"
    if isinstance(error, PermissionError):
        return "no permission"
    if isinstance(error, ValueError) and " for " in words and not isinstance(error, UserError):
        return UNCLEAR
    return "damaged"
