"""What commands on embeddings read: names, texts and image files in the space of the rows, and what is refused."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from evaluation.embeddings.explore import nearest
from evaluation.embeddings.source import source
from models import UserError


def photos(folder: Path) -> list[str]:
    """Images of one colour each, and a copy of one of them outside the folder."""
    (folder / "photos").mkdir()
    for name, colour in (
        ("red", (250, 0, 0)),
        ("blue", (0, 0, 250)),
        ("green", (0, 250, 0)),
        ("pink", (250, 120, 120)),
    ):
        Image.new("RGB", (12, 12), colour).save(folder / "photos" / f"{name}.png")
    Image.new("RGB", (20, 16), (240, 0, 0)).save(folder / "asked.png")
    return ["data=folder", f"data.root={folder / 'photos'}", "data.size=8", f"cache_dir={folder / 'cache'}"]


def test_the_images_nearest_to_an_image_file(tmp_path: Path) -> None:
    found = source(*photos(tmp_path), "encoder=pixels")
    table = nearest(found, str(tmp_path / "asked.png"), k=2)
    assert [Path(name).stem for name in table["name"]][:2] == ["red", "pink"]
    assert table["cosine"][0] == pytest.approx(1, abs=1e-6)
    assert not found.can_decode


def test_names_come_first_and_repeated_texts_are_all_found(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("cat\ndog\ncat\n")
    found = source("data=texts", f"data.path={tmp_path / 'words.txt'}", "encoder=pixels", f"cache_dir={tmp_path}")

    class Letters:
        identity = {"name": "letters"}

        def embed_text(self, texts: list[str]) -> Tensor:
            return torch.tensor([[float(letter in text) for letter in "catdog"] for text in texts])

    found.encoder = Letters()
    vectors, rows = found.embed(["cat", "dot"])
    assert rows == [[0, 2], []] and vectors.tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0]]
    assert found.table["id"].tolist() == ["000000", "000001", "000002"]
    with pytest.raises(UserError, match="Expected texts, got an empty one"):
        found.embed(["cat", " "])


def test_names_are_compared_in_one_normal_form(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"  # one character, or e and an accent, as some file systems write it
    (tmp_path / "my words (1).txt").write_text(f"{decomposed}\ntea\n")
    found = source(
        "data=texts", f"data.path={tmp_path / 'my words (1).txt'}", "encoder=pixels", f"cache_dir={tmp_path}"
    )

    class Letters:
        identity = {"name": "letters"}

        def embed_text(self, texts: list[str]) -> Tensor:
            return torch.tensor([[float(letter in text) for letter in "catdog"] for text in texts])

    found.encoder = Letters()
    assert found.embed([composed])[1] == found.embed([decomposed])[1] == [[0]]


def test_new_texts_are_embedded_together(tmp_path: Path) -> None:
    class Counting:
        identity = {"name": "counting"}
        calls = 0

        def embed_text(self, texts: list[str]) -> Tensor:
            self.calls += 1
            return torch.tensor([[float(len(text)), 1.0] for text in texts])

    (tmp_path / "words.txt").write_text("cat\ndog\n")
    found = source("data=texts", f"data.path={tmp_path / 'words.txt'}", "encoder=pixels", f"cache_dir={tmp_path}")
    found.encoder = Counting()
    _ = found.vectors
    found.encoder.calls = 0
    vectors, rows = found.embed(["horse", "cat", "cow", "horse"])
    assert vectors[:, 0].tolist() == [5, 3, 3, 5] and rows == [[], [0], [], []]
    assert found.encoder.calls == 1


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Expected run=RUN, or data= and encoder="):
        source("cache_dir=cache")
    with pytest.raises(UserError, match="Expected run=RUN or data= beside encoder=, got none"):
        _ = source("encoder=pixels").vectors
    found = source(*photos(tmp_path), "encoder=pixels")
    with pytest.raises(UserError, match="Expected an encoder of texts for 'a dog', got pixels"):
        found.embed(["a dog"])
    with pytest.raises(UserError, match="Expected an image at .*lost.png, got no such file"):
        found.embed([str(tmp_path / "lost.png")])
