"""Tables as people have them, and their ids against image ids."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datamodules.tables import Attributes, from_frame, join_tables, label_table_of, match_ids, read_tables
from models import UserError


def joined(ids: list[str], content: str | bytes, name: str = "a.csv", **options: Any) -> Attributes:
    data = content.encode() if isinstance(content, str) else content
    return join_tables(ids, {}, {name: label_table_of(name, data)}, **options)


def column(ids: list[str], content: str | bytes, key: str, name: str = "a.csv", **options: Any) -> list[Any]:
    return [None if pd.isna(cell) else cell for cell in joined(ids, content, name, **options).table[key]]


def fails(message: str, ids: list[str], content: str | bytes, name: str = "a.csv", **options: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        joined(ids, content, name, **options)
    assert "\n" not in str(caught.value)


def test_celeba_text_with_count_and_header() -> None:
    found = joined(["000002.jpg"], b"2\nMale Young\n000001.jpg -1  1\n000002.jpg  1 -1\n", "list_attr_celeba.txt").table
    assert found.loc["000002.jpg"].to_dict() == {"Male": "1", "Young": "-1"}


def test_celeba_text_without_header() -> None:
    found = joined(["000001.jpg", "000002.jpg"], b"000001.jpg 0\r\n000002.jpg 2\r\n", "list_eval_partition.txt")
    assert found.table.to_dict("list") == {"list_eval_partition": ["0", "2"]}


def test_text_with_a_full_header() -> None:
    content = b"2\nimage_id x_1 y_1\n000001.jpg 95 71\n000002.jpg 72 94\n"
    assert joined(["000001.jpg"], content, "list_bbox_celeba.txt").table.to_dict("list") == {
        "x_1": ["95"], "y_1": ["71"]
    }  # fmt: skip


def test_csv_finds_its_id_column_and_keeps_leading_zeros() -> None:
    found = joined(["000001", "000002"], b"\xef\xbb\xbf,Age,Image_ID\n0,031,000001\n1,,000002\n")
    assert found.table.to_dict("list") == {"Age": ["031", ""]}
    assert found.notes == [
        "a.csv: 2 rows, separated by comma, with a header; 2 of 2 ids in column 'Image_ID' match an image; columns: "
        "Age."
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_column_that_has_the_images_names(separator: str) -> None:
    text = "who,hat,hair\nx.png,1,red\ny.png,0,black\n".replace(",", separator)
    assert column(["y.png", "x.png"], text, "hair") == ["black", "red"]


def test_a_counter_before_the_names_is_not_taken_for_them() -> None:
    """The counter is some images' stem, and 44 of 100 labels used to be right."""
    rows = [f"{i},{(i * 7) % 100}.png,{i % 2}" for i in range(100)]
    ids = [f"{i}.png" for i in range(100)]
    right = [str([(j * 7) % 100 for j in range(100)].index(i) % 2) for i in range(100)]
    for header in (["number,photo,hat"], [",photo,hat"]):
        assert column(ids, "\n".join([*header, *rows]), "hat") == right
    stems = "\n".join(["number,photo,hat", *rows]).replace(".png", "")
    fails(r"one column of image ids in a.csv, got 'number' or 'photo': name it by data\.id_column=", ids, stems)
    assert column(ids, stems, "hat", given="photo") == column(ids, stems, "hat", given=2) == right
    other = "\n".join(["number,photo,hat", *(f"{i},picture-{i},{i % 2}" for i in range(100))])
    fails("got 'number' or 'photo'", ids[50:] + ["x.png"], other)
    fails("Expected data.id_column among number, photo, hat of a.csv, got 'foto'.*mean photo", ids, stems, given="foto")


def test_two_columns_of_images_are_a_question() -> None:
    text = "left,right,same\na.png,b.png,1\nb.png,c.png,0\nc.png,a.png,1\n"
    fails("got 'left' or 'right'", ["a.png", "b.png", "c.png"], text)
    assert column(["a.png", "b.png"], text, "same", given="right") == ["1", "1"]


def test_a_label_is_never_given_to_another_folders_image() -> None:
    assert match_ids(["val/20.jpg"], ["train/20.jpg"]).total == 0
    ids = ["train/20.jpg", "val/20.jpg", "val/21.jpg"]
    text = "image,hat\ntrain/20.jpg,1\nval/21.jpg,0\n"
    assert column(ids, text, "hat") == ["1", None, "0"]
    assert column(ids, text.replace("train/", "/data/train/").replace("val/", "/data/val/"), "hat") == ["1", None, "0"]
    assert column(ids, "image,hat\n20.jpg,1\n21.jpg,0\n", "hat") == [None, None, "0"]


