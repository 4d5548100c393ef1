"""Photographs of the user's own: read, framed, changed and nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.factors import FactorTable, ImageData
from datamodules.pictures import decode
from evaluation.editing import photographs
from evaluation.editing.photographs import (
    PLACE,
    Framed,
    centre_of,
    facing,
    median_landmarks,
    read_photograph,
    stored_landmarks,
)
from models import UserError

# Where the eyes (outer and inner corners, right and left of the picture) and the nose are in a crop of CelebA.
EYES = torch.tensor([[0.73, 0.44], [0.6, 0.44], [0.27, 0.44], [0.4, 0.44], [0.5, 0.68]])


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    pytest.importorskip("dlib")
    return Image.fromarray(pytest.importorskip("skimage.data").astronaut())


def noise(mode: str, size: tuple[int, int] = (30, 40)) -> Image.Image:
    picture = Image.fromarray(np.random.randint(0, 256, (size[1], size[0], 4), dtype=np.uint8))
    return picture if mode == "RGBA" else picture.convert("RGB").convert(mode)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("how", ["threshold", "add"])
def test_without_a_change_it_comes_back_bit_for_bit(mode: str, how: str) -> None:
    picture, decoded = noise(mode), torch.rand(3, 8, 8)
    for square in (centre_of(picture, 0.8).square, torch.tensor([[17.3, -4.0, 6.0], [4.0, 17.3, 9.0]])):
        back = Framed(picture, square).composed(decoded, decoded, how).picture
        assert back.mode == mode and back.size == picture.size and back.tobytes() == picture.tobytes()


def test_a_change_reaches_the_square_alone_and_leaves_transparency() -> None:
    picture = noise("RGBA")
    changed = centre_of(picture, 0.5).composed(torch.zeros(3, 8, 8), torch.full((3, 8, 8), 0.5), "add").picture
    before, after = np.asarray(picture).astype(int), np.asarray(changed).astype(int)
    assert np.array_equal(before[..., 3], after[..., 3])
    outside = np.ones((40, 30), bool)
    outside[12:27, 7:22] = False
    assert np.array_equal(before[outside], after[outside])
    assert (after[19, 14, :3] >= before[19, 14, :3]).all() and (after != before).any()


def test_a_grey_photograph_stays_grey_and_changes_by_the_brightness() -> None:
    picture = Image.new("L", (20, 20), 100)
    red = torch.stack([torch.ones(8, 8), torch.zeros(8, 8), torch.zeros(8, 8)]) * 0.4
    changed = centre_of(picture, 1.0).composed(torch.zeros(3, 8, 8), red, "add").picture
    assert changed.mode == "L" and changed.getpixel((10, 10)) == 100 + round(0.299 * 0.4 * 255)


def test_it_is_seen_as_the_data_was(tmp_path: Path) -> None:
    picture = noise("RGB", (50, 70))
    picture.save(tmp_path / "a.png")
    wanted = torch.from_numpy(decode((tmp_path / "a.png").read_bytes(), 16, 0.6).copy())
    assert torch.equal(centre_of(read_photograph(tmp_path / "a.png"), 0.6).seen(16), wanted)


def test_upright_by_its_exif_orientation_with_its_profile_alone(tmp_path: Path) -> None:
    picture, exif = noise("RGB", (30, 40)), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"  # lies on its side
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95, icc_profile=b"profile")
    read = read_photograph(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as stored:
        assert read.tobytes() == stored.transpose(Image.Transpose.ROTATE_270).tobytes()
        assert read_photograph(stored).tobytes() == read.tobytes()
    assert read.size == (40, 30) and read.info == {"icc_profile": b"profile"}
    same = centre_of(read, 1.0).composed(torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), "add").picture
    same.save(tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as written:
        assert written.info["icc_profile"] == b"profile" and written.tobytes() == read.tobytes()


@pytest.mark.parametrize(
    ("mode", "comes_back"), [("P", "RGB"), ("CMYK", "RGB"), ("1", "L"), ("L", "L"), ("LA", "LA"), ("YCbCr", "RGB")]
)
def test_modes(mode: str, comes_back: str) -> None:
    assert read_photograph(noise(mode)).mode == comes_back


def test_a_transparent_palette() -> None:
    picture = noise("P")
    picture.info["transparency"] = 0
    assert read_photograph(picture).mode == "RGBA"


def test_sixteen_bits_are_said_and_unclear_numbers_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray((np.arange(1200, dtype=np.uint16) * 50).reshape(30, 40)).save(tmp_path / "deep.png")
    read = read_photograph(tmp_path / "deep.png")
    assert read.mode == "L" and read.getpixel((39, 29)) == 1199 * 50 >> 8
    assert "has 16 bits a channel: its edit keeps the high 8" in capsys.readouterr().out
    wide = Image.fromarray(np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4))
    message = r"^Expected a picture of 8 or 16 bits a channel, .* got the picture with -1 to 1 for decimals from 0 to 1"
    with pytest.raises(UserError, match=message):
        read_photograph(wide)


def test_frames_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise("RGB").save(tmp_path / "a.gif", save_all=True, append_images=[noise("RGB")])
    read_photograph(tmp_path / "a.gif")
    assert "a.gif has 2 frames or pages: one of them is edited, in a file the first" in capsys.readouterr().out


def test_the_face_is_brought_to_its_place(astronaut: Image.Image) -> None:
    """Also out of a picture that hangs at an angle."""
    from models.dlib_faces import find_faces, landmarks_of

    tilted = astronaut.rotate(12, Image.Resampling.BICUBIC, fillcolor="white")
    for picture in (astronaut, tilted):
        framed = facing(picture, "a.png", EYES, 1)
        found = landmarks_of(framed.seen(128))
        assert found is not None
        torch.testing.assert_close(found, EYES, atol=0.05, rtol=0)
        back = framed.composed(torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), "threshold").picture
        assert back.tobytes() == picture.tobytes()
    assert len(find_faces(framed.colours())) == 1


def test_which_of_two_faces(astronaut: Image.Image) -> None:
    both = Image.new("RGB", (832, 512))
    both.paste(astronaut.resize((320, 320)))
    both.paste(astronaut, (320, 0))
    middles = [(facing(both, "both.png", EYES, face).square @ torch.tensor([0.5, 0.5, 1]))[0] for face in (1, 2)]
    assert middles[0] > 320 > middles[1]
    with pytest.raises(UserError, match=r"^Expected face= of at most 2, the faces in both\.png .*, got 7: choose one"):
        facing(both, "both.png", EYES, 7)


def test_no_face_is_one_line() -> None:
    pytest.importorskip("dlib")
    with pytest.raises(
        UserError, match=r"^Expected a face in me\.png, got none that is detected: .* align=none"
    ) as error:
        facing(noise("RGB"), "me.png", EYES, 1)
    assert "\n" not in str(error.value)


def test_the_place_of_a_runs_faces_is_found_once_and_kept(astronaut: Image.Image, tmp_path: Path) -> None:
    split, labels = torch.zeros(20, dtype=torch.uint8), FactorTable((), torch.empty(20, 0))
    data = ImageData("photos", torch.zeros(20, 3, 64, 64, dtype=torch.uint8), ["a"] * 20, labels, split, "")
    head = np.asarray(astronaut.crop((140, 45, 300, 205)).resize((64, 64))).transpose(2, 0, 1)
    assert median_landmarks(data)["landmarks"] is None
    place = stored_landmarks(
        tmp_path, lambda: replace(data, images=torch.from_numpy(head.copy()).expand(20, -1, -1, -1))
    )
    assert place is not None and 0.2 < place[2, 0] < place[0, 0] < 0.9
    kept = json.loads((tmp_path / PLACE).read_text())
    assert kept["found"] == kept["images"] == 20 and kept["landmarks"] == place.tolist()
    assert torch.equal(stored_landmarks(tmp_path, lambda: pytest.fail("it is in the folder")), place)  # type: ignore[arg-type]


def test_a_run_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        photographs, "median_landmarks", lambda data: {"landmarks": EYES.tolist(), "found": 1, "images": 1}
    )
    (tmp_path / "file").touch()
    place = stored_landmarks(tmp_path / "file", lambda: None)  # type: ignore[arg-type, return-value]
    assert place is not None and torch.equal(place, EYES)
