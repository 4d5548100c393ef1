"""Reductions asked about planted pairs and planted groups: what is known in advance, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from torch.nn.functional import normalize

from datamodules.captions import PairData
from datamodules.factors import FactorTable
from datamodules.features import FeatureData
from evaluation import retrieval
from evaluation.reduction.pipeline import COLUMNS, compare
from models import UserError
from models.labels import Factor
from training.run_folder import Run

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # the stages share it
CONFIGS = Path(__file__).parents[3] / "configs"
D = 12
QUICK = [
    "trainer.mds.steps=30", "trainer.autoencoder.steps=30", "trainer.matryoshka.steps=60", "mds.hidden=[16]",
    "autoencoder.hidden=[16]", "mds.quadruplets=1000", "trainer.accelerator=cpu", "dims=[2,6]",
]  # fmt: skip


def features(values: Tensor, split: Tensor, labels: Tensor | None = None) -> FeatureData:
    table = FactorTable((), torch.empty(len(values), 0))
    if labels is not None:
        table = FactorTable((Factor("group", "categorical", ("a", "b", "c"), "made"),), labels[:, None])
    ids = [f"row{i}" for i in range(len(values))]
    return FeatureData("planted", values, ids, table, split, f"planted {float(values.sum())}")


def planted_pairs(n: int = 200, each: int = 2) -> PairData:
    """Images of six numbers that say who they are and six that say nothing, and captions of the same up to noise."""
    generator = torch.Generator().manual_seed(0)
    shared = normalize(torch.randn(n, 6, generator=generator), dim=1)
    image_of = torch.arange(n).repeat_interleave(each)

    def side(said: Tensor) -> Tensor:
        return torch.cat([said + 0.05 * torch.randn(said.shape, generator=generator), torch.zeros(len(said), 6)], 1)

    images, texts = side(shared), side(shared[image_of])
    images[:, 6] += 1  # between texts and images
    split = torch.where(torch.arange(n) % 2 == 1, 2, 0).to(torch.uint8)
    return PairData(features(images, split), features(texts, split[image_of]), image_of)


def planted_groups(n: int = 150) -> FeatureData:
    """Three groups in the first two numbers, and noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    values = 0.3 * torch.randn(n, D, generator=generator)
    values[:, :2] += 5 * torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, -1.0]])[labels]
    split = torch.where(torch.arange(n) % 5 == 4, 2, 0).to(torch.uint8)
    known = labels.float().masked_fill(torch.arange(n) < 3, float("nan"))
    return features(values, split, known)


def compared(folder: Path, data: Any, *overrides: str) -> pd.DataFrame:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", ["model=mds", f"run_dir={folder}", *QUICK, *overrides])
    run = Run(folder, config)
    table = compare(config, data, run, torch.device("cpu"))
    run.save()
    return table


def row(table: pd.DataFrame, method: str, dim: int, direction: str) -> pd.Series:
    chosen = (table["method"] == method) & (table["dim"] == dim) & (table["direction"] == direction)
    assert chosen.sum() == 1
    return table[chosen].iloc[0]


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("pairs")
    return folder, compared(folder, planted_pairs())


def test_every_method_width_and_direction_has_a_row(paired: tuple[Path, pd.DataFrame]) -> None:
    folder, table = paired
    assert table.columns.tolist() == COLUMNS and len(table) == 2 * (1 + 9 * 2)
    assert COLUMNS[:8] == "method dim direction r1 r5 r10 correct n".split()  # the contract's
    assert set(table["n"][table["direction"] == "text_to_image"]) == {200}
    assert set(table["n"][table["direction"] == "image_to_text"]) == {100}
    assert (table["correct"] == (table["r1"] * table["n"]).round()).all()
    assert ((table["r1"] <= table["r5"]) & (table["r5"] <= table["r10"])).all()
    assert ((table["r1_low"] <= table["r1"] + 1e-9) & (table["r1"] <= table["r1_high"] + 1e-9)).all()
    pd.testing.assert_frame_equal(pd.read_csv(folder / "retrieval.csv"), table, check_dtype=False)
    assert (folder / "figures/retrieval.png").stat().st_size > 10_000
    assert {"last.ckpt", "pca.ckpt", "isotonic_6.ckpt"} <= {path.name for path in (folder / "checkpoints").iterdir()}


def test_pairs_are_found_where_their_six_numbers_are_kept(paired: tuple[Path, pd.DataFrame]) -> None:
    _, table = paired
    for direction in ("text_to_image", "image_to_text"):
        for method in ("centred_pca", "cross_modal_svd", "matryoshka", "isometric", "isotonic"):
            assert row(table, method, 6, direction)["r1"] > 0.9, method
            assert row(table, method, 2, direction)["r1"] < 0.5, method
        assert row(table, "coordinates", 6, direction)["r1"] < 0.8
    tested = row(table, "coordinates", 6, "text_to_image")
    assert tested["against"] == "centred_pca" and tested["p"] < 1e-6 and tested["difference_high"] < 0
    assert row(table, "full", D, "text_to_image")[["against", "p"]].isna().all()