def test_a_table_without_a_header_keeps_its_first_row() -> None:
    ids = ["a.png", "b.png", "c.png"]
    assert column(ids, "a.png,red\nb.png,blue\nc.png,red\n", "colours", "colours.csv") == ["red", "blue", "red"]
    assert column(ids[1:], "a.png,red\nb.png,blue\nc.png,red\n", "colours", "colours.csv") == ["blue", "red"]
    assert column(ids, "x,blue\na,red\nb,blue\nc,red\n", "x", "x.csv") == ["red", "blue", "red"]  # x is an extra row
    assert column(ids, "x,blue\na,red\nb,blue\nc,red\n", "blue", header=True) == ["red", "blue", "red"]
    assert column(ids, "1.png,1,2\na.png,3,4\nb.png,5,6\n", "t_2", "t.csv") == ["4", "6", None]


def test_trailing_separators_shift_nothing() -> None:
    ids, right = ["a.png", "b.png"], ["1", "0"]
    for text in ("file,hat,\na.png,1,\nb.png,0,\n", "file,hat\na.png,1,\nb.png,0,\n", "file,hat,\na.png,1\nb.png,0\n",
                 "file,hat\na.png,1,\nb.png,0\n", "file,hat,,\na.png,1,,\nb.png,0,,\n,,,\n"):  # fmt: skip
        for separator in ",\t":
            found = joined(ids, text.replace(",", separator), "a.csv" if separator == "," else "a.tsv")
            assert found.table.to_dict("list") == {"hat": right}, text


def test_rows_that_a_table_with_row_names_has() -> None:
    """As R writes them: the header has no cell for the names."""
    assert column(["a.png", "b.png"], '"hat","hair"\n"a.png",1,"red"\n"b.png",0,"a, b"\n', "hair") == ["red", "a, b"]
    fails("3 cells in line 2 after 2 in line 1", ["a.png"], "file,hat\na.png,a, b\nc.png,a, b\n")


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "json"])
def test_one_reader_for_all_formats(kind: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"img": ["a.jpg", "b.jpg"], "code": ["01", "1"], "hat": [True, False], "none": ["NA", "None"]})
    path = tmp_path / f"t.{kind}"
    match kind:
        case "csv" | "tsv":
            frame.to_csv(path, index=False, sep="," if kind == "csv" else "\t")
        case "parquet":
            frame.to_parquet(path)
        case _:
            frame.to_json(path, orient="records", lines=kind == "jsonl")
    found = join_tables(["b.jpg", "a.jpg"], {}, read_tables(path, tmp_path)).table
    assert found["code"].tolist() == ["1", "01"] and found["none"].tolist() == ["None", "NA"]
    assert [word.lower() for word in found["hat"]] == ["false", "true"]


def test_parquet_with_an_index(tmp_path: Path) -> None:
    frame = pd.DataFrame({"hat": [True, False]}, index=["a.jpg", "b.jpg"])
    for name in (None, "image_id"):
        frame.rename_axis(name).to_parquet(tmp_path / "index.parquet")
        found = join_tables(["b.jpg", "a.jpg"], {}, read_tables(tmp_path / "index.parquet", tmp_path))
        assert found.table.to_dict("list") == {"hat": ["false", "true"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "got 0 columns of labels in 0 rows"),
        ("a.txt", b"", "got 0 columns of labels in 0 rows"),
        ("a.csv", b"\x89PNG\r\n\x1a\n\xff\xfe", "text in UTF-8 in a.csv, got the byte 0x89 in line 1"),
        ("a.csv", b"id,a\nx,1\ny,caf\xe9\n", "text in UTF-8 in a.csv, got the byte 0xe9 in line 3: save the file"),
        ("a.csv", b"id,a\nx,1\ny,1,2,3\n", "got 4 cells in line 3 after 2 in line 1, separated by comma: correct"),
        ("a.csv", b"id,a\nx,1\ny\n", "got 1 cell in line 3 after 2 in line 1"),
        ("a.csv", b'id,a\nx,"1\ny,2\n', "quotation marks that do not fit, from line 2"),
        ("a.csv", b"id,a\nx,1\ny,\x00\n", "got a null character in line 3"),
        ("a.csv", b"a,b;c\nx,1;2\n", "2 cells a line separated by comma and 2 .* by semicolon: choose by data.separa"),
        ("a.parquet", b"PAR1 no", "cannot be read"),
        ("a.jsonl", b'{"id": "x", "a": 1}\n{"id": "x", "a": \n', "Expected json in a.jsonl, got .* in line 2"),
        ("a.jsonl", b'{"id": "x", "a": 1}\n\n{"id": "y", "a": "\\ud83d"}\n', "half a surrogate pair, .* in line 3"),
        ("a.jsonl", b'{"id": "x", "a": 1}\n[1]\n', "got list in line 2"),
        ("a.jsonl", b'{"id": "x", "a": 1, "a": 2}\n', "got the name 'a' twice in line 1"),
        ("a.csv", b"image_id\nx\ny\n", "got 0 columns of labels in 2 rows"),
        ("a.csv", b"image_id,hat\n", "got no common id|0 rows"),
        ("a.csv", b"image_id,hat,hat\nx,1,2\n", "different column names in a.csv, got 'hat' twice: rename"),
        ("a.csv", b"image_id,hat\nx,1\ny,0\nx,1\n", "got 1 repeated rows, the first for 'x' in line 4"),
    ],
)
def test_bad_tables(name: str, content: bytes, message: str) -> None:
    fails(message, ["x.png", "y.png"], content, name)


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv, got no such file there nor below"):
        read_tables("none.csv", tmp_path)
    with pytest.raises(UserError, match="Is a directory"):
        read_tables(tmp_path, tmp_path)


