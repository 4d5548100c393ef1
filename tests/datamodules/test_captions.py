"""Pairs of images and captions as their data sets have them, and the split by image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules.captions import PairData, extract_pairs, pairs
from datamodules.splits import TEST, TRAIN
from models import UserError


def photographs(folder: Path, names: list[str]) -> Path:
    """Pictures of one colour each: the red channel is the picture's number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (12, 8), (number, 100, 200)).save(folder / name)
    return folder


def read(folder: Path, path: Any, **settings: Any) -> PairData:
    return pairs(path, size=8, cache_dir=folder / "cache", **settings)


def told(data: PairData) -> list[tuple[str, str]]:
    """Image and caption of every pair."""
    of = [data.images.ids[image] for image in data.image_of.tolist()]
    return list(zip(of, data.texts.texts or [], strict=True))


def coco(folder: Path, annotations: list[tuple[int, str]], images: dict[int, str]) -> Path:
    content = {
        "images": [{"id": key, "file_name": name} for key, name in images.items()],
        "annotations": [{"id": i, "image_id": key, "caption": text} for i, (key, text) in enumerate(annotations)],
    }
    (folder / "captions.json").write_text(json.dumps(content))
    return folder / "captions.json"


def test_cocos_json(tmp_path: Path) -> None:
    photographs(tmp_path / "val", ["b.png", "a.png"])
    file = coco(tmp_path, [(7, "A cat. "), (3, "A dog."), (7, "Still a cat.")], {3: "b.png", 7: "a.png"})
    data = read(tmp_path, file, images=tmp_path / "val")
    assert told(data) == [("b.png", "A dog."), ("a.png", "A cat."), ("a.png", "Still a cat.")]
    assert data.texts.ids == ["b.png#0", "a.png#0", "a.png#1"]
    assert data.images.images is not None and data.images.images[:, 0, 0, 0].tolist() == [0, 1]
    assert told(read(tmp_path, file, images=tmp_path / "val", captions=1))[-1] == ("a.png", "A cat.")
    assert told(read(tmp_path, file, images=tmp_path / "val", most=1)) == [("b.png", "A dog.")]


FLICKR = {
    "captions.txt": 'image,caption\n1.png,"A child, in pink ."\n1.png,A girl .\n2.png,A dog .\n',
    "results.csv": 'image_name| comment_number| comment\n1.png| 0| A child, in pink .\n1.png| 1| A girl .\n'
    '2.png| 0| A dog .\n2.png| 1   A broken row "as it is .\n',
    "Flickr8k.token.txt": "1.png#0\tA child, in pink .\n1.png#1\tA girl .\n2.png#0\tA dog .\n",
    "own.tsv": "path\tsentence\n1.png\tA child, in pink .\n1.png\tA girl .\n2.png\tA dog .\n",
}  # fmt: skip


@pytest.mark.parametrize("name", list(FLICKR))
def test_tables_as_flickr_and_others_have_them(tmp_path: Path, name: str) -> None:
    photographs(tmp_path, ["1.png", "2.png"])
    (tmp_path / name).write_text(FLICKR[name])
    data = read(tmp_path, tmp_path / name)
    assert told(data) == [("1.png", "A child, in pink ."), ("1.png", "A girl ."), ("2.png", "A dog .")]
    assert data.notes[1:] == (
        ["1 of 4 pairs have no image or no caption and are left out."] if name == "results.csv" else []
    )


def test_no_caption_of_a_training_image_is_held_out(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(60)]
    photographs(tmp_path, names)
    lines = [f"{name},caption {number} of {name}" for number in range(3) for name in names]
    (tmp_path / "own.csv").write_text("\n".join(["file,text", *lines]))
    data = read(tmp_path, tmp_path / "own.csv")
    assert len(data.ids) == 180 and set(data.images.split.tolist()) == {0, 1, 2}
    assert torch.equal(data.texts.split, data.images.split[data.image_of])


