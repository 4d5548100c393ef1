"""Every method on planted groups: what is fitted, scored, written, and refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir

from datamodules.factors import Factor, FactorTable
from datamodules.features import FeatureData
from evaluation import clustering
from evaluation.clusterers import Fitted
from evaluation.clustering import cluster, suggestion
from evaluation.record import Run
from models import UserError

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # the stages share it
CONFIGS = Path(__file__).parents[2] / "configs"
QUICK = [
    "autoencoder.hidden=[32]", "autoencoder.code=3", "trainer.autoencoder.epochs=20", "trainer.dec.steps=40",
    "trainer.dec.interval=10", "trainer.turtle.steps=150",
    "trainer.temi.steps=150", "trainer.accelerator=cpu", "trainer.bf16=false",
]  # fmt: skip
EVERY = "methods=[kmeans,autoencoder,dec,idec,turtle,temi]"


def planted(n: int = 300, k: int = 3, features: int = 8, images: bool = True) -> FeatureData:
    """k groups far apart; every tenth row is of the test split, and the first five rows have no label."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % k
    centers = 4 * torch.randn(k, features, generator=generator)
    labels_known = labels.float().masked_fill(torch.arange(n) < 5, float("nan"))[:, None]
    return FeatureData(
        name="planted",
        values=centers[labels] + 0.3 * torch.randn(n, features, generator=generator),
        ids=[f"row{i}" for i in range(n)],
        factors=FactorTable((Factor("group", "categorical", tuple("abcdefgh"[:k]), "made"),), labels_known),
        split=torch.where(torch.arange(n) % 10 == 9, 2, 0).to(torch.uint8),
        fingerprint="planted",
        images=(60 * labels[:, None, None, None]).expand(n, 1, 8, 8).to(torch.uint8) if images else None,
    )


def settings(folder: Path, *overrides: str, model: str = "dec") -> Any:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", [f"model={model}", f"run_dir={folder}", "encoder=pixels", *QUICK, *overrides])


def clustered(folder: Path, data: FeatureData, *overrides: str) -> dict[str, float]:
    config = settings(folder, *overrides)
    run = Run(folder, config)
    cluster(config, data, run, torch.device("cpu"))
    run.save()
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("run")
    return folder, clustered(folder, planted(), EVERY)


@pytest.mark.parametrize("method", ["kmeans", "autoencoder", "dec", "idec", "turtle", "temi"])
def test_every_method_finds_planted_groups(metrics: tuple[Path, dict[str, float]], method: str) -> None:
    _, found = metrics
    for prefix in ("", "heldout/"):
        for score in ("ami", "ari", "fmi", "nmi", "accuracy"):
            assert found[f"{prefix}{method}/{score}"] > 0.95, (prefix, method, score)
    assert found[f"{method}/used_clusters"] == 3 and found[f"{method}/smallest_share"] == pytest.approx(1 / 3, abs=0.02)
    assert found[f"{method}/silhouette"] > 0.7


def test_the_run_folder_says_what_was_found(metrics: tuple[Path, dict[str, float]]) -> None:
    folder, found = metrics
    assert found["dec/stop_reason"] in (0, 1) and found["dec/updates"] >= 1
    assert found["dec/smallest_center_distance"] > 0
    assert {"autoencoder.ckpt", "last.ckpt"} <= {path.name for path in (folder / "checkpoints").iterdir()}
    table = pd.read_parquet(folder / "assignments.parquet")
    assert table["id"].tolist() == planted().ids and set(table["dec"]) == {0, 1, 2}
    assert table["dec/certainty"].between(0, 1).all()
    own = pd.read_csv(folder / "labels.csv")
    assert own.columns.tolist() == ["id", "split", "cluster", "certainty"]
    assert own["cluster"].tolist() == table["dec"].tolist()
    assert np.load(folder / "codes.npy").shape == (300, 3)
    assert (folder / "figures/clusters.png").stat().st_size > 1000
    assert (folder / "figures/contingency_group.png").stat().st_size > 1000


def test_several_seeds_give_mean_and_sd_and_their_agreement(tmp_path: Path) -> None:
    found = clustered(tmp_path, planted(), "methods=[kmeans,dec]", "seeds=2")
    assert found["dec/ari_mean"] > 0.95 and found["dec/ari_sd"] < 0.05 and "dec/ari" not in found
    assert found["heldout/kmeans/ami_mean"] > 0.95 and found["kmeans/stability"] > 0.95
    assert (tmp_path / "checkpoints/dec_1.ckpt").is_file()


