"""Decoding against pictures with known pixels, and the cache through every kind of damage."""

import hashlib
import io
import json
import os
import shutil
import time
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from rich.console import Console

from datamodules import file_digests, progress
from datamodules import images as module
from datamodules.images import (
    Decoded,
    EncodedImages,
    content_digest,
    decode,
    decode_images,
    from_files,
    from_parquet,
    from_zip,
)
from models import UserError

Usage = namedtuple("Usage", "total used free")
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def png(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain_png(level: int) -> bytes:
    return png(Image.new("RGB", (12, 10), (level, level, level)))


def stored(folder: Path, contents: dict[str, bytes]) -> EncodedImages:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return from_files([folder / name for name in contents], list(contents))


def levels(decoded: Decoded) -> list[int]:
    """The grey level of each (plain) image."""
    assert (decoded.images == decoded.images[:, :1, :1, :1]).all()
    return decoded.images[:, 0, 0, 0].tolist()


def cache_folder(cache: Path) -> Path:
    (folder,) = (cache / "images").iterdir()
    return folder


def halves(left: tuple[int, int, int], right: tuple[int, int, int], size: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def test_decode_keeps_channels_and_places() -> None:
    pixels = decode(png(halves(RED, BLUE, (8, 8))), 8)
    assert pixels.shape == (3, 8, 8) and pixels.dtype == np.uint8
    assert pixels[:, 0, 0].tolist() == [255, 0, 0] and pixels[:, 7, 7].tolist() == [0, 0, 255]


def test_centre_crop_is_square_and_centred() -> None:
    image = Image.new("RGB", (178, 218), GREEN)
    image.paste(RED, (9, 29, 169, 189))  # the centred 160
    assert (decode(png(image), 16, 160 / 178).reshape(3, -1).T == RED).all()
    small = image.resize((89, 109), Image.Resampling.NEAREST)
    assert decode(png(small), 16, 160 / 178)[0].mean() > 250
    assert decode(png(image), 178)[1, 0].max() == 255  # without crop the border is seen


def test_resize_is_antialiased() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    pixels = decode(png(Image.fromarray(stripes)), 8)
    assert np.abs(pixels.astype(int) - 127).max() <= 6


def test_a_large_photograph_decodes_like_a_small_one() -> None:
    gradient = np.linspace(0, 255, 2048).astype(np.uint8)[None, :, None].repeat(1600, 0).repeat(3, 2)
    large = decode(png(Image.fromarray(gradient), "JPEG", quality=95), 32).astype(int)
    exact = np.asarray(Image.fromarray(gradient[:, 224:1824]).resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(large - exact.transpose(2, 0, 1)).max() <= 3


def test_exif_rotation_is_undone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side: upright after a quarter turn clockwise
    lying = halves(RED, BLUE, (16, 16))
    pixels = decode(png(lying, "JPEG", exif=exif, quality=100, subsampling=0), 16).astype(int)
    assert (pixels[0, 2] > 200).all() and (pixels[2, 2] < 60).all()  # red is on top
    assert (pixels[2, 13] > 200).all() and (pixels[0, 13] < 60).all()


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("L", (6, 6), 77), (77, 77, 77)),
        (Image.new("1", (6, 6), 1), (255, 255, 255)),
        (Image.new("RGB", (6, 6), GREEN).quantize(4), GREEN),
        (Image.new("RGBA", (6, 6), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (6, 6), (255, 0, 0, 255)), RED),
        (Image.new("LA", (6, 6), (10, 0)), (255, 255, 255)),
        (Image.fromarray(np.full((6, 6), 0x4000, np.uint16)), (0x40, 0x40, 0x40)),
    ],
    ids=["grey", "bits", "palette", "transparent", "opaque", "grey transparent", "16 bit"],
)
def test_every_mode_becomes_rgb(image: Image.Image, colour: tuple[int, int, int]) -> None:
    assert (decode(png(image), 4).reshape(3, -1).T == colour).all()


