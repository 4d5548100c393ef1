"""Files of a run folder that are empty, cut short, or of another content: one line each, in every command."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evaluation import table
from evaluation.editing.photographs import PLACE, stored_landmarks
from evaluation.report.page import write_report
from evaluation.report.reduction_table import reduction_tables
from evaluation.run import described, load, spaces_of
from models import UserError
from training.run_files import read_array, read_manifest, read_metrics, read_run_table
from training.run_folder import Run
from training.stored_settings import stored

HEAD = "method,dim,direction,r1,against,p,difference_low\n"
TEXTS = ["", "{", "[]", "text", "null", '"x"', "3", "[" * 100_000, "\x00", '{"a": 1']
METRICS = [*TEXTS, '{"a": "1"}', '{"a": [1]}', '{"edit/glasses/success": {}}', '{"kl": true}']
MANIFESTS = [*TEXTS, '{"data": []}', '{"data": {"factors": ["a"]}}', '{"data": {"factors": [{}]}}', '{"encoder": "x"}',
             '{"data": {"splits": {"train": "many"}}}', '{"data": {"notes": [1]}}', '{"data": {"size": "x"}}',
             '{"data": {"skipped": "abc"}}', '{"data": {"fingerprint": 3}}']  # fmt: skip
MEASUREMENTS = [*TEXTS, '{"leakage": [1]}', '{"leakage": {"flow": [["a"]]}}', '{"curves": {"flow": {"x": 3}}}',
                '{"factors": 3, "leakage": {"flow": [[0.5]]}}', '{"curves": "x"}']  # fmt: skip
CASES = [(name, text) for name, texts in (("metrics.json", METRICS), ("manifest.json", MANIFESTS),
         ("measurements.json", MEASUREMENTS)) for text in texts]  # fmt: skip


@pytest.fixture(scope="module")
def broken(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(finished_run, tmp_path_factory.mktemp("broken") / "run")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}: {case[1][:30]!r}")
def test_text_in_place_of_json(broken: Path, finished_run: Path, case: tuple[str, str]) -> None:
    name, text = case
    (broken / name).write_text(text)
    commands: dict[str, Callable[[], Any]] = {
        "report": lambda: write_report(broken),
        **({} if name != "manifest.json" else {"load": lambda: load(broken)}),
        **({} if name != "metrics.json" else {"table": lambda: table.main([f"runs=[{broken}]"]),
                                              "train": lambda: Run(broken, stored(broken / "config.yaml"))}),
    }  # fmt: skip
    try:
        for command in commands.values():
            with pytest.raises(UserError, match=rf"^Expected [^\n]* in {broken / name}, got [^\n]*$"):
                command()
    finally:
        (broken / name).unlink()
        if (finished_run / name).is_file():
            shutil.copy(finished_run / name, broken)


def test_null_is_a_missing_number_and_what_a_run_writes_is_read(run_copy: Path) -> None:
    (run_copy / "metrics.json").write_text('{"a": null, "b": 1}')
    found = read_metrics(run_copy)
    assert found["a"] != found["a"] and found["b"] == 1 and read_metrics(run_copy / "none") == {}
    assert read_manifest(run_copy)["data"]["splits"] == {"train": 180, "validation": 10, "test": 10}
    assert read_manifest(run_copy / "none") == {}


def write_tables(folder: Path) -> None:
    pd.DataFrame({"kmeans": [0, 1], "kmeans/certainty": [0.5, 0.5]}).to_parquet(folder / "assignments.parquet")
    np.save(folder / "codes.npy", np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"text", b"\x93NUMPY\x01\x00", b"PK\x05\x06" + bytes(18), None])
def test_tables_and_arrays_of_a_run(run_copy: Path, content: bytes | None) -> None:
    run = load(run_copy)
    run.config.cache_dir = str(run_copy / "cache")
    write_tables(run_copy)  # of another number of rows than the run has
    for file, read in (("assignments.parquet", lambda: described(run)), ("codes.npy", lambda: spaces_of(run, None))):
        if content is not None:
            (run_copy / file).write_bytes(content)
        with pytest.raises(UserError, match=rf"Expected an? \w+ of 200 rows in .*{file}, got [^\n]*$"):
            read()


def test_tables_that_fit(tmp_path: Path) -> None:
    write_tables(tmp_path)
    assert len(read_run_table(tmp_path / "assignments.parquet", ["kmeans"], 2)) == 2
    assert read_array(tmp_path / "codes.npy", 2).shape == (2, 3)
    with pytest.raises(UserError, match="the columns a, kmeans .* got none called a:"):
        read_run_table(tmp_path / "assignments.parquet", ["a", "kmeans"])
    np.save(tmp_path / "codes.npy", np.array([[{}]]), allow_pickle=True)
    with pytest.raises(UserError, match="Expected an array of 1 rows"):
        read_array(tmp_path / "codes.npy", 1)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "\x00", f"{HEAD}x,a,b,c,d,e,f\n",
                                  f"{HEAD}pca,2,d,.5,,.1,.1\n"])  # fmt: skip
def test_a_damaged_table_of_reductions(tmp_path: Path, text: str) -> None:
    (tmp_path / "retrieval.csv").write_text(text)
    with pytest.raises(UserError, match=r"Expected [^\n]* in .*retrieval.csv, got [^\n]*$"):
        reduction_tables(tmp_path / "retrieval.csv")


@pytest.mark.parametrize("place", ["x", [1, 2], {"a": 1}, [["a", "b"]] * 5])
def test_damaged_landmarks(tmp_path: Path, place: Any) -> None:
    (tmp_path / PLACE).write_text(json.dumps({"landmarks": place}))
    with pytest.raises(UserError, match="Expected five landmarks in"):
        stored_landmarks(tmp_path, lambda: None)  # type: ignore[arg-type, return-value]
