"""Any picture becomes the same pixels, by its path, its bytes or as a picture of Pillow; what is unclear is refused."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.pictures import (
    IMAGE_SUFFIXES,
    decode,
    frames_of,
    in_eight_bits,
    is_image,
    picture_of,
    to_rgb,
    why_unreadable,
)


def photograph(size: tuple[int, int] = (24, 16)) -> Image.Image:
    """A smooth picture, so that lossy formats keep it."""
    y, x = np.mgrid[: size[1], : size[0]]
    return Image.fromarray(np.stack([x * 9, y * 14, 200 - x * 4], 2).astype(np.uint8))


def lying() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def lab(picture: Image.Image) -> Image.Image:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(picture, *profiles, outputMode="LAB")
    assert converted is not None
    return converted


# What is stored, and how far the pixels may be from those of the photograph.
FILES: dict[str, tuple[Image.Image, dict[str, Any], int]] = {
    "a.jpg": (photograph(), {"quality": 98, "subsampling": 0}, 4),
    "a.JPE": (photograph(), {"quality": 98, "subsampling": 0, "format": "JPEG"}, 4),
    "a.jfif": (photograph(), {"quality": 98, "subsampling": 0, "format": "JPEG"}, 4),
    "cmyk.jpg": (photograph().convert("CMYK"), {"quality": 98}, 6),
    "cmyk.tif": (photograph().convert("CMYK"), {}, 1),
    "lab.tif": (lab(photograph()), {}, 20),
    "ycbcr.tif": (photograph().convert("YCbCr"), {}, 3),
    "palette.png": (photograph().quantize(256), {}, 24),
    "opaque.webp": (photograph().convert("RGBA"), {"lossless": True}, 0),
    "a.jp2": (photograph(), {"irreversible": False}, 0),
    "a.bmp": (photograph(), {}, 0),
    "a.PPM": (photograph(), {}, 0),
    "a.tga": (photograph(), {}, 0),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_by_path_bytes_and_pillow(name: str, tmp_path: Path) -> None:
    stored, options, tolerance = FILES[name]
    stored.save(tmp_path / name, **options)
    assert is_image(name)
    pixels = decode(tmp_path / name, 16)
    right = decode(photograph(), 16)
    assert np.abs(pixels.astype(int) - right).max() <= tolerance
    assert np.array_equal(decode((tmp_path / name).read_bytes(), 16), pixels)
    with Image.open(tmp_path / name) as opened:
        assert np.array_equal(decode(opened, 16), pixels)


def test_avif_is_read(tmp_path: Path) -> None:
    features = pytest.importorskip("PIL.features")
    if not features.check("avif"):
        pytest.skip("Pillow was built without AVIF")
    photograph().save(tmp_path / "a.avif", quality=95)
    assert np.abs(decode(tmp_path / "a.avif", 16).astype(int) - decode(photograph(), 16)).max() < 20


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "HSV", "LAB", "P", "1", "I", "F", "RGBA", "YCbCr"])
def test_a_picture_of_pillow_in_any_mode(mode: str) -> None:
    picture = lab(photograph()) if mode == "LAB" else photograph().convert(mode)
    pixels = decode(picture, 16)
    grey = mode in ("L", "1", "I", "F")
    right = decode(photograph().convert("1" if mode == "1" else "L") if grey else photograph(), 16)
    assert np.abs(pixels.astype(int) - right).max() <= {"P": 60, "HSV": 8, "LAB": 20, "YCbCr": 3}.get(mode, 0)
    before = picture.tobytes()
    decode(picture, 4)
    assert picture.tobytes() == before


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_phone_picture_is_upright_however_it_comes(kind: str) -> None:
    file = io.BytesIO()
    photograph().save(file, kind, exif=lying())
    upright = decode(file.getvalue(), 16)
    with Image.open(io.BytesIO(file.getvalue())) as opened:
        assert np.array_equal(decode(opened, 16), upright)
        turned = picture_of(opened)
        assert turned.size == (16, 24)
    assert np.abs(upright.astype(int) - decode(photograph().rotate(-90, expand=True), 16)).max() < 30


def test_sixteen_bits_of_any_byte_order() -> None:
    deep = (np.arange(96, dtype=np.uint16) * 680).reshape(8, 12)
    right = (deep >> 8).astype(np.uint8)
    for picture in (deep, Image.fromarray(deep), Image.fromarray(deep.astype(np.int32))):
        assert np.array_equal(np.asarray(picture_of(picture)), right)
    for kind in ("PNG", "TIFF"):
        file = io.BytesIO()
        Image.fromarray(deep).save(file, kind)
        assert np.array_equal(np.asarray(picture_of(file.getvalue())), right)
    big = Image.frombytes("I;16B", (12, 8), deep.astype(">u2").tobytes())
    assert np.array_equal(np.asarray(picture_of(big)), right)


def test_ranges_of_numbers() -> None:
    level = np.array([[0, 51, 255]])
    for numbers in (level, level.astype(np.float32), level / 255, level.astype(np.int32), level.astype(np.int64)):
        assert in_eight_bits(numbers).tolist() == [[0, 51, 255]]
    assert in_eight_bits(np.array([[True, False]])).tolist() == [[255, 0]]
    unclear: list[list[Any]] = [[-1.0, 1.0], [0.0, 1.5], [0.0, 300.0], [0.0, np.nan], [-1, 5], [0, 70_000]]
    for row in unclear:
        with pytest.raises(ValueError, match=r"for (decimals|whole numbers) from 0"):
            in_eight_bits(np.array([row]))


def test_arrays_with_channels_first_or_last() -> None:
    pixels = np.asarray(photograph())
    for array in (
        pixels,
        pixels.transpose(2, 0, 1),
        pixels / 255,
        np.dstack([pixels, np.full((16, 24), 255, np.uint8)]),
    ):
        assert np.array_equal(np.asarray(to_rgb(picture_of(array))), pixels)
    assert picture_of(pixels[..., :1]).mode == "L"
    with pytest.raises(ValueError, match=r"shape \(2, 16, 24, 3\) for \(height, width\)"):
        picture_of(np.stack([pixels, pixels]))


def test_transparency_becomes_white() -> None:
    palette = photograph().quantize(16)
    palette.info["transparency"] = palette.getpixel((0, 0))
    bits = Image.new("1", (4, 4), 0)
    bits.info["transparency"] = 0
    keyed = Image.new("RGB", (4, 4), (1, 2, 3))
    keyed.info["transparency"] = (1, 2, 3)
    for picture in (palette, bits, keyed, Image.new("LA", (4, 4), (9, 0)), Image.new("RGBa", (4, 4), (0, 0, 0, 0))):
        assert to_rgb(picture_of(picture)).getpixel((0, 0)) == (255, 255, 255), picture.mode


def test_the_first_of_several_frames(tmp_path: Path) -> None:
    first, second = photograph(), photograph().rotate(180)
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        options: dict[str, Any] = {"lossless": True} if name == "a.webp" else {}
        first.save(tmp_path / name, save_all=True, append_images=[second], **options)
        with Image.open(tmp_path / name) as opened:
            assert frames_of(opened) == 2
            opened.seek(1)
            assert np.abs(decode(opened, 16).astype(int) - decode(second, 16)).max() < 40
        assert np.abs(decode(tmp_path / name, 16).astype(int) - decode(first, 16)).max() < 40


def test_why_a_file_cannot_be_read(tmp_path: Path) -> None:
    file = io.BytesIO()
    photograph((300, 300)).save(file, "JPEG")
    (tmp_path / "half.jpg").write_bytes(file.getvalue()[:2000])
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "empty.png").touch()
    whys = {}
    for name in ("half.jpg", "page.jpg", "empty.png", "none.jpg"):
        with pytest.raises(Exception) as error:  # noqa: PT011
            decode(tmp_path / name, 8)
        whys[name] = why_unreadable(error.value, name)
    assert whys == {
        "half.jpg": "truncated",
        "page.jpg": "no picture",
        "empty.png": "no picture",
        "none.jpg": "no such file",
    }
    assert ".heic" in IMAGE_SUFFIXES