def test_paths_are_relative_to_here_then_to_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, root = tmp_path / "here", tmp_path / "root"
    for folder, hat in ((here, 1), (root, 2)):
        folder.mkdir()
        (folder / "both.csv").write_text(f"id,hat\nx,{hat}\n")
    (root / "only.csv").write_text("id,age\nx,30\n")
    monkeypatch.chdir(here)
    tables = read_tables(["both.csv", "only.csv"], root)
    assert [table.cells.iloc[1, 1] for table in tables.values()] == ["1", "30"]
    assert read_tables(None, root) == {}


def test_ids_match_whole_then_by_name_then_without_extension() -> None:
    names = ["set/a.png", "b.jpg", "c", "extra"]
    assert match_ids(["set/a.png", "other/b.jpg", "x/c.jpeg", "d.jpg"], names).rows.tolist() == [0, 1, 2, -1]
    assert match_ids(["a.jpg"], ["elsewhere/a.png"]).rows.tolist() == [0]
    assert match_ids(["a/b/1.png"], ["./a\\b\\1.png "]).rows.tolist() == [0]
    assert match_ids(["caf\u00e9.png"], ["cafe\u0301.png"]).rows.tolist() == [0]  # composed or not, one character


def test_ambiguous_ids_do_not_match() -> None:
    def rows(ids: list[str], names: list[str]) -> list[int]:
        return match_ids(ids, names).rows.tolist()

    assert rows(["x/a.jpg", "y/a.jpg", "b.jpg"], ["a.jpg", "b.jpg"]) == [-1, -1, 1]
    assert rows(["a.jpg", "b.jpg"], ["x/a.jpg", "y/a.jpg", "b.jpg"]) == [-1, 2]
    assert rows(["x/a.jpg", "y/a.jpg"], ["y/a.jpg", "x/a.jpg"]) == [1, 0]
    assert rows(["x/a.jpg", "a.jpg"], ["a.jpg"]) == [-1, 0]
    assert rows(["a.jpg", "a.png"], ["a"]) == [-1, -1]


def test_tables_with_the_same_columns_complete_each_other() -> None:
    ids = ["a.jpg", "b.jpg", "c.jpg"]
    first = from_frame("one/first.csv", pd.DataFrame({"hat": [1, -1], "age": [20, 30]}, index=["a.jpg", "b.jpg"]))
    second = from_frame("second.csv", pd.DataFrame({"hat": [0], "race": ["white"]}, index=["b"]))
    found = join_tables(ids, {"one/first.csv": first, "second.csv": second})
    assert found.table.index.tolist() == ids
    assert found.table["age"].fillna("?").tolist() == ["20", "30", "?"]
    assert found.table["hat"].fillna("?").tolist() == ["1", "0", "?"]
    assert found.table["race"].notna().tolist() == [False, True, False]
    assert found.sources == {
        "hat": "hat of first.csv and second.csv", "age": "age of first.csv", "race": "race of second.csv"
    }  # fmt: skip
    assert "hat: second.csv has other values than hat of first.csv for 1 images, and is used for them." in found.notes
    halves = {f"{i}.csv": label_table_of("x.csv", f"id,hat\n{i}.jpg,{i % 2}\n".encode()) for i in (1, 2)}
    assert join_tables(["1.jpg", "2.jpg"], halves).table["hat"].tolist() == ["1", "0"]


def test_rows_without_an_image_are_counted() -> None:
    text = "\n".join(["image,hat", *(f"{i:03d}.png,{i % 2}" for i in range(100))])
    (note,) = joined([f"{i:03d}.png" for i in range(20)], text).notes
    assert note.startswith("a.csv: 100 rows, separated by comma, with a header; 20 of 100 ids in column 'image' match")


def test_a_table_that_matches_nothing_shows_both_sides() -> None:
    fails("extra.csv.*the table has 'person-7', the images '000001.jpg'", ["000001.jpg"], "image,hat\nperson-7,1\n",
          "extra.csv")  # fmt: skip


def test_numbers_of_a_frame_keep_their_spelling() -> None:
    frame = pd.DataFrame({"hat": [1.0, np.nan], "wide": [0.25, 3e300]}, index=["a", "b"])
    assert from_frame("x", frame).cells.values.tolist() == [["a", "1", "0.25"], ["b", None, "3e+300"]]
