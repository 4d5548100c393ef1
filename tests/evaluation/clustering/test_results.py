"""Which images, classes and clusters are shown where: hand-made cases."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes

from datamodules.factors import FactorTable
from datamodules.features import FeatureData
from evaluation.clustering import results as sheets
from evaluation.clustering.results import (
    contact_sheets,
    contingency_table,
    draw_contingency,
    matched,
    words_of,
    write_contingencies,
)
from evaluation.drawing.figures import Column
from models.labels import Factor
from training.clusterers import Fitted

NAN = float("nan")
GROUP = Factor("group", "categorical", ("ant", "bee", "cat"), "")
LABELS = torch.tensor([0.0, 0, 0, 2, 2, 0, NAN])  # no bee
CLUSTERS = torch.tensor([4, 4, 4, 1, 1, 1, 7])


@pytest.mark.parametrize(
    ("table", "order"),
    [
        ([[1, 9], [8, 2]], [1, 0]),
        ([[0, 0, 5, 1], [0, 6, 0, 0]], [2, 1, 0, 3]),  # clusters of no class come last
        ([[5], [6]], [0]),
        ([[1, 2], [9, 3], [0, 7]], [0, 1]),  # a class without a cluster is passed over
    ],
)
def test_a_classs_own_cluster_is_on_the_diagonal(table: list[list[int]], order: list[int]) -> None:
    assert matched(np.array(table)).tolist() == order


def test_a_contingency_table_counts_rows_of_known_label() -> None:
    table = contingency_table(GROUP, LABELS, CLUSTERS)
    assert table.index.name == "group" and table.index.tolist() == ["ant", "cat"]
    assert table.columns.tolist() == [1, 4] and table.to_numpy().tolist() == [[1, 3], [2, 0]]


def test_the_picture_has_the_tables_shares_in_the_order_of_the_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, Any] = {}
    imshow, ticks = Axes.imshow, Axes.set_xticks

    def seen(axes: Axes, values: np.ndarray, **options: Any) -> Any:
        shown["shares"] = values.tolist()
        return imshow(axes, values, **options)

    def named(axes: Axes, places: Any, labels: Any = None, **options: Any) -> Any:
        shown.setdefault("clusters", labels)
        return ticks(axes, places, labels, **options)

    monkeypatch.setattr(Axes, "imshow", seen)
    monkeypatch.setattr(Axes, "set_xticks", named)
    draw_contingency(tmp_path / "table.png", GROUP, LABELS, CLUSTERS)
    assert shown == {"shares": [[0.75, 0.25], [0, 1]], "clusters": ["4", "1"]}
    assert (tmp_path / "table.png").stat().st_size > 1000


def data_of(n: int, factors: FactorTable) -> FeatureData:
    """Images whose value is the number of their row."""
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 1, 4, 4)
    split = torch.zeros(n, dtype=torch.uint8)
    return FeatureData("some", torch.rand(n, 2), [str(i) for i in range(n)], factors, split, "some", images=images)


def test_the_sheets_show_the_most_and_the_least_certain_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, tuple[list[Column], list[str]]] = {}
    monkeypatch.setattr(
        sheets, "strip", lambda path, columns, words: drawn.update({path.name: (columns, words)})
    )  # fmt: skip
    clusters = torch.tensor([0] * 20 + [2] * 3 + [0])
    certainty = torch.tensor([i / 100 for i in range(20)] + [0.5, 0.9, 0.7] + [1.0])
    data, rows = data_of(24, FactorTable((), torch.empty(24, 0))), torch.arange(23)  # the last row is not shown
    contact_sheets(tmp_path, data, Fitted(clusters, certainty, {}), rows, ["zero", "one", "two"])
    ((columns, words),) = drawn.values()
    assert list(drawn) == ["clusters.png"] and words == ["zero", "two"], "an empty cluster has no row"
    across = torch.stack([column.images[:, 0, 0, 0] for column in columns]).T.tolist()
    assert across[0] == [19, 18, 17, 16, 15, 14, 13, 0, 1, 2, 3, 4, 5, 6]
    assert across[1] == [21, 22, 20, 20, 20, 20, 20, 20, 22, 21, 21, 21, 21, 21], "few images: the last one repeated"
    assert all(column.images.shape[1] == 3 for column in columns)


def test_many_clusters_take_several_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, list[str]] = {}
    monkeypatch.setattr(sheets, "strip", lambda path, columns, words: drawn.update({path.name: words}))
    data = data_of(14, FactorTable((), torch.empty(14, 0)))
    fitted = Fitted(torch.arange(14), torch.ones(14), {})
    contact_sheets(tmp_path, data, fitted, torch.arange(14), [str(i) for i in range(14)])
    assert drawn == {"clusters.png": [str(i) for i in range(12)], "clusters_2.png": ["12", "13"]}


def test_words_name_the_class_that_most_labelled_rows_have() -> None:
    fitted = Fitted(CLUSTERS, torch.ones(7), {})
    words = words_of(fitted, torch.arange(7), 8, GROUP, LABELS)
    assert words[1] == "1: 3, 67% cat" and words[4] == "4: 3, 100% ant" and words[7] == "7: 1" and words[0] == "0: 0"


def test_contingency_files_of_every_method_and_factor(tmp_path: Path) -> None:
    factors = (Factor("a/b", "binary", ("no", "yes"), ""), Factor("none", "binary", ("no", "yes"), ""))
    labels = torch.tensor([[0.0, NAN], [0, NAN], [1, NAN], [1, NAN]])
    found = {
        "kmeans": [Fitted(torch.tensor([1, 1, 0, 0]), torch.ones(4), {})],
        "dec": [Fitted(torch.tensor([0, 1, 1, 1]), torch.ones(4), {})] * 2,
    }
    write_contingencies(tmp_path, data_of(4, FactorTable(factors, labels)), found, torch.arange(3), [0, 1])
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "contingency_dec_a_b-c14cddc0.csv", "contingency_kmeans_a_b-c14cddc0.csv",
    ]  # fmt: skip
    table = pd.read_csv(tmp_path / "contingency_kmeans_a_b-c14cddc0.csv", index_col="a/b")
    assert table.loc["no"].to_dict() == {"0": 0, "1": 2} and table.loc["yes"].to_dict() == {"0": 1, "1": 0}