def test_the_split_is_a_column_or_a_word_for_each_file(tmp_path: Path) -> None:
    photographs(tmp_path, ["1.png", "2.png"])
    (tmp_path / "a.csv").write_text("image,text,part\n1.png,one,train\n2.png,two,test\n1.png,eins,train\n")
    data = read(tmp_path, tmp_path / "a.csv", split="part")
    assert data.images.split.tolist() == [TRAIN, TEST] and data.texts.split.tolist() == [TRAIN, TEST, TRAIN]
    for name in ("train", "val"):
        photographs(tmp_path / name, ["1.png"])
        (tmp_path / f"{name}.csv").write_text("image,text\n1.png,one\n")
    files, folders = [tmp_path / "train.csv", tmp_path / "val.csv"], [tmp_path / "train", tmp_path / "val"]
    data = read(tmp_path, files, images=folders, split=["train", "test"])
    assert data.images.split.tolist() == [TRAIN, TEST] and len(set(data.images.ids)) == 2
    with pytest.raises(UserError, match=r"Expected an image in one part of the split, got 1.png in several"):
        read(tmp_path, files, images=tmp_path / "train", split=["train", "test"])


def test_an_image_that_is_not_there_is_left_out_with_its_captions(tmp_path: Path) -> None:
    photographs(tmp_path, ["1.png", "2.png", "3.png"])
    (tmp_path / "own.csv").write_text("image,text\n1.png,one\nlost.png,lost\n2.png,two\nlost.png,gone\n3.png,three\n")
    data = read(tmp_path, tmp_path / "own.csv")
    assert told(data) == [("1.png", "one"), ("2.png", "two"), ("3.png", "three")] and data.skipped == ["lost.png"]


