"""Names become files without meeting, and no table has a formula."""

import io
import math

import pandas as pd
import pytest

from training.files import csv_text, file_name


def test_names_meet_on_no_file() -> None:
    names = ["a/b", "a_b", "a b", "眼镜", "性别", "眼鏡", "C++", "C#", "C", "C_", "c?", "c*", "", ".", "..", "../x",
             "=cmd|x", "-rf",
             ".bashrc", "x.", "x ", " x", "a\nb", "a\tb", "x" * 300, "x" * 299, "é" * 80, "cafe\u0301", "café",
             "🙂", "🙁", "\udce9", "a\0b", "CON/..", "..\\x"]  # fmt: skip
    files = [file_name(name) for name in names]
    assert len(set(files)) == len(names)
    for file in files:
        assert 0 < len(file.encode()) < 130 and not set(file) & set('/\\:*?"<>|\0\n\t=#') and file == file.strip(" .")
        assert not file.startswith(("-", "."))


@pytest.mark.parametrize("name", ["glasses", "Wearing_Hat", "hair colour", "x-1.5", "C++", "眼镜", "café", "gruppe_ä"])
def test_names_of_letters_stay(name: str) -> None:
    assert file_name(name) == name


def test_no_cell_is_a_formula() -> None:
    nasty = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|'/c calc'!A1", "+x", "-x"]
    numbers = ["-1.5", "+2", "-inf", "1e5", "-.5"]
    table = pd.DataFrame({"=name": nasty, "@other": pd.Categorical(nasty)}, pd.Index(nasty, name="-index"))
    read = pd.read_csv(io.StringIO(csv_text(table, index=True)), dtype=str, keep_default_na=False)
    assert list(read) == ["'-index", "'=name", "'@other"]
    assert all((read[name] == [f"'{cell}".replace("\r", "\n") for cell in nasty]).all() for name in read)
    plain = pd.DataFrame({"n": [-1.5, math.nan], "text": ["-1.5", None], "whole": [-1, 2], "flag": [True, False]})
    assert csv_text(plain) == plain.to_csv(index=False)
    assert csv_text(pd.DataFrame({"n": numbers})) == pd.DataFrame({"n": numbers}).to_csv(index=False)
    assert list(table) == ["=name", "@other"] and table.iloc[0, 0] == "=1+1"  # the caller's table stays
