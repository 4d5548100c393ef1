"""Vectors from files as users have them, with names and labels from tables or from the files themselves."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from datamodules.splits import TEST, TRAIN, VALIDATION, hash_split
from datamodules.vectors import vectors
from models import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"
N = 12
VALUES = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
IDS = [f"thing {row}" for row in range(N)]
CLASSES = ["cat", "dog", "eel"] * 4


def npy(folder: Path, values: np.ndarray = VALUES, name: str = "v.npy") -> Path:
    np.save(folder / name, values)
    return folder / name


def npz(folder: Path, name: str = "v.npz", **arrays: Any) -> Path:
    np.savez(folder / name, **arrays)
    return folder / name


def parquet(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "v.parquet")
    return folder / "v.parquet"


def csv(folder: Path, text: str | list[str], name: str = "t.csv") -> Path:
    (folder / name).write_text(text if isinstance(text, str) else "\n".join([*text, ""]))
    return folder / name


def fails(message: str, *arguments: Any, **settings: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        vectors(*arguments, **settings)
    assert "\n" not in str(caught.value)


def test_float32_stays_in_its_file(tmp_path: Path) -> None:
    path = npy(tmp_path)
    content = path.read_bytes()
    data = vectors(path)
    assert data.name == "vectors" and data.values.dtype == torch.float32
    assert np.array_equal(data.values.numpy(), VALUES)
    assert data.ids[:2] == ["000000", "000001"] and torch.equal(data.split, hash_split(data.ids))
    assert data.factors.factors == () and data.factors.values.shape == (N, 0)
    assert data.images is None and data.notes == [] == data.skipped
    data.values[0] = 0  # of the map, not of the file
    assert path.read_bytes() == content


def test_a_large_file_is_neither_read_nor_checked_as_a_whole(tmp_path: Path) -> None:
    rows = np.lib.format.open_memmap(tmp_path / "v.npy", "w+", np.float32, (10_000, 2048))  # 82 MB, mostly a hole
    rows[5], rows[-1] = 1, 2
    rows.flush()
    tracemalloc.start()
    data = vectors(tmp_path / "v.npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000 and data.values.shape == (10_000, 2048)
    first = f"the first row 0 of {tmp_path / 'v.npy'} (counted from 0)"
    assert data.notes == [f"9998 of 10000 rows are all zeros, {first}: they have no direction."]
    rows[7_001, 3] = np.inf
    rows.flush()
    fails("in 1 of 10000 rows, the first row 7001 of", tmp_path / "v.npy")


@pytest.mark.parametrize("kind", ["<f2", ">f4", "<f8", "<i8", "|u1", "|b1"])
def test_other_numbers_become_float32_and_nothing_else(kind: str, tmp_path: Path) -> None:
    values = (np.arange(48).reshape(N, 4) * 5).astype(kind)
    data = vectors(npy(tmp_path, values))
    assert data.values.dtype == torch.float32 and np.array_equal(data.values.numpy(), values.astype(np.float32))


def test_the_order_of_axes_in_the_file_does_not_matter(tmp_path: Path) -> None:
    assert np.array_equal(vectors(npy(tmp_path, np.asfortranarray(VALUES))).values.numpy(), VALUES)


def test_further_axes_are_flattened(tmp_path: Path) -> None:
    data = vectors(npy(tmp_path, VALUES.reshape(N, 2, 2)))
    assert np.array_equal(data.values.numpy(), VALUES) and data.images is None


@pytest.mark.parametrize("shape", [(N, 6, 6), (N, 1, 6, 6), (N, 3, 6, 6), (N, 6, 6, 3), (N, 6, 6, 1)])
def test_square_pixels_are_kept_as_images(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    data = vectors(npz(tmp_path, x=pixels, y=np.arange(N) % 3), labels="y")
    assert data.images is not None and np.array_equal(data.values.numpy(), pixels.reshape(N, -1))
    first = pixels.reshape(N, 1, 6, 6) if 3 not in shape else pixels if shape[1] == 3 else pixels.transpose(0, 3, 1, 2)
    assert np.array_equal(data.images.numpy(), first)


@pytest.mark.parametrize("shape", [(N, 6, 5), (N, 6, 5, 3), (N, 6, 6, 2), (N, 36), (N, 2, 3, 6, 6)])
def test_other_pixels_are_features_alone(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    assert vectors(npy(tmp_path, pixels)).images is None


def test_an_archive_with_labels_names_and_a_split(tmp_path: Path) -> None:
    parts = np.array(["train", "valid", "test"] * 4)
    path = npz(tmp_path, x=VALUES, y=np.arange(N) % 3 + 5, word=np.array(CLASSES), key=np.array(IDS, "S"), part=parts)
    data = vectors(path, names="key", labels=["y", "word"], split="part")
    assert data.ids == IDS and data.split.tolist() == [TRAIN, VALIDATION, TEST] * 4
    number, word = data.factors.factors
    assert (number.name, number.kind, number.values, number.source) == (
        "y",
        "categorical",
        ("5", "6", "7"),
        "y of v.npz",
    )
    assert (word.name, word.kind, word.values) == ("word", "categorical", ("cat", "dog", "eel"))
    assert data.factors.values.tolist() == [[row % 3, row % 3] for row in range(N)] and data.notes == []


def test_several_files_follow_one_another(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (N, 2, 2), dtype=np.uint8)
    train = npz(tmp_path, "train.npz", x=pixels[:8], y=np.arange(8) % 2)
    test = npz(tmp_path, "test.npz", x=pixels[8:], y=np.arange(8, N) % 2)
    data = vectors([str(train), test], labels="y", split=["train", "test"])
    assert np.array_equal(data.values.numpy(), pixels.reshape(N, 4)) and data.ids[-1] == "000011"
    assert data.images is not None and np.array_equal(data.images[:, 0].numpy(), pixels)
    assert data.split.tolist() == [TRAIN] * 8 + [TEST] * 4
    assert data.factors.values[:, 0].tolist() == [row % 2 for row in range(N)]
    assert vectors([train, test], split="train").split.tolist() == [TRAIN] * N
    mixed = vectors([npy(tmp_path, VALUES[:5]), npz(tmp_path, z=VALUES[5:].astype(np.float64))])
    assert np.array_equal(mixed.values.numpy(), VALUES)


def test_the_array_that_is_asked_for(tmp_path: Path) -> None:
    path = npz(tmp_path, image=VALUES, text=2 * VALUES, y=np.arange(N))
    assert np.array_equal(vectors(path, column="text").values.numpy(), 2 * VALUES)
    fails(r"got 2 \(image, text\) among image \(12, 4\) float32, .*: name it by data\.column=", path)
    fails("among image, text, y of .*, got 'txt'. Did you mean text?", path, column="txt")
    fails(r"in y of .*v\.npz, got an array of shape \(12,\) of int64", path, column="y")


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float16(), 4)])
def test_a_table_with_a_column_of_lists(kind: pa.DataType, tmp_path: Path) -> None:
    path = parquet(
        tmp_path, title=IDS, row=list(range(N)), vector=pa.array(list(VALUES.astype(np.float16)), kind), animal=CLASSES
    )
    data = vectors(path, names="title", labels="animal")
    assert np.array_equal(data.values.numpy(), VALUES.astype(np.float16).astype(np.float32))
    assert data.ids == IDS and data.factors.factors[0].source == "animal of v.parquet" and data.notes == []


def test_a_table_with_columns_of_numbers(tmp_path: Path) -> None:
    path = parquet(
        tmp_path, id=list(range(N)), label=[row % 3 for row in range(N)], title=IDS, kind=[row % 2 for row in range(N)],
        **{f"f{i}": VALUES[:, i] for i in range(4)},
    )  # fmt: skip
    data = vectors(path, labels="kind", names="id")
    assert np.array_equal(data.values.numpy(), VALUES) and data.ids[-1] == "11"
    assert data.notes == ["Not used as features of v.parquet, by their names: label."]


def test_lists_longer_than_one_part_of_a_table(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(20_000, 2)).astype(np.float32)
    path = parquet(tmp_path, v=pa.FixedSizeListArray.from_arrays(values.ravel(), 2))
    assert np.array_equal(vectors(path).values.numpy(), values)
    lists = [list(row) for row in values]
    lists[15_000] = lists[15_000][:1]
    fails(r"one length in column v of .*, got 2 numbers in row 0 and 1 in row 15000", parquet(tmp_path, v=lists))


def test_names_of_a_table(tmp_path: Path) -> None:
    path = npy(tmp_path)
    numbered = [f'{row + 100},"{name}"' for row, name in enumerate(IDS)]
    for text, column, expected in (
        (IDS, None, IDS),  # no header
        (["what", *IDS], None, IDS),
        ([*numbered], 2, IDS),
        (["number;name", *(line.replace(",", ";") for line in numbered)], None, IDS),
        (["number,what", *numbered], "what", IDS),
        (["number,what", *numbered], None, [str(row + 100) for row in range(N)]),
        ([",what", *numbered], None, IDS),  # pandas' own index
        (["NA", "null", *IDS[2:]], None, ["NA", "null", *IDS[2:]]),
    ):
        assert vectors(path, names=csv(tmp_path, text), names_column=column).ids == expected


def test_labels_by_row(tmp_path: Path) -> None:
    path = npy(tmp_path)
    cells = [f"{name},{row % 2},{row / 2},{row % 5}" for row, name in enumerate(CLASSES)]
    data = vectors(path, labels=csv(tmp_path, ["animal,tame,weight,legs", *cells]))
    assert [(factor.name, factor.kind, factor.values) for factor in data.factors.factors] == [
        ("animal", "categorical", ("cat", "dog", "eel")), ("tame", "binary", ("no", "yes")),
        ("weight", "continuous", ("low", "high")), ("legs", "categorical", ("0", "1", "2", "3", "4")),
    ]  # fmt: skip
    assert data.factors.values[4].tolist() == [1, 0, 2, 4] and data.factors.factors[0].source == "animal of t.csv"
    for text in (CLASSES, ["animal", *CLASSES]):
        (factor,) = vectors(path, labels=csv(tmp_path, text)).factors.factors
        assert factor.name == ("label" if len(text) == N else "animal") and factor.values == ("cat", "dog", "eel")


def test_labels_by_name(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"path": npy(tmp_path), "names": csv(tmp_path, IDS, "names.csv")}
    lines = [f"{cls},{name}" for name, cls in zip(IDS, CLASSES, strict=True)]
    expected = [float(row % 3) for row in range(N)]
    for text in (
        ["animal,what", *reversed(lines)],
        [*reversed(lines)],  # no header
        ["animal,what", *reversed(lines), "cat,another thing", "dog,a third thing"],
    ):
        data = vectors(**settings, labels=csv(tmp_path, text))
        assert data.factors.values[:, 0].tolist() == expected and len(data.factors.factors) == 1
        assert len(data.notes) == 2 and "12 of 1" in data.notes[1] and "in column" in data.notes[1]
    for missing in (1, 5):  # a table as long as there are rows, and a shorter one
        data = vectors(**settings, labels=csv(tmp_path, ["animal,what", *lines[missing:]]))
        assert (
            data.factors.values[missing:, 0].tolist() == expected[missing:] and data.factors.factors[0].name == "animal"
        )
        assert data.factors.values[:missing].isnan().all()
        assert data.notes[2:] == [f"animal: {missing} of 12 rows have no label."]
    by_row = vectors(**settings, labels=csv(tmp_path, ["animal,tame", *(f"{cls},thing 1" for cls in CLASSES)]))
    assert by_row.factors.values[:, 0].tolist() == expected  # one column has a known name in every line: no ids
    fails("every id once in .*, got 'thing 3' again", **settings, labels=csv(tmp_path, ["a,b", *lines, *lines[3:5]]))


def test_labels_that_are_missing_for_some_rows(tmp_path: Path) -> None:
    path, some = npy(tmp_path), [*CLASSES[:3], "", "nan", *CLASSES[5:]]
    expected = [float(row % 3) if row not in (3, 4) else -1 for row in range(N)]
    for text in (some, ["animal", *some], ["animal,x", *(f"{cls},1" for cls in some)]):
        data = vectors(path, labels=csv(tmp_path, text))
        assert data.factors.values[:, 0].nan_to_num(-1).tolist() == expected
        assert f"{data.factors.factors[0].name}: 2 of 12 rows have no label." in data.notes
    numbers = np.where(np.isin(np.arange(N), [3, 4]), np.nan, np.arange(N) % 3)
    data = vectors(npz(tmp_path, x=VALUES, y=numbers), labels="y")
    assert data.factors.values[:, 0].nan_to_num(-1).tolist() == expected and data.factors.factors[0].values[2] == "2"
    last_two = "animal\n" + "\n".join([*CLASSES[:-2], "", ""]) + "\n"
    assert vectors(path, labels=csv(tmp_path, last_two)).factors.values[:, 0].isnan().sum() == 2


def test_columns_that_say_nothing_of_groups(tmp_path: Path) -> None:
    lines = [f"{name},1,,{cls}" for name, cls in zip(IDS, CLASSES, strict=True)]
    data = vectors(npy(tmp_path), labels=csv(tmp_path, ["title,constant,empty,animal", *lines]))
    assert [factor.name for factor in data.factors.factors] == ["animal"]
    assert data.notes == [
        "t.csv: 12 rows, separated by comma, with a header; a row per vector; columns: title, constant, empty, animal.",
        "title is not used as a label: it has another value in every row.",
        "constant is not used as a label: it has one value only.",
        "empty is not used as a label: it has no value at all.",
    ]


def test_any_number_of_classes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    words, numbers = np.array([f"class {row % 150:03d}" for row in range(400)]), np.arange(400) % 70 * 3
    path = npz(tmp_path, x=values, word=words, number=numbers, size=np.arange(400) // 2)
    word, number, size = vectors(path, labels=["word", "number", "size"]).factors.factors
    assert word.kind == number.kind == "categorical" and (len(word.values), len(number.values)) == (150, 70)
    assert number.values[:3] == ("0", "3", "6") and size.kind == "continuous"


def test_the_fingerprint_follows_everything_that_is_known(tmp_path: Path) -> None:
    changed = VALUES.copy()
    changed[-1, -1] += 1
    path, labels = npy(tmp_path), csv(tmp_path, CLASSES)
    found = [
        vectors(path),
        vectors(path, labels=labels),
        vectors(path, split="train"),
        vectors(npy(tmp_path, changed, "w.npy")),
        vectors(path, names=csv(tmp_path, IDS, "names.csv")),
    ]
    assert len({data.fingerprint for data in found}) == len(found)
    assert vectors(npy(tmp_path, VALUES.astype(np.float64), "d.npy")).fingerprint == found[0].fingerprint


def test_files_that_are_not_there_or_of_no_use(tmp_path: Path) -> None:
    fails(r"Expected a file of vectors at .*none\.npy, got no such file: set data\.path", tmp_path / "none.npy")
    fails("got no such file", tmp_path)
    fails("got an empty list: set data.path", [])
    fails(r"\(\.npy, \.npz, \.parquet\), got .*t\.csv", csv(tmp_path, IDS))
    for suffix in ("npy", "npz", "parquet"):
        for content in (b"", b"<html>no such page</html>" * 9):
            path = tmp_path / f"bad.{suffix}"
            path.write_bytes(content)
            fails(rf"Expected an? \.{suffix} file in .*, got a file that cannot be read as one \(.+\): repair", path)
    for path in (npy(tmp_path), npz(tmp_path, x=VALUES), parquet(tmp_path, v=VALUES.tolist())):
        path.write_bytes(path.read_bytes()[:-60])
        fails("got a file that cannot be read as one", path)
    compressed = tmp_path / "c.npz"
    np.savez_compressed(compressed, x=VALUES)
    whole = compressed.read_bytes()
    compressed.write_bytes(whole[:200] + bytes(30) + whole[230:])
    fails("got a file that cannot be read as one", compressed)


def test_files_without_rows_of_numbers(tmp_path: Path) -> None:
    fails(r"got an array of shape \(12,\) of float32", npy(tmp_path, VALUES[:, 0]))
    fails(r"got an array of shape \(\) of float64", npy(tmp_path, np.array(1.0)))
    fails(r"got an array of shape \(12, 4\) of <U", npy(tmp_path, VALUES.astype(str)))
    fails("Object|object", npy(tmp_path, np.array([["a", 1]], dtype=object)))
    fails("null for .*, which holds one array, got x", npy(tmp_path), column="x")
    fails(r"got none among y \(12,\) int64, w \(12, 2\) <U1", npz(tmp_path, y=np.arange(N), w=np.full((N, 2), "a")))
    fails("got none among no array at all", npz(tmp_path))
    fails(r"Expected numbers in .*, got an array of shape \(0, 4\)", npz(tmp_path, x=VALUES[:0]))
    fails(r"Expected numbers in .*, got an array of shape \(12, 0\)", npz(tmp_path, x=VALUES[:, :0]))
    fails(r"got none among title \(string\)", parquet(tmp_path, title=IDS))
    fails(r"got 2 \(a, b\) among", parquet(tmp_path, a=VALUES.tolist(), b=VALUES.tolist()))
    fails("lists of numbers in column n of .*, got int64", parquet(tmp_path, n=[1, 2], v=[[1.0], [2.0]]), column="n")
    fails(r"got an array of shape \(2, 0\)", parquet(tmp_path, v=pa.array([[], []], pa.list_(pa.float32()))))


def test_tables_whose_lists_differ(tmp_path: Path) -> None:
    for lists, told in (
        ([[1.0, 2.0], [3.0]], "got 2 numbers in row 0 and 1 in row 1"),
        ([[1.0, 2.0], None], "got 2 numbers in row 0 and 0 in row 1"),
        ([None, [1.0, 2.0]], "got 0 numbers in row 0 and 2 in row 1"),
    ):
        fails(f"lists of one length in column v of .*, {told}: correct", parquet(tmp_path, v=lists))
    fixed = pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))
    fails("got 2 numbers in row 0 and 0 in row 1", parquet(tmp_path, v=fixed))


def test_values_that_cannot_be_used(tmp_path: Path) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        values = VALUES.copy()
        values[[3, 7], 2] = bad
        fails(r"in 2 of 12 rows, the first row 3 of .*v\.npy \(counted from 0\): leave", npy(tmp_path, values))
        fails("the first row 1 of .*w.npy", [npy(tmp_path, VALUES[:2]), npy(tmp_path, values[2:], "w.npy")])
    fails(
        "in 1 of 12 rows, the first row 0", npy(tmp_path, np.where(VALUES == VALUES[0, 0], 1e300, VALUES.astype(float)))
    )
    fails("in 1 of 2 rows, the first row 1", parquet(tmp_path, a=[1, 2], b=[1.5, None]))
    fails("in 1 of 2 rows, the first row 1", parquet(tmp_path, v=[[1, 2], [1, None]]))
    fails("Expected rows that differ, got 12 equal ones", npy(tmp_path, np.ones((N, 4), np.float32)))
    fails("Expected 2 or more rows in .*, got 1", npy(tmp_path, VALUES[:1]))
    narrow = npy(tmp_path, VALUES[:, :3], "w.npy")
    fails("as many features in every file, got 4 in v.npy, 3 in w.npy", [npy(tmp_path), narrow])


def test_constant_features_and_zero_rows_are_allowed(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[:, 1], values[4] = 0, 0
    path = npy(tmp_path, values)
    note = f"1 of 12 rows are all zeros, the first row 4 of {path} (counted from 0): they have no direction."
    assert vectors(path).notes == [note]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (IDS[:-1], "Expected 12 lines in .*, one per vector, or 13 with a header, got 11: give"),
        ([*IDS, "more", "and more"], "got 14: give"),
        ([*IDS[:-1], IDS[3]], "different names in .*, got 'thing 3' more than once"),
        (
            ["name,x", *(f"{name},1" for name in IDS[:5]), ",1", *(f"{name},1" for name in IDS[6:])],
            "got none for row 5",
        ),
        ([*IDS, ""], "got an empty line after line 12, .*: remove it, or write nan there"),
        (["a,a", *(f"{name},1" for name in IDS)], "different column names in .*, got 'a' twice"),
        ([",", *(f"{name},1" for name in IDS)], "a column with a name in .*, got none in its first line"),
        ("", "Expected 12 lines in .*, got 0"),
        ("a\nb,c\n", "Expected a table in .*, got 2 cells in line 2 after 1 in line 1, separated by comma: correct"),
    ],
)
def test_names_that_do_not_fit(text: str | list[str], message: str, tmp_path: Path) -> None:
    fails(message, npy(tmp_path), names=csv(tmp_path, text))


def test_names_and_labels_that_are_not_there(tmp_path: Path) -> None:
    path = npz(tmp_path, x=VALUES, species=np.arange(N) % 3, short=np.arange(5), wide=np.zeros((N, 2), int))
    fails("a table for data.names at none.csv, got no such file", path, names="none.csv")
    fails(r"data.names to be a table or a column of .* \(species, short, wide\), got 'nam'", path, names="nam")
    fails("data.labels to be a table or the path of one, got 'y'", npy(tmp_path), labels="y")
    fails("got 'specie'. Did you mean species?", path, labels="specie")
    fails("arrays of one length in .*v.npz, got 12 in species, 5 in short: save the labels", path, labels=path)
    fails("Expected 12 values, one per row, in short of .*, got 5", path, labels="short")
    fails(r"per row in wide of .*, got an array of shape \(12, 2\)", path, labels="wide")
    fails("Expected 12 lines in .*, got 10", path, labels=csv(tmp_path, CLASSES[:10]))
    table = csv(tmp_path, ["number,what", *(f"{row},{name}" for row, name in enumerate(IDS))])
    fails("column among number, what of .*, got 'wat'. Did you mean what?", path, names=table, names_column="wat")
    objects = npz(tmp_path, "o.npz", x=VALUES, y=np.array([*CLASSES[:-1], None], dtype=object))
    fails("an array y in .*, got a file that cannot be read as one .Object arrays", objects, labels="y")
    fails("Expected species in all files, got none in .*v.npy", [path, npy(tmp_path)], column=None, labels="species")


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (["train"], r"valid or test for each of 2 files, or one of their columns \(part, y, empty\), got \['train'\]"),
        (["train", "tset"], "for each of 2 files"),
        ("tset", r"for each of 2 files, or one of their columns \(part, y, empty\), got tset"),
        (["test", "valid"], r"training rows in data\.split, got none with \['test', 'valid'\]"),
        ("y", "Expected train, valid or test .or 0, 1, 2. in column 'y', got '3'"),
        ("empty", r"valid or test in every row of empty, got none in row 0 of .*a\.npz"),
        ("part", r"valid or test in every row of part, got none in row 2 of .*b\.npz"),
    ],
)
def test_splits_that_do_not_fit(split: str | list[str], message: str, tmp_path: Path) -> None:
    part, y = np.array(["train"] * 8 + [""] + ["test"] * 3), np.arange(N) % 4
    empty = np.full(6, "")
    paths = [
        npz(tmp_path, f"{'ab'[i]}.npz", x=VALUES[i * 6 :][:6], part=part[i * 6 :][:6], y=y[:6], empty=empty)
        for i in (0, 1)
    ]
    fails(message, paths, split=split)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the data for development are not on this machine")
def test_real_digits_and_real_embeddings() -> None:
    paths = [SHARED / "mnist" / f"mnist_{part}.npz" for part in ("train", "test")]
    data = vectors(paths, labels="y", split=["train", "test"])
    assert data.values.shape == (70_000, 784) and data.values.max() == 255 and data.images is not None
    assert torch.bincount(data.split).tolist() == [60_000, 0, 10_000] and data.notes == []
    assert data.factors.factors[0].values == tuple("0123456789")
    table = SHARED / "clip_text" / "lvis_names.csv"
    data = vectors(SHARED / "clip_text" / "lvis.npy", names=table, labels=table)
    assert data.values.shape == (1203, 512) and data.ids == pd.read_csv(table)["name"].tolist()
    assert [(factor.name, factor.kind) for factor in data.factors.factors] == [("image_count", "continuous")]
