"""The flow against the baselines."""

import io

import pytest
from rich.console import Console

from evaluation.report.tables import (
    best,
    best_methods,
    by_member,
    cluster_rows,
    cluster_table,
    disagreement,
    edit_rows,
    edit_table,
    editor_title,
    final_metrics,
    invariance_line,
    metric_table,
    unjudged,
)

METRICS = {
    "reconstruction/psnr": 27.0,
    "edit/smile/success": 0.9,
    "edit/smile/leakage_on/hat": 0.5,
    "oracle/smile/counterfactual": 0.8,
    "baseline/linear_svm/smile/success": 0.7,
    "edit/a/b/leakage": 0.1,
    "judge/smile/balanced_accuracy": 0.74,
    "judge/a/b/balanced_accuracy": 0.75,
}


def test_rows_by_factor_and_editor() -> None:
    assert edit_rows(METRICS) == {
        "smile": {"flow": {"success": 0.9}, "linear SVM": {"success": 0.7}, "oracle": {"counterfactual": 0.8}},
        "a/b": {"flow": {"leakage": 0.1}},
    }
    assert list(edit_rows(METRICS)["smile"]) == ["flow", "linear SVM", "oracle"]


def test_titles() -> None:
    keys = ("edit", "baseline/mean_difference", "baseline/mean_difference_2", "linear_svm", "oracle", "flow")
    titles = ["flow", "mean difference", "mean difference × 2", "linear SVM", "oracle", "flow"]
    assert [editor_title(key) for key in keys] == titles


@pytest.mark.parametrize(
    ("metric", "numbers", "winners"),
    [
        ("success", {"flow": 0.9, "linear SVM": 0.7}, ["flow"]),
        ("leakage", {"flow": 0.9, "linear SVM": 0.7}, ["linear SVM"]),
        ("counterfactual", {"flow": 0.5, "linear SVM": 0.5004, "oracle": 0.9}, ["flow", "linear SVM"]),
        ("success", {"flow": 0.9}, []),
        ("success", {"flow": 0.9, "oracle": 1.0}, []),
    ],
)
def test_best(metric: str, numbers: dict[str, float], winners: list[str]) -> None:
    assert best({editor: {metric: number} for editor, number in numbers.items()}, metric) == winners


def test_a_weak_judge_is_flagged() -> None:
    assert unjudged(METRICS, "smile")
    assert not unjudged(METRICS, "a/b")
    assert not unjudged(METRICS, "unknown")


FINALS = {
    "edit/glasses/success": 0.9, "edit/glasses/effectiveness": 0.8, "edit/glasses/final_leakage": 0.1,
    "edit/glasses/leakage_at_equal": 0.1, "edit/glasses/identity": 0.95, "edit/glasses/identity_distance": 0.3,
    "edit/glasses/minimality": 0.4, "edit/glasses/effectiveness_net": 0.9, "edit/glasses/effectiveness_hog": 0.69,
    "baseline/mean_difference_3/glasses/effectiveness": 0.7, "composition/null_edit": 0.0,
    "composition/ten_null_edits": 0.002, "reversibility/glasses": 0.01,
}  # fmt: skip


def test_of_photographs_the_terminal_shows_the_final_pictures() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(edit_table(FINALS | {"judge/glasses/balanced_accuracy": 0.6}))
    lines = console.export_text().splitlines()
    assert lines[0].split("  ")[0] == "factor" and len(lines) == 3, "a row was folded"
    heads = ("effectiveness", "leakage", "at equal", "identity", "distance", "minimality")
    assert all(head in lines[0] for head in heads) and "success" not in lines[0]
    assert lines[1].startswith("glasses (cannot be judged)  flow")
    assert lines[1].split()[-6:] == ["0.800", "0.100", "0.100", "0.950", "0.300", "0.400"]
    assert "mean difference × 3" in lines[2]


def test_of_drawn_data_identity_is_no_measure_of_final_pictures() -> None:
    drawn_again = edit_rows(FINALS | {"edit/glasses/counterfactual": 0.5, "edit/glasses/counterfactual_image": 0.6})
    assert "identity" in final_metrics(edit_rows(FINALS)) and "identity" not in final_metrics(drawn_again)
    assert final_metrics(edit_rows({"edit/glasses/identity": 0.9, "edit/glasses/success": 1.0})) == [], "an earlier run"


def test_members_of_a_committee() -> None:
    seen = by_member(FINALS, "edit", "glasses")
    assert seen == {"net": 0.9, "hog": 0.69} and disagreement(seen)
    assert not disagreement({"net": 0.9, "hog": 0.75}) and not disagreement({})