def arrays(folder: Path, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    images = np.repeat(generator.normal(size=(n // 2, 6)), 2, axis=0).astype(np.float32)
    texts = generator.normal(size=(n, 6)).astype(np.float32)
    np.save(folder / "img.npy", images)
    np.save(folder / "txt.npy", texts)
    return images, texts


def test_brought_arrays_whose_equal_rows_are_one_image(tmp_path: Path) -> None:
    images, texts = arrays(tmp_path)
    data = pairs(images=tmp_path / "img.npy", texts=tmp_path / "txt.npy")
    assert len(data.images.ids) == 20 and data.image_of.tolist() == [i // 2 for i in range(40)]
    assert isinstance(data.texts.values, Tensor)  # type: ignore[union-attr]
    np.testing.assert_array_equal(data.images.values[data.image_of], images)  # type: ignore[union-attr]
    np.testing.assert_array_equal(data.texts.values, texts)  # type: ignore[union-attr]
    assert torch.equal(data.texts.split, data.images.split[data.image_of])
    assert data.fingerprint == pairs(images=tmp_path / "img.npy", texts=tmp_path / "txt.npy").fingerprint


class Encoder:
    """Images by their colour, texts by their length, in one space or in two."""

    identity = {"name": "made"}

    def __init__(self, width: int = 3) -> None:
        self.width = width

    def embed(self, images: Tensor) -> Tensor:
        return images.float().mean((2, 3))

    def embed_text(self, texts: list[str]) -> Tensor:
        return torch.tensor([[float(len(text))] * self.width for text in texts])


class Eyes:
    identity = {"name": "eyes"}

    def embed(self, images: Tensor) -> Tensor:
        return images.float().mean((2, 3))


def test_both_sides_are_embedded(tmp_path: Path) -> None:
    photographs(tmp_path, ["1.png", "2.png"])
    (tmp_path / "own.csv").write_text("image,text\n1.png,one\n2.png,three\n")
    data = read(tmp_path, tmp_path / "own.csv")
    found = extract_pairs(data, Encoder(), tmp_path / "cache")
    assert found.texts.values[:, 0].tolist() == [3, 5]  # type: ignore[union-attr]
    assert found.images.values[:, 0].tolist() == [0, 1]  # type: ignore[union-attr]
    with pytest.raises(UserError, match="Expected an encoder of images and texts for pairs, got eyes"):
        extract_pairs(data, Eyes(), tmp_path / "cache")
    with pytest.raises(UserError, match="Expected images and texts in one space, got 3 and 2 features"):
        extract_pairs(data, Encoder(2), tmp_path / "other")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, "Expected data.path, a file of captions, or data.images and data.texts, two arrays, got none"),
        ({"texts": "txt.npy"}, "Expected data.images=IMG.npy with data.texts=TXT.npy"),
        ({"images": "lost.npy", "texts": "txt.npy"}, "Expected an array at data.images=.*lost.npy, got no such file"),
        (
            {"images": "img.npy", "texts": "short.npy"},
            r"Expected a row of data.images for each of .*\(40, 6\)",
        ),
        ({"images": "nan.npy", "texts": "txt.npy"}, "Expected finite numbers, got NaN"),
        ({"path": "lost.csv"}, "Expected a file of captions at .*lost.csv, got no such file"),
        ({"path": "own.csv", "images": "lost"}, "Expected a folder of images at .*lost, got no such folder"),
        ({"path": "empty.csv"}, "Expected captions in .*empty.csv, got no row"),
        ({"path": "other.csv"}, "Expected data.text_column among image, words of .*other.csv, got none with a usual"),
        ({"path": "other.csv", "text_column": "word"}, "got 'word': name it. Did you mean words?"),
        (
            {"path": "sides.csv"},
            "Expected an image and a caption in every pair, got 3 of 4 that lack one, the",
        ),
        ({"path": "commas.csv"}, "got 3 cells in line 2 after 2 in line 1, separated by comma"),
        ({"path": "list.json"}, "Expected COCO's captions in .*list.json, got json without images and annotations"),
        ({"path": "own.csv", "captions": 0}, "Expected data.captions of at least 1, got 0"),
        ({"path": "own.csv", "split": "part"}, "Expected data.split among image, text of .*own.csv, got 'part'"),
        ({"path": ["own.csv"], "split": ["train", "test"]}, "Expected data.split once or for each of 1 files, got 2"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    images, texts = arrays(tmp_path)
    np.save(tmp_path / "short.npy", texts[:-1])
    images[3, 2] = np.nan
    np.save(tmp_path / "nan.npy", images)
    (tmp_path / "own.csv").write_text("image,text\n1.png,one\n")
    (tmp_path / "empty.csv").write_text("image,text\n")
    (tmp_path / "other.csv").write_text("image,words\n1.png,one\n")
    (tmp_path / "sides.csv").write_text("image,text\n1.png,one\n,\n2.png,\n,three\n")
    (tmp_path / "commas.csv").write_text("image,text\n1.png,red, and blue\n")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match=line) as error:
        pairs(cache_dir="cache", **settings)
    assert "\n" not in str(error.value)


def test_karpathys_json_has_its_own_split(tmp_path: Path) -> None:
    photographs(tmp_path, ["1.png", "2.png", "3.png"])
    images = [
        {"filename": f"{i}.png", "filepath": "val2014", "split": part, "sentences": [{"raw": f"text {i}"}]}
        for i, part in ((1, "train"), (2, "restval"), (3, "test"))
    ]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    data = read(tmp_path, tmp_path / "dataset.json")
    assert [text for _, text in told(data)] == ["text 1", "text 2", "text 3"]
    assert data.images.split.tolist() == [TRAIN, TRAIN, TEST]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_captions_with_types_and_lists(tmp_path: Path, kind: str) -> None:
    photographs(tmp_path, ["1.png", "2.png"])
    frame = pd.DataFrame({"file_name": ["1.png", "2.png"], "captions": [["one", "eins"], ["two"]]})
    match kind:
        case "jsonl":
            frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
        case "parquet":
            frame.to_parquet(tmp_path / "t.parquet")
        case _:
            frame.to_csv(tmp_path / "t.csv", index=False)
    assert told(read(tmp_path, tmp_path / f"t.{kind}")) == [("1.png", "one"), ("1.png", "eins"), ("2.png", "two")]
