"""Old names of experiments still work: on the command line with a note, and in the settings of older runs."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.command import train_here
from training.renamed import EXPERIMENTS, with_new_names
from training.settings import stored

CONFIGS = Path(__file__).parents[2] / "configs" / "experiment"


def test_old_names_are_replaced_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    assert with_new_names(["experiment=deck_reduction", "seed=1"]) == ["experiment=coco_clip_reduction", "seed=1"]
    assert capsys.readouterr().err == "experiment=deck_reduction is now called experiment=coco_clip_reduction.\n"


def test_other_arguments_stay_without_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["experiment=published", "run_dir=deck_clustering", "-m", "~experiment", "+x=a=b"]
    assert with_new_names(arguments) == arguments and not capsys.readouterr().err


def test_a_sweep_may_mix_old_and_new_names() -> None:
    swept = with_new_names(["+experiment=deck_clustering,published"])
    assert swept == ["+experiment=cifar10_clip_clustering,published"]


def test_new_names_are_experiments_and_old_ones_are_not() -> None:
    names = {file.stem for file in CONFIGS.glob("*.yaml")}
    assert set(EXPERIMENTS.values()) <= names and not names & EXPERIMENTS.keys()


def test_train_composes_an_experiment_by_its_old_name(tmp_path: Path) -> None:
    """The run ends at the data, which are not there, and not at the name."""
    result = train_here(tmp_path, "experiment=deck_clustering", f"data.root={tmp_path}", check=False)
    assert result.returncode == 2
    note, error = result.stderr.strip().split("\n")
    assert note == "experiment=deck_clustering is now called experiment=cifar10_clip_clustering."
    assert error.startswith("Expected CIFAR-10 in ")


def test_stored_settings_name_the_experiment_as_it_is_called_now(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    OmegaConf.save({"groups": {"experiment": "deck_clustering", "data": "cifar10"}}, file)
    assert stored(file).groups == {"experiment": "cifar10_clip_clustering", "data": "cifar10"}