def test_null_edits_in_a_line() -> None:
    assert invariance_line(FINALS) == (
        "Mean absolute difference to the photograph: null edit 0.0000; ten 0.0020; edited and reversed glasses 0.0100"
    )
    assert invariance_line(METRICS) == ""


CLUSTERINGS = {
    "kmeans/ari_mean": 0.5,
    "kmeans/ari_sd": 0.02,
    "kmeans/nmi_mean": 0.7,
    "kmeans/nmi_sd": 0.01,
    "dec/ari_mean": 0.6,
    "dec/ari_sd": 0.1,
    "dec/nmi_mean": 0.7004,
    "dec/nmi_sd": 0.1,
    "heldout/dec/ari_mean": 0.4,
    "heldout/dec/ari_sd": 0.1,
    "dec/used_clusters_mean": 9.5,
    "dec/used_clusters_sd": 0.5,
    "dec/updates_mean": 3.0,
    "kmeans/silhouette": 0.2,
    "time/dec_s": 3.0,
    "map/tsne/dec/knn_recall": 0.5,
}


def test_rows_of_clusterings() -> None:
    assert cluster_rows(CLUSTERINGS) == {
        ("", "fitted", "kmeans"): {"ari": (0.5, 0.02), "nmi": (0.7, 0.01), "silhouette": (0.2, None)},
        ("", "fitted", "dec"): {"ari": (0.6, 0.1), "nmi": (0.7004, 0.1), "used_clusters": (9.5, 0.5)},
        ("", "held-out", "dec"): {"ari": (0.4, 0.1)},
    }


def test_several_seeds_are_shown_where_an_earlier_seed_is_there_too() -> None:
    both = {"dec/ari": 0.3, "dec/ari_mean": 0.4, "dec/ari_sd": 0.1}
    for metrics in (both, dict(reversed(both.items()))):
        assert cluster_rows(metrics) == {("", "fitted", "dec"): {"ari": (0.4, 0.1)}}


def test_a_factor_of_any_name_has_its_rows() -> None:
    found = cluster_rows({"dec/eyes/colour/ari": 0.5, "heldout/dec/eyes/colour/left/ari": 0.4, "dec/hat/ari": 0.3})
    assert list(found) == [
        ("eyes/colour", "fitted", "dec"), ("eyes/colour/left", "held-out", "dec"), ("hat", "fitted", "dec"),
    ]  # fmt: skip


def test_the_best_methods_are_those_of_the_best_score_as_printed() -> None:
    rows = cluster_rows(CLUSTERINGS)
    assert best_methods(rows, "", "fitted", "ari") == {"dec"}
    assert best_methods(rows, "", "fitted", "nmi") == {"kmeans", "dec"}, "equal as printed"
    assert best_methods(rows, "", "held-out", "ari") == set(), "it stands alone"
    assert best_methods(rows, "hat", "fitted", "ari") == set()


def drawn(metrics: dict[str, float]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table."""
    columns = cluster_table(metrics).columns
    rows = zip(*(map(str, column.cells) for column in columns), strict=True)
    return [str(column.header) for column in columns], [list(row) for row in rows]


def test_the_table_of_clusterings() -> None:
    heads, rows = drawn(CLUSTERINGS)
    assert heads == ["rows", "method", "ARI", "NMI", "silhouette", "used clusters"]
    assert rows == [
        ["fitted", "k-means", "0.500±0.020", "[bold]0.700±0.010[/]", "0.200", ""],
        ["fitted", "DEC", "[bold]0.600±0.100[/]", "[bold]0.700±0.100[/]", "", "9.5"],
        ["held-out", "DEC", "0.400±0.100", "", "", ""],
    ]


def test_the_table_names_factors_where_there_are_several() -> None:
    heads, rows = drawn({"dec/eyes/colour/ari": 0.5})
    assert heads[0] == "factor" and rows == [["eyes/colour", "fitted", "DEC", "0.500"]]


def test_brackets_in_a_name_are_no_markup() -> None:
    metrics = {
        "edit/a[/b]/success": 0.5,
        "x[/]": 0.5,
        "dec/a[/b]/ari": 0.5,
        "dec/[red]/ari": 0.5,
        "dec/used_clusters": 2.0,
    }
    console = Console(width=200, file=io.StringIO())
    for draw in (edit_table, metric_table, cluster_table):
        console.print(draw(metrics))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("a[/b]") == 4 and "x[/]" in text and "[red]" in text
