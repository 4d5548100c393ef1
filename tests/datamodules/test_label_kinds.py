"""Kinds of labels by their spelling, and kinds that are declared."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.factors import FactorTable, factor_table, words
from datamodules.label_kinds import infer_labels
from datamodules.splits import split_numbers
from datamodules.vectors import vectors
from models import UserError
from models.labels import Factor


def labels(cells: list[Any], kind: str | None = None) -> tuple[str, tuple[str, ...], list[float]]:
    found = infer_labels(pd.Series(cells, dtype=object, name="it"), kind)
    return found.kind, found.values, found.numbers.nan_to_num(-9).tolist()


@pytest.mark.parametrize(
    ("cells", "kind", "values", "numbers"),
    [
        (["None", "some", "None", ""], "binary", ("None", "some"), [0, 1, 0, -9]),
        (["NA", "null", "x", "nan"], "categorical", ("NA", "null", "x"), [0, 1, 2, -9]),
        (["01", "1", "001", "1"], "categorical", ("001", "01", "1"), [1, 2, 0, 2]),
        (["-1", "0", "1"] * 2, "categorical", ("-1", "0", "1"), [0, 1, 2] * 2),
        (["0", "1", "2", "3", "4"] * 2, "categorical", ("0", "1", "2", "3", "4"), [0, 1, 2, 3, 4] * 2),
        (["-1", "0", "1", "2"] * 2, "categorical", ("0", "1", "2"), [-9, 0, 1, 2] * 2),
        (["20000000", "20000001", "20000002"] * 2, "categorical", ("20000000", "20000001", "20000002"), [0, 1, 2] * 2),
        (["1.5", "NA", "2.5", "None", "7"], "continuous", ("low", "high"), [1.5, -9, 2.5, -9, 7]),
        (["True", "None", "False"], "binary", ("no", "yes"), [1, -9, 0]),
        (["caf\u00e9", "cafe\u0301", "the"], "binary", ("caf\u00e9", "the"), [0, 0, 1]),
    ],
)
def test_labels_keep_their_spelling(cells: list, kind: str, values: tuple[str, ...], numbers: list[float]) -> None:
    assert labels(cells) == (kind, values, numbers)


def test_declared_kinds() -> None:
    assert labels(["20", "30", "40", "30"], "categorical")[1] == ("20", "30", "40")
    assert labels(["1", "2", "3"] * 3, "continuous")[0] == "continuous"
    assert labels(["-1", "0", "1"], "binary") == ("binary", ("no", "yes"), [0, -9, 1])
    assert labels(["-1", "0", "1", "2"], "categorical")[1] == ("-1", "0", "1", "2")
    for cells, kind, message in (
        (["a", "1"], "continuous", "Expected numbers in 'it', .* got 'a'"),
        (["a", "b", "c"], "binary", "Expected two values of 'it'.* got 3, a, b, c"),
        (["1", "1.0", "2"], None, r"one spelling .* got '1' and '1\.0': declare data\.kinds=\{it: categorical\}"),
        ([str(20_000_000 + i) for i in range(40)], None, r"whole numbers up to 2\^24 in 'it'"),
    ):
        with pytest.raises(UserError, match=message):
            labels(cells, kind)
    attributes = pd.DataFrame({"race": ["1", "2", "3"], "age": ["1.5", "2", "3"]})
    table = factor_table(attributes, {"race": "race", "years": "age"}, kinds={"race": "categorical"})
    assert [factor.kind for factor in table.factors] == ["categorical", "continuous"]
    with pytest.raises(UserError, match="got 'rase'. Did you mean race"):
        factor_table(attributes, ["race"], kinds={"rase": "binary"})
    with pytest.raises(UserError, match="one of binary, categorical, continuous, got 'class'"):
        factor_table(attributes, ["race"], kinds={"race": "class"})


def test_splits_of_true_and_false() -> None:
    assert split_numbers(pd.Series(["True", "False"], name="is_train")).tolist() == [0, 2]
    assert split_numbers(pd.Series([1, 0], name="is_valid")).tolist() == [1, 0]
    assert split_numbers(pd.Series(["0", "1"], name="split")).tolist() == [0, 1]
    with pytest.raises(UserError, match="got 'True': name the column is_train"):
        split_numbers(pd.Series(["True", "False"], name="part"))


def test_factors_with_the_names_of_own_columns() -> None:
    names = ("id", "split", "name", "text", "x", "embedding_0", "hat")
    table = FactorTable(tuple(Factor(name, "continuous", ("low", "high")) for name in names),
                        torch.zeros(1, len(names)))  # fmt: skip
    assert list(words(table)) == [*(f"label/{name}" for name in names[:-1]), "hat"]


def test_labels_of_vectors_as_they_are_brought(tmp_path: Path) -> None:
    n = 12
    rows = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    np.save(tmp_path / "v.npy", rows)
    classes = np.arange(n) % 4 - 1
    np.save(tmp_path / "labels.npy", classes)
    pd.DataFrame({"y": classes}).to_parquet(tmp_path / "labels.parquet")
    (tmp_path / "labels.jsonl").write_text("\n".join(f'{{"y": {label}}}' for label in classes))
    for name in ("labels.npy", "labels.parquet", "labels.jsonl"):
        data = vectors(tmp_path / "v.npy", labels=tmp_path / name)
        assert data.factors.factors[0].values == ("0", "1", "2")
        assert data.factors.values[:, 0].nan_to_num(-1).tolist() == classes.tolist()
        assert any("-1 is read as noise, no label, in 3 rows" in note for note in data.notes)
    for lines, message in (
        (["label", *"ab" * 5, "a"], "got 12 whose first, 'label', seems to be a header"),
        (["kind", *"ab" * 5, "a"], "got 12 whose first, 'kind', seems to be a header"),
        ([*"ab" * 6, "a"], "got 13 whose first, 'a', is like those below it"),
    ):
        (tmp_path / "l.csv").write_text("\n".join(lines))
        with pytest.raises(UserError, match=message):
            vectors(tmp_path / "v.npy", labels=tmp_path / "l.csv")
    pd.DataFrame({"a": rows[:, 0], "b": classes > 0, "is_train": True}).to_parquet(tmp_path / "w.parquet")
    assert vectors(tmp_path / "w.parquet").values[:, 1].tolist() == (classes > 0).tolist()
