from evaluation.table import edit_table, summarise


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
