"""The stage of model=sae and the command, on planted concepts in real files."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from torch.nn.functional import normalize

from datamodules.factors import FactorTable
from datamodules.features import FeatureData
from evaluation.command import command
from evaluation.concepts import __main__ as concepts
from evaluation.concepts import pipeline as concepts_pipeline
from evaluation.concepts.decomposition import of_texts
from evaluation.concepts.pipeline import learn_concepts
from models import UserError
from models.sae import Codes, combination
from training.build import build
from training.run_folder import Run

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # as fitting.py asks, too
CONFIGS = Path(__file__).parents[3] / "configs"
NAMES = ("cat", "dog", "red", "blue", "big", "small", "old", "new")


def planted(n: int = 400, d: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of two concepts each, the directions of the concepts, and which two."""
    generator = torch.Generator().manual_seed(0)
    directions = normalize(torch.randn(len(NAMES), d, generator=generator), dim=1)
    support = torch.rand(n, len(NAMES), generator=generator).argsort(1)[:, :2]
    values = 1 + torch.rand(n, 2, generator=generator)
    return combination(Codes(values, support), directions), directions, support


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows and vocabulary as files, both with names."""
    folder = tmp_path_factory.mktemp("vectors")
    rows, directions, support = planted()
    np.save(folder / "rows.npy", rows.numpy())
    np.save(folder / "words.npy", directions.numpy())
    names = [f"{NAMES[a]} {NAMES[b]} {i}" for i, (a, b) in enumerate(support.tolist())]
    pd.DataFrame({"name": names}).to_csv(folder / "names.csv", index=False)
    pd.DataFrame({"name": NAMES}).to_csv(folder / "words.csv", index=False)
    return folder


def arguments(files: Path, *more: str) -> list[str]:
    return ["data=vectors", f"data.path={files / 'rows.npy'}", f"data.names={files / 'names.csv'}", *more]


def vocabulary(files: Path) -> list[str]:
    return [f"vocabulary={files / 'words.npy'}", f"vocabulary_names={files / 'words.csv'}"]


@pytest.fixture(scope="module")
def finished(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of model=sae, which no test may change."""
    folder = tmp_path_factory.mktemp("runs") / "sae"
    settings = ["model=sae", *arguments(files), f"run_dir={folder}", "sae.expansion=1", "sae.active=[1,2]",
                "sae.learning_rate=0.01", "trainer.sae.steps=600", "trainer.sae.batch_size=128",
                "trainer.accelerator=cpu"]  # fmt: skip
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", settings)
    data, run = build(config.data), Run(folder, config)
    run.manifest(data, None, 0, "cpu")
    learn_concepts(config, data, run, torch.device("cpu"))
    run.save()
    return folder


