import pytest

from evaluation.table import clustering_table, edit_table, summarise
from models import UserError


def test_mean_and_sd_over_runs_by_hand() -> None:
    runs = [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 2.0, "only_here": 1.0}]
    assert summarise(runs) == {"a": (2.0, 2**0.5), "b": (2.0, 0.0)}
    assert summarise(runs[:1])["a"] == (1.0, 0.0)


def test_the_table_has_a_row_per_factor_and_editor() -> None:
    summary = {
        "judge/hat/accuracy": (0.98, 0.0),
        "edit/hat/success": (1.0, 0.0),
        "oracle/hat/counterfactual": (0.875, 0.01),
    }
    lines = edit_table(summary).splitlines()
    assert lines[2] == "| hat (0.980) | flow | 1.000 ± 0.000 |  |  |  |"
    assert lines[3] == "|  | oracle |  |  |  | 0.875 ± 0.010 |"
    assert len(lines) == 4


def test_clusterings_of_one_run_or_of_several() -> None:
    first, second = {"kmeans/ari": 0.5, "heldout/kmeans/ari": 0.25}, {"kmeans/ari": 0.7, "heldout/kmeans/ari": 0.25}
    header = ["| factor | rows | method | ARI |", "|---|---|---|---|"]
    assert clustering_table([first]).splitlines() == [
        *header,
        "|  | fitted | k-means | 0.500 |",
        "|  | held-out | k-means | 0.250 |",
    ]
    assert clustering_table([first, second]).splitlines() == [
        *header,
        "|  | fitted | k-means | 0.600 ± 0.141 |",
        "|  | held-out | k-means | 0.250 ± 0.000 |",
    ]
    over_seeds = {"dec/shape/ami_mean": 0.5, "dec/shape/ami_sd": 0.125}
    assert clustering_table([over_seeds]).splitlines()[2] == "| shape | fitted | DEC | 0.500 ± 0.125 |"
    with pytest.raises(UserError, match="several of several"):
        clustering_table([over_seeds, over_seeds])
    assert clustering_table([{"edit/hat/success": 1.0}]) == ""
