"""A run folder is of one data set and encoder; every setting that cannot be made is one line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from datamodules.factors import FactorTable, ImageData
from evaluation.report.summary import print_summary
from models import UserError
from models.labels import Factor
from training.build import build
from training.run_folder import Run

IIN = {"_target_": "models.iin.IIN", "_convert_": "all", "blocks": 2, "width": 8}


def test_what_is_named_is_made() -> None:
    iin = build(OmegaConf.create({"iin": IIN}).iin, features=4, factors=[])
    assert iin.flow.features == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coupling": "glwo"}, "Expected iin.coupling to be rnvp or glow or diffusion or null, got 'glwo'"),
        ({"objective": "faithfull"}, "Expected iin.objective to be faithful or likelihood, got 'faithfull'"),
        ({"optimizer": "mun"}, "Expected iin.optimizer to be muon or adam or null, got 'mun'"),
        ({"blocks": "two"}, "Expected iin.blocks to be a whole number of at least 1 or null, got 'two'"),
        ({"width": 1.5}, "Expected iin.width to be a whole number of at least 1 or null, got 1.5"),
        ({"label_deviation": "wide"}, "Expected iin.label_deviation to be a number above 0, got 'wide'"),
        ({"linear_start": "perhaps"}, "Expected iin.linear_start to be true or false or null, got 'perhaps'"),
        (
            {"block_sizes": "atuo"},
            "Expected iin.block_sizes to be a list of a whole number of at least 1 or auto or null, got 'atuo'",
        ),
        ({"width": "???"}, r"Expected iin.width=..., got none: models.iin.IIN needs it"),
        ({"block_sizes": ["a"]}, "Expected iin.block_sizes to be a list of a whole number"),
        ({"correlation": 2.0}, "Expected iin.correlation to be a number from 0 to less than 1"),
    ],
)
def test_what_cannot_work_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(OmegaConf.create({"iin": IIN | settings}).iin, features=4, factors=[])


def some_data(fingerprint: str) -> ImageData:
    images, split = torch.zeros(3, 3, 16, 16, dtype=torch.uint8), torch.tensor([0, 1, 2], dtype=torch.uint8)
    return ImageData("folder", images, list("abc"), FactorTable((), torch.zeros(3, 0)), split, fingerprint)


def test_a_run_goes_on_with_its_own_data_and_encoder_alone(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", OmegaConf.create({}))
    for _ in range(2):
        run.manifest(some_data("f00d"), {"name": "vae", "sha256": "abc"}, 0, "cpu")
    before = (run.path / "manifest.json").read_bytes()
    with pytest.raises(
        UserError, match=r"Expected the data that .* started with, got other rows \(fingerprint beef, there f00d"
    ):
        run.manifest(some_data("beef"), {"name": "vae", "sha256": "abc"}, 0, "cpu")
    with pytest.raises(UserError, match=r"Expected the encoder .* \(sha256 abc\), got another \(def\)"):
        run.manifest(some_data("f00d"), {"name": "vae", "sha256": "def"}, 0, "cpu")
    assert (run.path / "manifest.json").read_bytes() == before


def labelled_data(values: list[float], confidence: float = 1.0) -> ImageData:
    table = FactorTable((Factor("glasses", "binary", ("no", "yes")), Factor("hat", "binary", ("no", "yes"))),
                        torch.tensor([values, [0.0, 1, 0]]).T, torch.full((3, 2), confidence))  # fmt: skip
    return replace(some_data("f00d"), factors=table)


def test_a_run_goes_on_with_its_own_labels_alone(tmp_path: Path) -> None:
    """The images, and so their fingerprint and caches, are the same."""
    run = Run(tmp_path / "run", OmegaConf.create({}))
    for _ in range(2):
        run.start_manifest(labelled_data([0, 1, 1]), 0, "cpu")
        run.manifest(labelled_data([0, 1, 1]), None, 0, "cpu")
    for other in (labelled_data([0, 1, 0]), labelled_data([0, 1, torch.nan])):
        with pytest.raises(UserError, match="started with, got other labels of glasses: put them back, or choose"):
            run.start_manifest(other, 0, "cpu")
    with pytest.raises(UserError, match="got other labels of glasses, hat:"):
        run.manifest(labelled_data([0, 1, 1], 0.5), None, 0, "cpu")
    with pytest.raises(UserError, match="got other people:"):
        run.start_manifest(replace(labelled_data([0, 1, 1]), people=torch.arange(3)), 0, "cpu")


def test_a_manifest_of_an_earlier_version_has_no_digests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "run", OmegaConf.create({}))
    run.start_manifest(labelled_data([0, 1, 1]), 0, "cpu")
    manifest = json.loads((run.path / "manifest.json").read_text())
    manifest["data"].pop("people")
    for factor in manifest["data"]["factors"]:
        factor.pop("sha256")
    manifest["data"]["fingerprint"] = "of sizes and times"
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    run.start_manifest(labelled_data([0, 1, 1]), 0, "cpu")
    assert "earlier version" in capsys.readouterr().out
    fewer = some_data("f00d")
    with pytest.raises(UserError, match="got other rows"):
        run.start_manifest(fewer, 0, "cpu")


@pytest.mark.parametrize("scale", [None, 1.0, 4, 0.02])
def test_a_short_run_says_that_its_numbers_mean_nothing(
    scale: float | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, OmegaConf.create({} if scale is None else {"trainer": {"scale": scale}}))
    run.metrics["reconstruction/mse"] = 0.1
    print_summary(run)
    said = "QUICK RUN: it was trained for 0.02 of the steps that it needs, so its numbers mean nothing."
    assert (said in capsys.readouterr().out) == (scale == 0.02)
