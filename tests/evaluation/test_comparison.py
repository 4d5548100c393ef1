"""The flow against the baselines."""

import pytest

from evaluation.comparison import best, edit_rows, editor_title, unjudged

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
    keys = ("edit", "baseline/mean_difference", "linear_svm", "oracle", "flow")
    assert [editor_title(key) for key in keys] == ["flow", "mean difference", "linear SVM", "oracle", "flow"]


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
