"""Texts from files of every kind, their splits and labels, and their cached features."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from datamodules.splits import TEST, TRAIN, VALIDATION
from datamodules.texts import TextData, extract_texts, read_texts, texts
from models import UserError
from models.interfaces import Identity

WORDS = ["cat", "dog", "a red car", "Zürich"]


def written(folder: Path, kind: str) -> Path:
    path = folder / f"words.{kind}"
    table = pd.DataFrame({"text": WORDS, "kind": ["animal", "animal", "thing", "thing"]})
    match kind:
        case "txt":
            path.write_text("\n".join(WORDS) + "\n", "utf-8")
        case "csv" | "tsv":
            table.to_csv(path, index=False, sep="," if kind == "csv" else "\t")
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_dict("records")))
        case _:
            table.to_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "jsonl", "parquet"])
def test_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind)
    found = texts(path, labels=None if kind == "txt" else "kind")
    assert found.texts == WORDS == found.ids
    if kind != "txt":
        assert found.factors.factors[0].values == ("animal", "thing")
        assert found.factors.values[:, 0].tolist() == [0, 0, 1, 1]


def test_splits_of_files_of_a_column_and_of_none(tmp_path: Path) -> None:
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    train.write_text("one\ntwo\n")
    test.write_text("three\n")
    assert texts([train, test], split=["train", "test"]).split.tolist() == [TRAIN, TRAIN, TEST]
    table = tmp_path / "table.csv"
    table.write_text("text,part\none,train\ntwo,valid\nthree,test\n")
    assert texts(table, split="part").split.tolist() == [TRAIN, VALIDATION, TEST]
    many = tmp_path / "many.txt"
    many.write_text("\n".join(f"word {i}" for i in range(2000)))
    shares = np.bincount(texts(many).split.numpy(), minlength=3) / 2000
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    once, twice = texts(many), texts([many, many])
    assert twice.split.tolist() == once.split.tolist() * 2, "equal texts fall into the same part"


def test_empty_and_repeated_rows_are_told(tmp_path: Path) -> None:
    path = tmp_path / "words.csv"
    path.write_text('text,kind\ncat,a\n"",b\ncat,b\n" dog ",\n')
    found = texts(path, labels="kind")
    assert found.texts == ["cat", "cat", "dog"] and found.ids == ["000000", "000001", "000002"]
    assert found.notes[1:3] == ["1 of 4 rows have no text and are left out.", "1 of 3 texts occur more than once."]
    assert found.factors.values[:2, 0].tolist() == [0, 1] and bool(found.factors.values[2, 0].isnan())


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("none.txt", None, {}, "Expected a file of texts at .*, got no such file"),
        ("words.doc", "x", {}, "Expected texts in a .txt, .csv, .tsv, .jsonl or .parquet file"),
        ("words.txt", "", {}, "Expected texts in .*, got no row"),
        ("words.txt", "\n \n", {}, "Expected texts in .*, got 2 empty ones"),
        ("words.csv", "a,b\n1,2\n", {}, "Expected one column of texts in .*, got a, b: name it by data.column="),
        ("words.csv", "text,b\n1,2\n", {"column": "tex"}, r"Expected data.column among text, b of .*text"),
        ("words.csv", "text,kind\n1,2\n", {"labels": "kinds"}, r"Expected data.labels to be columns of .*kind"),
        ("words.csv", "text,kind\n1,2\n", {"split": "part"}, "Expected data.split to be train, valid or test"),
        ("words.csv", "text,part\n1,train\n2,other\n", {"split": "part"}, "Expected train.*got 'other'"),
        ("words.csv", "text,part\none,train\n", {"split": [3]}, "Expected data.split to be train, valid or test"),
        ("words.csv", "text\nred, and blue\ngreen\n", {}, "got 2 cells in line 2 after 1 in line 1.*data.separator="),
        (
            "words.csv",
            "text\ngreen\nred, and blue\n",
            {},
            "got 2 cells in line 3 after 1 in line 1, separated by comma",
        ),
        ("words.txt", "cat\ndog\n", {"most": 0}, "Expected data.most of at least 1, got 0"),
        ("words.jsonl", '{"text": "a"}\n{"tex', {}, "words.jsonl"),
        ("words.parquet", "not one", {}, "words.parquet"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path, name: str, content: str | None, settings: dict[str, Any], message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        texts(tmp_path / name, **settings)


def test_cells_stay_texts(tmp_path: Path) -> None:
    path = tmp_path / "words.csv"
    path.write_text("word\n007\nnan\nNone\n1.50\n")
    assert texts(path).texts == ["007", "nan", "None", "1.50"]
    assert read_texts(path).cells["word"].tolist() == ["007", "nan", "None", "1.50"]


@pytest.mark.parametrize("name", ["words.txt", "words.jsonl"])
def test_only_line_feeds_end_a_line(tmp_path: Path, name: str) -> None:
    own = ["one\u2028and a half", "two\x85", "three\x0bfour"]
    lines = own if name == "words.txt" else [json.dumps({"text": text}, ensure_ascii=False) for text in own]
    (tmp_path / name).write_bytes("\r\n".join(lines).encode())
    assert texts(tmp_path / name).texts == [text.strip() for text in own]


class Lengths:
    """Each text's letters and words."""

    identity: Identity = {"name": "lengths"}

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed_text(self, texts: list[str]) -> Tensor:
        self.asked += texts
        return torch.tensor([[len(text), len(text.split())] for text in texts], dtype=torch.float32)


def of_words(count: int) -> TextData:
    from datamodules.factors import FactorTable

    own = [f"{i} {'x' * (i % 7)}" for i in range(count)]
    parts = torch.zeros(count, dtype=torch.uint8)
    return TextData("texts", own, own, FactorTable((), torch.zeros(count, 0)), parts, "print")


def test_features_are_computed_once_and_in_order(tmp_path: Path) -> None:
    data, encoder = of_words(1000), Lengths()
    found = extract_texts(data, encoder, tmp_path, batch=64)
    assert found.values[:, 0].tolist() == [len(text) for text in data.texts] and found.texts == data.texts
    assert sorted(encoder.asked[1:]) == sorted(data.texts), "each once, after one that says the width"
    again = Lengths()
    assert torch.equal(extract_texts(data, again, tmp_path).values, found.values) and len(again.asked) == 1


def test_a_table_without_a_header_is_a_question_and_loses_no_text(tmp_path: Path) -> None:
    path = tmp_path / "words.csv"
    path.write_text("a cat\na dog\na red car\n")
    with pytest.raises(UserError, match="got 'a cat', which may be one or a text: set data.header=true or false"):
        texts(path)
    assert texts(path, header=False).texts == ["a cat", "a dog", "a red car"]
    assert texts(path, header=True).texts == ["a dog", "a red car"]
    path.write_text("text;label\nred, and blue;1\ngreen;0\n")
    assert texts(path, labels="label").texts == ["red, and blue", "green"]


def test_cells_with_lists_and_columns_with_our_names(tmp_path: Path) -> None:
    path = tmp_path / "words.jsonl"
    path.write_text('{"caption": ["a cat", "one cat"], "split": "x"}\n{"caption": ["a dog"], "split": "y"}\n')
    found = texts(path, labels="split")
    assert found.texts == ["a cat", "one cat", "a dog"] and found.factors.values[:, 0].tolist() == [0, 0, 1]
    path.write_text('{"caption": ["a cat"]}\n{"caption": ["b"]}\n{"caption": "c"}\n')
    with pytest.raises(UserError, match="got 'c' in line 3: write all cells alike"):
        texts(path)