def test_the_headline_says_how_many_dimensions_are_needed(paired: tuple[Path, pd.DataFrame]) -> None:
    folder, table = paired
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["retrieval/text_to_image/full_r1"] == pytest.approx(row(table, "full", D, "text_to_image")["r1"])
    assert metrics["retrieval/text_to_image/centred_pca_dims_for_90"] == 6


def test_held_out_pairs_change_no_fit(paired: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    data = planted_pairs()
    data.images.values[data.images.split == 2] *= -1  # type: ignore[union-attr]
    compared(tmp_path, data, "methods=[pca,isotonic]")
    for name in ("pca", "isotonic_2"):
        found, expected = (
            torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]
            for folder in (tmp_path, paired[0])
        )
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_the_transductive_option_asks_about_the_rows_that_are_fitted_on(tmp_path: Path) -> None:
    table = compared(tmp_path, planted_pairs(), "methods=[pca]", "against=pca", "fit_on=all")
    assert set(table["n"]) == {400, 200}


def test_single_rows_are_asked_for_their_neighbours_and_labels(tmp_path: Path) -> None:
    table = compared(tmp_path, planted_groups())
    assert set(table["direction"]) == {"neighbours", "label/group"} and len(table) == 2 * (1 + 7 * 2)
    full = row(table, "full", D, "neighbours")
    assert full["r1"] == full["r10"] == 1 and full["n"] == 30
    for method in ("pca", "isometric", "isotonic", "matryoshka"):
        assert row(table, method, 2, "label/group")["r10"] == 1, method
    assert row(table, "pca", 6, "neighbours")["r10"] > row(table, "pca", 2, "neighbours")["r10"]
    whole = compared(tmp_path / "all", planted_groups(), "fit_on=all", "methods=[pca]")
    assert row(whole, "pca", 2, "neighbours")["n"] == 150 and row(whole, "full", D, "neighbours")["r1"] == 1
    assert row(whole, "pca", 2, "label/group")["n"] == 147  # three have no label


def test_the_command_adds_to_a_finished_run(
    paired: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, before = paired
    monkeypatch.setattr("evaluation.run.LoadedRun.data", property(lambda _: planted_pairs()))
    retrieval.main([f"run={folder}", "dims=[4]", "methods=[gaussian_projection]", "json=true"])
    found = pd.DataFrame(json.loads(capsys.readouterr().out))
    assert len(found) == len(before) + 4  # with what they are tested against
    old = found[found["dim"] != 4].reset_index(drop=True)
    pd.testing.assert_frame_equal(old[COLUMNS[:8]], before[COLUMNS[:8]], check_dtype=False)
    assert row(found, "gaussian_projection", 4, "text_to_image")["against"] == "centred_pca"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["dims=[13]"], "Expected dims= from 1 to 12, the embeddings' width, got 13"),
        (["methods=[]"], "Expected methods among pca, .*, got none"),
        (["methods=[isomap]"], "Expected methods among pca, .*, got 'isomap'"),
        (["against=tsne"], "Expected methods among pca, .*, got 'tsne'"),
        (["fit_on=test"], "Expected fit_on to be one of train, all, got test"),
        (["label=grup"], "Expected a factor among group, got 'grup'. Did you mean group?"),
        (["methods=[isometric]", "mds.pairs=cross"], "Expected pairs of texts and images for mds.pairs=cross"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(tmp_path: Path, overrides: list[str], line: str) -> None:
    with pytest.raises(UserError, match=line):
        compared(tmp_path, planted_groups(), *overrides)


def test_data_that_cannot_be_asked_are_one_line(tmp_path: Path) -> None:
    data = planted_groups()
    with pytest.raises(UserError, match="Expected rows to fit on, queries, and more than 10 candidates"):
        compared(tmp_path / "few", planted_pairs(10))
    with pytest.raises(UserError, match="Expected rows to fit on, queries, .* got 150, 0 and 150"):
        compared(tmp_path / "none", replace(data, split=torch.zeros(150, dtype=torch.uint8)))
    values = data.factors.values.clone()
    values[8:] = float("nan")
    few = replace(data, factors=replace(data.factors, values=values))
    with pytest.raises(UserError, match="Expected rows to fit on, .* got 4, 1 and 4"):
        compared(tmp_path / "label", few, "label=group")
    data.values[7, 3] = float("nan")
    with pytest.raises(UserError, match="Expected finite features, got NaN or infinities in row 7"):
        compared(tmp_path / "nan", data)
