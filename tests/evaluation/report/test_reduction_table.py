"""retrieval.csv in a report: what is marked, and what is not."""

import re
from pathlib import Path

import pandas as pd

from evaluation.report.reduction_table import reduction_tables

ROWS = [  # method, dim, r1, p, difference_low
    ("full", 4, 0.9, None, None), ("pca", 2, 0.5, None, None), ("pca", 4, 0.8, None, None),
    ("isometric", 2, 0.6, 0.001, 0.05), ("isometric", 4, 0.81, 0.4, -0.01),
    ("<odd>", 2, 0.1, 0.001, -0.5),
]  # fmt: skip


def test_what_is_better_is_marked(tmp_path: Path) -> None:
    table = pd.DataFrame(ROWS, columns=["method", "dim", "r1", "p", "difference_low"])
    table["direction"], table["against"] = "label/intent", [None, None, None, "pca", "pca", "pca"]
    table.to_csv(tmp_path / "retrieval.csv", index=False)
    (page,) = reduction_tables(tmp_path / "retrieval.csv")
    assert "Classification by intent, 1-NN accuracy" in page and "full embedding 0.900" in page
    assert re.findall(r"<td class=best>([\d.]+)</td>", page) == ["0.600"]
    assert "pca (reference)" in page and "&lt;odd&gt;" in page
    assert page.count("<td></td>") == 1  # not measured at 4


def test_runs_of_other_models_have_none(tmp_path: Path) -> None:
    assert reduction_tables(tmp_path / "retrieval.csv") == []
