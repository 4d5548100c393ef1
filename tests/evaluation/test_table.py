from pathlib import Path

import pytest
from omegaconf import OmegaConf

from evaluation.table import check_comparable, clustering_table, edit_table, summarise
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


def stored_run(folder: Path, model: str = "iin", seed: int = 0, **other: object) -> Path:
    settings = {"model": {"name": model}, "data": {"_target_": "datamodules.faces.faces"}, "seed": seed, **other}
    folder.mkdir()
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(settings))
    return folder


def test_only_runs_of_one_model_and_data_are_averaged(tmp_path: Path) -> None:
    first, second = stored_run(tmp_path / "a"), stored_run(tmp_path / "b", seed=1)
    assert check_comparable([first, second]) == [] == check_comparable([first])
    other = stored_run(tmp_path / "c", "mds")
    with pytest.raises(UserError, match=r"Expected runs of one model, got model\.name=iin in .*a and mds in .*c"):
        check_comparable([first, second, other])
    with pytest.raises(UserError, match="Expected different runs"):
        check_comparable([first, second, tmp_path / "b" / ".." / "a"])


def test_runs_that_differ_in_more_than_the_seed_are_noted(tmp_path: Path) -> None:
    first, again = stored_run(tmp_path / "a"), stored_run(tmp_path / "b")
    assert "same seed and settings" in check_comparable([first, again])[0]
    quick = stored_run(tmp_path / "c", seed=1, trainer={"scale": 0.1})
    differ, warning = check_comparable([first, quick])
    assert "differ in trainer.scale" in differ and "QUICK RUN" in warning