def test_rows_of_the_test_split_are_not_fitted_on(tmp_path: Path) -> None:
    """Test rows far away from all others would have a cluster of their own."""
    data = planted()
    data.values[data.split == 2] += 100
    found = clustered(tmp_path / "train", data, "methods=[kmeans]")
    assert found["kmeans/ari"] == 1 and found["heldout/kmeans/ari"] == 0
    everything = clustered(tmp_path / "all", data, "methods=[kmeans]", "fit_on=all")
    assert everything["kmeans/ari"] < 0.9 and "heldout/kmeans/ari" not in everything


def test_other_labels_change_no_cluster(tmp_path: Path, metrics: tuple[Path, dict[str, float]]) -> None:
    folder, _ = metrics
    data = planted()
    data.factors.values[:] = torch.randint(3, (300, 1), generator=torch.Generator().manual_seed(1)).float()
    clustered(tmp_path, data, EVERY)
    columns = ["kmeans", "autoencoder", "dec", "idec", "turtle", "temi"]
    before, after = (pd.read_parquet(path / "assignments.parquet")[columns] for path in (folder, tmp_path))
    pd.testing.assert_frame_equal(before, after)


def test_without_labels_and_images(tmp_path: Path) -> None:
    data = planted(images=False)
    data.factors.values[:] = float("nan")
    found = clustered(tmp_path, data, "methods=[kmeans]", "k=3", "seeds=2")
    assert "kmeans/ari_mean" not in found and found["kmeans/silhouette"] > 0.7 and found["kmeans/stability"] == 1


def test_several_factors_have_their_own_rows(tmp_path: Path) -> None:
    data = planted()
    table = FactorTable(
        (
            *data.factors.factors,
            Factor("half", "binary", ("no", "yes"), "made"),
            Factor("size", "continuous", ("s", "l"), ""),
        ),
        torch.cat([data.factors.values, (torch.arange(300) % 2)[:, None], torch.rand(300, 1)], 1),
    )
    both = FeatureData(**{**vars(data), "factors": table})
    found = clustered(tmp_path / "both", both, "methods=[kmeans]", "k=3")
    assert found["kmeans/group/ari"] == 1 and abs(found["kmeans/half/ari"]) < 0.05 and "kmeans/ari" not in found
    one = clustered(tmp_path / "one", both, "methods=[kmeans]", "label=group")
    assert one["kmeans/ari"] == 1


def test_a_collapse_is_said() -> None:
    fitted = Fitted(torch.tensor([0, 0, 2, 2, 1]), torch.ones(5), {})
    (note,) = clustering.collapse_notes("dec", [fitted], torch.arange(4), 3)
    assert note.startswith("dec uses 2 of 3 clusters, the others are empty.")
    assert clustering.collapse_notes("dec", [fitted], torch.arange(5), 3) == []


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["k=300"], "Expected k between 2 and 270, the rows to cluster, got 300"),
        (["k=1"], "Expected k between 2 and 270, the rows to cluster, got 1"),
        (["methods=[kmeans,dek]"], "Expected methods among kmeans, .*, got 'dek'. Did you mean dec"),
        (["methods=[]"], "Expected methods among .*, got none"),
        (["label=grupp"], "Expected a factor among group, got 'grupp'. Did you mean group"),
    ],
)
def test_settings_that_fit_no_data_are_one_line(tmp_path: Path, overrides: list[str], line: str) -> None:
    with pytest.raises(UserError, match=line):
        clustered(tmp_path, planted(), *overrides)


def test_k_is_asked_for_where_nothing_says_it(tmp_path: Path) -> None:
    data = planted()
    bare = FeatureData(**{**vars(data), "factors": FactorTable((), torch.empty(300, 0))})
    with pytest.raises(UserError, match="Expected k=..., the number of clusters, got none, and 0 factors"):
        clustered(tmp_path, bare)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda values: values[7].fill_(float("nan")), "Expected finite features, got NaN or infinities in row 7"),
        (lambda values: values.fill_(2.0), "Expected features that differ, got 300 equal rows"),
    ],
)
def test_features_that_cannot_be_clustered_are_one_line(tmp_path: Path, spoil: Any, line: str) -> None:
    data = planted()
    spoil(data.values)
    with pytest.raises(UserError, match=line):
        clustered(tmp_path, data)


def test_the_suggestion_is_the_largest_strong_k() -> None:
    assert suggestion({2: 0.99, 3: 0.85, 4: 0.5}) == 3
    assert suggestion({2: 0.5, 3: 0.7, 4: 0.6}) == 3


def test_scores_are_the_modules_own() -> None:
    assert clustering.scores([0, 0, 1], [1, 1, 0])["ari"] == 1
