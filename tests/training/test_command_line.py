"""The command line of train.py, as typed: texts that Hydra's grammar refuses or turns into numbers."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from training.arguments import take_as_typed
from training.command_line import quoted

REFUSED = ["café", "train (1).csv", "it's", "a=b", "眼镜", "a,b (c", '"x', "#x", "x;y", "~x", "a'b'c\\", "{a: b"]
READ = ["a b", "C:\\x\\", "$1_000", "100%", "runs/x"]


@pytest.mark.parametrize("text", [*REFUSED, *READ])
def test_hydra_reads_a_quoted_text_as_typed(text: str) -> None:
    override = OverridesParser.create().parse_override(quoted([f"data.path={text}"])[0])
    assert override.value() == text and override.key_or_group == "data.path"


def test_arguments_that_hydra_reads_are_left_alone() -> None:
    arguments = ["-m", "seed=1,2", "data=folder", "+image_size=32", "dims=[2, 8]", "data.factors={a: b}", "~logger"]
    assert quoted(arguments) == arguments
    assert quoted(["data.path=[a (1).csv,b.csv]"]) == ["data.path=['a (1).csv','b.csv']"]
    assert quoted(["data.factors={hat: Hat (any), age: Age}"]) == ["data.factors={hat:'Hat (any)',age:'Age'}"]


def test_numbers_that_hydra_makes_of_texts_become_texts_again(tmp_path: Path) -> None:
    overrides = ["run_dir=2026_11_27", "data.root=1_000", "data.factors=[1,01]", "data.people=true", "data.size=1_0"]
    data = {"_target_": "datamodules.folder.folder", "root": 1000, "factors": [1, 1], "people": True, "size": 10}
    settings = OmegaConf.create({"run_dir": 20261127, "data": data})
    take_as_typed(settings, overrides)
    assert settings.run_dir == "2026_11_27"
    assert settings.data == {**data, "root": "1_000", "factors": ["1", "01"], "people": "true"}