def printed(capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    concepts.main([*more, "json=true"])
    return json.loads(capsys.readouterr().out)


def test_the_stage_trains_measures_and_writes(finished: Path) -> None:
    numbers = json.loads((finished / "metrics.json").read_text())
    assert numbers["sae/l0"] <= 2
    assert numbers["sae/explained_variance"] > 0.8
    assert numbers["heldout/sae/explained_variance"] > 0.8
    assert numbers["sae/explained_variance"] > numbers["pca/explained_variance"]
    assert numbers["sae/dead"] <= 16
    assert {"time/sae_s", "throughput/sae_per_s", "sae/cosine", "sae/dead_share"} <= set(numbers)
    rows = pd.read_parquet(finished / "concepts.parquet")
    assert len(rows) == 400
    assert {*rows["features"][0][0]} == {"feature", "value"}
    assert len(pd.read_csv(finished / "concepts.csv")) == 24
    for name in ("checkpoints/last.ckpt", "figures/concepts.png"):
        assert (finished / name).stat().st_size > 1000


def test_units_of_a_run_are_named_by_a_vocabulary(finished: Path, files: Path, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """The commonest units are the planted concepts: their first names have them, and so have their top rows."""
    found = printed(capsys, f"run={finished}", *vocabulary(files), f"out={tmp_path}")
    for concept in found["concepts"][:6]:
        name = concept["name"].split(", ")[0]
        assert concept["name_cosine"] > 0.6
        assert all(name in row.split() for row in concept["rows"])
    assert found["files"] == str(tmp_path)
    assert (tmp_path / "figures" / "concepts.png").is_file()
    fewer = printed(capsys, f"run={finished}", "active=1", f"out={tmp_path}")
    assert fewer["sae/l0"] == 1
    assert fewer["sae/explained_variance"] < found["sae/explained_variance"]


def test_splice_finds_the_planted_texts(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*arguments(files), *vocabulary(files), f"out={tmp_path}"]
    found = printed(capsys, *options, "active=2")
    assert 1.5 < found["splice/l0"] <= 2.2
    assert {concept["name"] for concept in found["concepts"]} == set(NAMES)
    for concept in found["concepts"]:
        assert all(concept["name"] in row.split() for row in concept["rows"])
    again = printed(capsys, *options, f"penalty={found['splice/penalty']}")
    assert again["splice/l0"] == found["splice/l0"]
    name = pd.read_csv(files / "names.csv")["name"][7]
    asked = printed(capsys, *options, "active=2", f"query={name}")
    assert sorted(part["feature"] for part in asked["concepts"]) == sorted(name.split()[:2])


def test_the_printed_table(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    concepts.main([*arguments(files), *vocabulary(files), f"out={tmp_path}", "k=1"])
    shown = capsys.readouterr().out
    assert "splice/explained_variance: 0." in shown
    assert f"Open: {tmp_path}/figures/concepts.png" in shown
    assert "cat" in shown


def test_images_have_a_contact_sheet(tmp_path: Path) -> None:
    rows, directions, _ = planted(60)
    images = torch.randint(256, (60, 1, 8, 8)).to(torch.uint8)
    table = FactorTable((), torch.empty(60, 0))
    data = FeatureData("made", rows, [f"{i}" for i in range(60)], table, torch.zeros(60, dtype=torch.uint8), "made",
                       images=images)  # fmt: skip
    titles = ["costs $5 to $10", *NAMES[1:]]  # which is no formula
    parts = of_texts(data, (titles, directions), active=2)
    concepts_pipeline.write_results(tmp_path, data, data.ids, parts, parts.encode(rows), 3)
    assert (tmp_path / "figures" / "concept_images.png").stat().st_size > 1000


def test_errors(finished: Path, files: Path, tmp_path: Path) -> None:
    def refused(message: str, *more: str) -> None:
        with pytest.raises(UserError, match=message):
            concepts.main([*more, f"out={tmp_path}"])

    refused("Expected vocabulary=FILE", *arguments(files))
    refused("Expected run=RUN of model=sae", *arguments(files), *vocabulary(files), "method=sae")
    refused("Expected method to be one of", *arguments(files), "method=pca")
    refused("Expected penalty= with method=splice", f"run={finished}", "penalty=0.1")
    refused("Expected active= or penalty=", *arguments(files), *vocabulary(files), "penalty=0.1", "active=3")
    refused("Expected active= from 1 to 24", f"run={finished}", "active=25")
    refused("Expected k of at least 1", f"run={finished}", "k=0")
    refused("Expected a file of texts at", *arguments(files), "vocabulary=none.txt")
    refused("vectors come without an encoder", *arguments(files), *vocabulary(files), "query=horse")
    (tmp_path / "words.txt").write_text("cat\ndog\n")
    refused("vectors come without an encoder", *arguments(files), f"vocabulary={tmp_path / 'words.txt'}")
    np.save(tmp_path / "narrow.npy", np.random.default_rng(0).normal(size=(5, 3)))
    refused("Expected a vocabulary of 24 numbers", *arguments(files), f"vocabulary={tmp_path / 'narrow.npy'}")
    (tmp_path / "blank.txt").write_text("\n \n")
    refused(
        "Expected texts in .*blank.txt, got 2 empty ones", *arguments(files), f"vocabulary={tmp_path / 'blank.txt'}"
    )
    words = np.load(files / "words.npy")
    words[1] = 0
    np.save(tmp_path / "lost.npy", words)
    refused("Expected texts with a direction in .*lost.npy, got all zeros for 1, the first 'dog'", *arguments(files),
            f"vocabulary={tmp_path / 'lost.npy'}", f"vocabulary_names={files / 'words.csv'}")  # fmt: skip
    rows = np.load(files / "rows.npy")
    rows[7] = 0
    np.save(tmp_path / "zero.npy", rows)
    refused("all zeros or not finite, the first row 7", "data=vectors", f"data.path={tmp_path / 'zero.npy'}",
            *vocabulary(files))  # fmt: skip


def test_rows_that_are_all_for_testing_are_one_line(files: Path) -> None:
    rows = planted(20)[0]
    data = FeatureData("made", rows, [f"{i}" for i in range(20)], FactorTable((), torch.empty(20, 0)),
                       torch.full((20,), 2, dtype=torch.uint8), "made")  # fmt: skip
    with pytest.raises(UserError, match="Expected rows that are not for testing, got none of 20"):
        concepts_pipeline.check_rows(data)


def test_the_texts_of_a_run_of_sae_do_not_change_its_numbers(finished: Path, files: Path, tmp_path: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    found = printed(capsys, f"run={copy}", "method=splice", *vocabulary(files))
    assert found["splice/l0"] > 2
    assert (copy / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()


def test_an_error_is_one_line(files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["concepts", *arguments(files)])
    with pytest.raises(SystemExit) as ended:
        command(concepts.main)
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
