"""Folders with links, with pictures of every ending, and with files that are none."""

import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from datamodules.file_tree import counted, files_below
from datamodules.folder import folder
from datamodules.images import decode_images, from_files
from models import UserError


def plain(path: Path, level: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (level, level, level)).save(path, "PNG")


def test_links_are_followed_once_and_never_in_a_circle(tmp_path: Path) -> None:
    root, away = tmp_path / "root", tmp_path / "away"
    for path in (root / "a" / "1.png", away / "2.png", away / "deep" / "3.png", root / ".hidden" / "4.png"):
        plain(path)
    os.symlink(away, root / "linked")
    os.symlink(root, away / "deep" / "back")
    os.symlink(root / "a", root / "also_a")
    os.symlink(tmp_path / "gone", root / "broken.png")
    names = [str(path.relative_to(root)) for path in files_below(root)]
    assert names == ["a/1.png", "broken.png", "linked/2.png", "linked/deep/3.png"]
    assert [path.name for path in files_below(root, depth=1)] == ["1.png", "broken.png", "2.png"]
    data = folder(root, size=4, cache_dir=tmp_path / "cache")
    assert data.ids == ["a/1.png", "linked/2.png", "linked/deep/3.png"] and data.skipped == ["broken.png"]
    assert data.notes[0] == "1 of 4 images are skipped: 1 no such file."


def test_every_ending_and_what_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in ("a.JPG", "b.jfif", "c.avif", "d.jpe", "e.Tiff", "f.webp", "g.jp2"):
        plain(tmp_path / "in" / name)
    for name in ("h.HEIC", "i.heif", "film.mp4", "raw.CR2", "raw2.cr2", "labels.csv", "README"):
        (tmp_path / "in" / name).write_bytes(b"0")
    data = folder(tmp_path / "in", size=4, cache_dir=tmp_path / "cache")
    assert len(data.ids) == 7
    assert data.notes == [
        "2 HEIC pictures are left out: pip install pillow-heif, which reads them.",
        "Other files than images are left out: 2 .cr2, 1 without an ending, 1 .mp4.",
    ]
    (tmp_path / "heic").mkdir()
    (tmp_path / "heic" / "a.heic").write_bytes(b"0")
    with pytest.raises(
        UserError, match=r"^Expected images .* got none \(1 HEIC pictures are left out: pip install pil"
    ):
        folder(tmp_path / "heic", size=4, cache_dir=tmp_path / "cache")


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    for i in range(3):
        Image.new("RGB", (64, 64), (200, 10, 40 * i)).save(tmp_path / f"{i}.heic")
    data = folder(tmp_path, size=8, cache_dir=tmp_path / "cache")
    assert len(data.ids) == 3 and data.images[0, 0].float().mean() > 180 and data.notes == []


def test_why_images_are_skipped_is_counted_also_from_the_cache(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(30)]
    for path in paths:
        plain(path)
    paths[3].write_bytes(paths[3].read_bytes()[:45])
    paths[7].write_text("<html>")
    paths[8].write_text("<html>")
    Image.new("L", (8, 8)).save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("L", (8, 8), 99)])
    paths.append(tmp_path / "a.gif")
    for _ in range(2):
        found = decode_images(from_files(paths, [path.name for path in paths]), 4, tmp_path / "c", max_unreadable=0.1)
        assert found.notes == [
            "3 of 31 images are skipped: 2 no picture, 1 truncated.",
            "1 images have several frames or pages: the first is used.",
        ]
    assert counted(["a"]) == "1 a"