def test_cmyk_jpeg_becomes_rgb() -> None:
    content = png(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")
    assert decode(content, 4).min() >= 250


def test_decoded_once_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stored(tmp_path / "in", {f"{i}.png": plain_png(i * 20) for i in range(10)})
    first = decode_images(source, 4, tmp_path / "cache")
    assert first.images.shape == (10, 3, 4, 4) and first.images.dtype == torch.uint8
    assert levels(first) == [i * 20 for i in range(10)]
    assert first.rows.tolist() == list(range(10)) and first.skipped == []
    monkeypatch.setattr(module, "decode", lambda *_: pytest.fail("decoded again"))
    again = decode_images(source, 4, tmp_path / "cache")
    assert torch.equal(again.images, first.images) and again.fingerprint == first.fingerprint
    names = {path.name for path in cache_folder(tmp_path / "cache").iterdir()}
    assert names == {"images.uint8", "manifest.json"}


def test_size_crop_and_changed_files_make_another_cache(tmp_path: Path) -> None:
    source = stored(tmp_path / "in", {"a.png": plain_png(10), "b.png": plain_png(20)})
    prints = {decode_images(source, size, tmp_path / "c", crop).fingerprint for size in (4, 8) for crop in (1.0, 0.5)}
    (tmp_path / "in" / "a.png").write_bytes(plain_png(11))
    prints.add(decode_images(source, 4, tmp_path / "c").fingerprint)
    assert len(prints) == 5 == len(list((tmp_path / "c" / "images").iterdir()))


def test_two_files_swapped_are_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BMPs of one size have equally long files; their times are made equal, too."""
    monkeypatch.setattr(file_digests, "RECENT", 0)  # as if the files were older than two seconds
    for name, colour in (("a.bmp", "red"), ("b.bmp", "blue")):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(tmp_path / "in" / name)
        os.utime(tmp_path / "in" / name, (1e9, 1e9))
    source = from_files([tmp_path / "in/a.bmp", tmp_path / "in/b.bmp"], ["a.bmp", "b.bmp"])
    first = decode_images(source, 4, tmp_path / "c")
    (tmp_path / "in/a.bmp").rename(tmp_path / "in/other")
    (tmp_path / "in/b.bmp").rename(tmp_path / "in/a.bmp")
    (tmp_path / "in/other").rename(tmp_path / "in/b.bmp")
    swapped = decode_images(source, 4, tmp_path / "c")
    assert swapped.fingerprint != first.fingerprint
    assert torch.equal(swapped.images, first.images.flip(0)) and first.images[0, 0].min() == 255


def test_a_file_written_over_in_place_at_its_old_time_is_another_image(tmp_path: Path) -> None:
    source = stored(tmp_path / "in", {"a.bmp": png(Image.new("RGB", (8, 8), "red"), "BMP")})
    status, first = (tmp_path / "in/a.bmp").stat(), decode_images(source, 4, tmp_path / "c")
    (tmp_path / "in/a.bmp").write_bytes(png(Image.new("RGB", (8, 8), "blue"), "BMP"))  # within two seconds
    os.utime(tmp_path / "in/a.bmp", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert decode_images(source, 4, tmp_path / "c").fingerprint != first.fingerprint


def test_touched_copied_and_moved_files_are_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {"a.png": plain_png(10), "b.png": plain_png(20)}
    first = decode_images(stored(tmp_path / "in", contents), 4, tmp_path / "c")
    monkeypatch.setattr(module, "build", lambda *_: pytest.fail("decoded again"))
    os.utime(tmp_path / "in/a.png")
    shutil.copytree(tmp_path / "in", tmp_path / "copy")
    for folder in ("in", "copy"):
        source = from_files([tmp_path / folder / name for name in contents], list(contents))
        assert decode_images(source, 4, tmp_path / "c").fingerprint == first.fingerprint


def test_digests_are_remembered_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_digests, "RECENT", 0)
    read: list[str] = []
    whole = file_digests.digest

    def counted(path: Path) -> bytes:
        read.append(path.name)
        return whole(path)

    monkeypatch.setattr(file_digests, "digest", counted)
    paths = [tmp_path / name for name in ("a", "b", "missing")]
    paths[0].write_bytes(b"a")
    paths[1].write_bytes(b"b")
    right = [hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest(), "00" * 32]
    assert file_digests.digests(paths, tmp_path / "c") == right and sorted(read) == ["a", "b", "missing"]
    assert file_digests.digests(paths, tmp_path / "c") == right and read[3:] == ["missing"]
    paths[1].write_bytes(b"c")
    right[1] = hashlib.sha256(b"c").hexdigest()
    assert file_digests.digests(paths, tmp_path / "c") == right and sorted(read[4:]) == ["b", "missing"]
    (file,) = (tmp_path / "c" / "digests").iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # a flipped bit of a remembered digest
    file.write_bytes(content)
    assert file_digests.digests(paths, tmp_path / "c") == right and len(read) == 9


def test_unreadable_images_among_thousands_are_listed_and_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = {f"{i:04d}.png": plain_png(i % 251) for i in range(2000)}
    whole = png(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")
    contents["0017.png"] = whole[: len(whole) // 2]
    contents["1001.png"] = b"<html>quota exceeded</html>"
    contents["1999.png"] = b""
    decoded = decode_images(stored(tmp_path / "in", contents), 4, tmp_path / "cache")
    assert decoded.skipped == ["0017.png", "1001.png", "1999.png"]
    assert decoded.rows.tolist() == [i for i in range(2000) if i not in (17, 1001, 1999)]
    assert levels(decoded) == [i % 251 for i in decoded.rows.tolist()]
    assert "Skipped unreadable images: 0017.png, 1001.png, 1999.png" in capsys.readouterr().out
    source = from_files([tmp_path / "in" / name for name in contents], list(contents))
    again = decode_images(source, 4, tmp_path / "cache")
    assert again.skipped == decoded.skipped and again.fingerprint == decoded.fingerprint


def test_too_many_unreadable_images(tmp_path: Path) -> None:
    contents = {f"{i}.png": plain_png(i) for i in range(20)} | {f"bad{i}.png": b"no" for i in range(3)}
    source = stored(tmp_path / "in", contents)
    with pytest.raises(
        UserError, match=r"at most 1.00% of 23.*got 3 or more \(bad0.png, bad1.png, bad2.png: 3 no picture\)"
    ) as caught:
        decode_images(source, 4, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache" / "images").iterdir()) == []
    assert decode_images(source, 4, tmp_path / "cache", max_unreadable=0.2).skipped == [
        "bad0.png",
        "bad1.png",
        "bad2.png",
    ]
    with pytest.raises(UserError, match="at most 1.00%"):  # also of a cache made under a looser rule
        decode_images(source, 4, tmp_path / "cache")


def test_nothing_readable_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="got 2 or more"):
        decode_images(stored(tmp_path / "in", {"a.png": b"", "b.png": b"no"}), 4, tmp_path / "cache")


def test_a_link_to_nothing_is_unreadable(tmp_path: Path) -> None:
    stored(tmp_path / "in", {"a.png": plain_png(1)})
    (tmp_path / "in" / "b.png").symlink_to(tmp_path / "gone.png")
    source = from_files([tmp_path / "in" / "a.png", tmp_path / "in" / "b.png"], ["a.png", "b.png"])
    assert decode_images(source, 4, tmp_path / "cache").skipped == ["b.png"]


def truncate(folder: Path) -> None:
    os.truncate(folder / "images.uint8", 100)


def flip(folder: Path) -> None:
    with (folder / "images.uint8").open("r+b") as file:
        file.seek(50)
        file.write(b"\xee")


def empty_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("")


def edited_manifest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"skipped": [1]}))


def other_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[1, 2]")


def no_pixels(folder: Path) -> None:
    (folder / "images.uint8").unlink()


def file_in_its_place(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


@pytest.mark.parametrize(
    "damage", [truncate, flip, empty_manifest, edited_manifest, other_manifest, no_pixels, file_in_its_place]
)
def test_damaged_cache_is_rebuilt_and_said(damage: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = stored(tmp_path / "in", {f"{i}.png": plain_png(i) for i in range(5)})
    decode_images(source, 4, tmp_path / "cache")
    damage(cache_folder(tmp_path / "cache"))  # type: ignore[operator]
    decoded = decode_images(source, 4, tmp_path / "cache")
    assert levels(decoded) == [0, 1, 2, 3, 4]
    assert "is damaged: decoding the images again" in capsys.readouterr().out


def test_interrupted_decoding_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stored(tmp_path / "in", {f"{i}.png": plain_png(i) for i in range(5)})

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "decode", interrupt)
        with pytest.raises(KeyboardInterrupt):
            decode_images(source, 4, tmp_path / "cache")
    assert list((tmp_path / "cache" / "images").iterdir()) == []
    assert levels(decode_images(source, 4, tmp_path / "cache")) == [0, 1, 2, 3, 4]


def test_what_a_killed_process_left_is_removed_later(tmp_path: Path) -> None:
    source = stored(tmp_path / "in", {"a.png": plain_png(1)})
    old, fresh = (tmp_path / "cache" / "images" / name for name in ("x.old.tmp", "x.fresh.tmp"))
    for folder in (old, fresh):
        folder.mkdir(parents=True)
        (folder / "images.uint8").write_bytes(b"half")
    long_ago = time.time() - 7200
    os.utime(old / "images.uint8", (long_ago, long_ago))
    os.utime(old, (long_ago, long_ago))
    decode_images(source, 4, tmp_path / "cache")
    assert not old.exists() and fresh.exists()


def test_another_process_was_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stored(tmp_path / "in", {"a.png": plain_png(7)})
    expected = decode_images(source, 4, tmp_path / "other")
    write = module.write_images

    def slow(*arguments: Any) -> None:
        write(*arguments)
        shutil.copytree(tmp_path / "other", tmp_path / "cache", dirs_exist_ok=True)

    monkeypatch.setattr(module, "write_images", slow)
    assert torch.equal(decode_images(source, 4, tmp_path / "cache").images, expected.images)
    assert cache_folder(tmp_path / "cache").name == cache_folder(tmp_path / "other").name


def test_cache_folder_that_is_a_file(tmp_path: Path) -> None:
    source = stored(tmp_path / "in", {"a.png": plain_png(1)})
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match="cache folder to write to, got Not a directory.*set cache_dir") as caught:
        decode_images(source, 4, tmp_path / "cache")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        ("mkdir", 30, "Read-only file system"),
        ("mkdir", 13, "Permission denied"),
        ("open", 28, "No space left on device"),
    ],
)
def test_cache_folder_that_cannot_be_written(
    name: str, number: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = stored(tmp_path / "in", {"a.png": plain_png(1)})
    original = getattr(Path, name)

    def refuse(path: Path, *arguments: object, **options: object) -> object:
        if "cache" in path.parts and (name == "mkdir" or path.name == "images.uint8"):
            raise OSError(number, os.strerror(number), str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(UserError, match=message):
        decode_images(source, 4, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("images/*"))


def test_too_little_room_is_said_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stored(tmp_path / "in", {"a.png": plain_png(1), "b.png": plain_png(2)})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**30, 2**29, 2**20))
    monkeypatch.setattr(module, "decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError, match="Expected 6 MiB free.*got 1 MiB"):
        decode_images(source, 1024, tmp_path / "cache")
    assert list((tmp_path / "cache" / "images").iterdir()) == []


def test_finished_cache_can_be_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stored(tmp_path / "in", {"a.png": plain_png(9)})
    decode_images(source, 4, tmp_path / "cache")
    for path in sorted((tmp_path / "cache").rglob("*"), reverse=True):
        path.chmod(0o444 if path.is_file() else 0o555)
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: pytest.fail("wrote"))
    assert levels(decode_images(source, 4, tmp_path / "cache")) == [9]


def test_digest_sees_every_byte_of_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = bytearray(3 * 2**20 + 5)
    path.write_bytes(content)
    whole = content_digest(path, 256)
    for place in (0, 2**20, len(content) - 1):
        content[place] = 1
        path.write_bytes(content)
        assert content_digest(path, 256) != whole
        content[place] = 0


def test_zip_members_are_read_without_unpacking(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i in range(40):
            archive.writestr(f"in/{i:02d}.png", plain_png(i))
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        members = archive.infolist()
    source = from_zip(tmp_path / "a.zip", members, [member.filename for member in members])
    assert levels(decode_images(source, 4, tmp_path / "cache")) == list(range(40))


@pytest.mark.parametrize("nested", [True, False], ids=["bytes and path", "bytes"])
def test_parquet_rows(nested: bool, tmp_path: Path) -> None:
    paths = []
    for file in range(2):
        contents = [None if file == 0 and i == 5 else plain_png(file * 100 + i) for i in range(70)]
        cells = [{"bytes": content, "path": None} for content in contents] if nested else contents
        paths.append(tmp_path / f"{file}.parquet")
        pq.write_table(pa.table({"image": cells}), paths[-1], row_group_size=50)
    decoded = decode_images(from_parquet(paths, [str(i) for i in range(140)]), 4, tmp_path / "cache")
    assert decoded.skipped == ["5"]
    assert levels(decoded) == [i for i in range(70) if i != 5] + list(range(100, 170))


def test_damaged_parquet_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"image": [plain_png(i) for i in range(50)]}), path, compression="none", use_dictionary=False
    )
    source = from_parquet([path], [str(i) for i in range(50)])
    content = path.read_bytes()
    path.write_bytes(b"PAR1" + b"\xff" * 200 + content[204:])
    with pytest.raises(UserError, match="damaged file: download it again"):
        decode_images(source, 4, tmp_path / "cache")
    assert list((tmp_path / "cache" / "images").iterdir()) == []


def test_plain_lines_in_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = stored(tmp_path / "in", {f"{i}.png": plain_png(i) for i in range(20)})
    decode_images(source, 4, tmp_path / "cache")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[0].startswith("Decoding images: 2 of 20, ")
    assert lines[-1].startswith("Decoding images: 20 of 20, ") and "\x1b" not in "".join(lines)


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda: Console(file=screen, force_terminal=True))
    assert list(progress.with_progress(range(5), 5, "Decoding images")) == [0, 1, 2, 3, 4]
    assert "Decoding images" in screen.getvalue() and "100%" in screen.getvalue()


def test_memory_holds_a_part_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many images there are, the readers run at most one chunk ahead of the writer."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    started = 0

    def reader() -> bytes:
        nonlocal started
        started += 1
        return plain_png(3)

    source = EncodedImages([str(i) for i in range(100)], lambda _: [()] * 100, lambda: (reader for _ in range(100)))
    monkeypatch.setattr(module, "MIB", 30)  # of the 64 MiB: 40 images of 4 x 4
    rows = module.decode_all(source, 4, 1.0)
    next(rows)
    assert started <= 40
    assert sum(1 for _ in rows) == 99 and started == 100
