"""Tables as people have them, and their ids against image ids."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.tables import join_tables, match_rows, parse_table, read_table, read_tables
from models import UserError


def test_celeba_text_with_count_and_header() -> None:
    table = parse_table("list_attr_celeba.txt", b"2\nMale Young\n000001.jpg -1  1\n000002.jpg  1 -1\n")
    assert list(table.columns) == ["Male", "Young"]
    assert table.loc["000002.jpg"].tolist() == [1, -1]


def test_celeba_text_without_header() -> None:
    table = parse_table("list_eval_partition.txt", b"000001.jpg 0\r\n000002.jpg 2\r\n")
    assert list(table.columns) == ["list_eval_partition"]
    assert table.iloc[:, 0].tolist() == [0, 2]


def test_text_with_a_full_header() -> None:
    table = parse_table("list_bbox_celeba.txt", b"2\nimage_id x_1 y_1\n000001.jpg 95 71\n000002.jpg 72 94\n")
    assert table.loc["000001.jpg"].to_dict() == {"x_1": 95, "y_1": 71}


def test_csv_finds_its_id_column_and_keeps_leading_zeros() -> None:
    table = parse_table("a.csv", b"\xef\xbb\xbf,Age,Image_ID\n0,31,000001\n1,,000002\n")
    assert table.index.tolist() == ["000001", "000002"]
    assert list(table.columns) == ["Age"]
    assert table["Age"].tolist()[0] == 31 and np.isnan(table["Age"].tolist()[1])


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_first_column_is_the_id_where_none_is_named_so(separator: str) -> None:
    text = "who,hat,hair\nx.png,1,red\ny.png,0,black\n".replace(",", separator)
    table = parse_table("a.csv", text.encode())
    assert table.index.tolist() == ["x.png", "y.png"] and table["hair"].tolist() == ["red", "black"]


def test_parquet_with_index_or_column(tmp_path: Path) -> None:
    frame = pd.DataFrame({"image_id": ["a.jpg", "b.jpg"], "hat": [True, False]})
    frame.to_parquet(tmp_path / "column.parquet")
    frame.set_index("image_id").to_parquet(tmp_path / "index.parquet")
    for name in ("column", "index"):
        assert read_table(tmp_path / f"{name}.parquet")["hat"].to_dict() == {"a.jpg": True, "b.jpg": False}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "cannot be read"),
        ("a.txt", b"", "got 0 columns of labels in 0 rows"),
        ("a.csv", b"\x89PNG\r\n\x1a\n\xff\xfe", "cannot be read"),
        ("a.csv", b"id,a\nx,1\ny,1,2,3\n", "cannot be read"),
        ("a.parquet", b"PAR1 no", "cannot be read"),
        ("a.csv", b"image_id\nx\ny\n", "got 0 columns of labels in 2 rows"),
        ("a.csv", b"image_id,hat\n", "got 1 columns of labels in 0 rows"),
        ("a.csv", b"image_id,hat\nx,1\ny,0\nx,1\n", "got 1 repeated rows, the first for 'x'"),
    ],
)
def test_bad_tables(name: str, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_table(name, content)
    assert "\n" not in str(caught.value)


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_table(tmp_path / "none.csv")
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
    assert [table.iloc[0, 0] for table in tables.values()] == [1, 30]
    assert read_tables(None, root) == {}


def test_ids_match_whole_then_by_name_then_without_extension() -> None:
    index = pd.Index(["set/a.png", "b.jpg", "c", "extra"])
    assert match_rows(["set/a.png", "other/b.jpg", "x/c.jpeg", "d.jpg"], index).tolist() == [0, 1, 2, -1]
    assert match_rows(["a.jpg"], pd.Index(["elsewhere/a.png"])).tolist() == [0]


def test_ambiguous_ids_do_not_match() -> None:
    assert match_rows(["x/a.jpg", "y/a.jpg", "b.jpg"], pd.Index(["a.jpg", "b.jpg"])).tolist() == [-1, -1, 1]
    assert match_rows(["a.jpg", "b.jpg"], pd.Index(["x/a.jpg", "y/a.jpg", "b.jpg"])).tolist() == [-1, 2]
    assert match_rows(["x/a.jpg", "y/a.jpg"], pd.Index(["y/a.jpg", "x/a.jpg"])).tolist() == [1, 0]


def test_tables_join_with_missing_rows_and_the_later_counts() -> None:
    first = pd.DataFrame({"hat": [1, -1], "age": [20, 30]}, index=["a.jpg", "b.jpg"])
    second = pd.DataFrame({"hat": [0], "race": ["white"]}, index=["b"])
    joined = join_tables(["a.jpg", "b.jpg", "c.jpg"], {"one/first.csv": first, "second.csv": second})
    assert joined.table.index.tolist() == ["a.jpg", "b.jpg", "c.jpg"]
    assert joined.table["age"].fillna(-9).tolist() == [20, 30, -9]
    assert joined.table["hat"].fillna(-9).tolist() == [-9, 0, -9]
    assert joined.table["race"].notna().tolist() == [False, True, False]
    assert joined.sources == {"hat": "hat of second.csv", "age": "age of first.csv", "race": "race of second.csv"}


def test_a_table_that_matches_nothing_shows_both_sides() -> None:
    table = pd.DataFrame({"hat": [1]}, index=["person-7"])
    with pytest.raises(UserError, match="extra.csv.*the table has 'person-7', the images '000001.jpg'"):
        join_tables(["000001.jpg"], {"extra.csv": table})
