"""Every method on planted groups: what is fitted, scored, written, and refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from datamodules.factors import FactorTable
from datamodules.features import FeatureData, extract
from evaluation.clustering import __main__ as clustering
from evaluation.clustering import pipeline as clustering_pipeline
from evaluation.clustering.__main__ import suggestion
from evaluation.clustering.pipeline import check_settings, cluster
from evaluation.clustering.scores import scores
from evaluation.run import LoadedRun, load
from models import UserError
from models.labels import Factor
from models.vae import VAE
from train import train
from training.build import build
from training.clusterers import Fitted
from training.manifest import describe
from training.run_folder import Run, open_run

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # the stages share it
CONFIGS = Path(__file__).parents[3] / "configs"
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
    check_settings(config, data)
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
    assert found["dec/smallest_center_distance"] > 0 and found["dec/center_separation"] > 0.1
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


@pytest.mark.parametrize("method", ["kmeans", "autoencoder", "dec", "idec", "turtle", "temi"])
def test_contingency_tables_count_the_fitted_rows(metrics: tuple[Path, dict[str, float]], method: str) -> None:
    folder, _ = metrics
    table = pd.read_csv(folder / f"contingency_{method}_group.csv", index_col="group")
    rows = pd.read_parquet(folder / "assignments.parquet").query("split != 2 and `label/group`.notna()")
    counts = pd.crosstab(rows["label/group"], rows[method])
    assert table.to_numpy().tolist() == counts.to_numpy().tolist() and table.index.tolist() == ["a", "b", "c"]
    assert table.columns.tolist() == [str(name) for name in counts.columns] and table.to_numpy().sum() == 265


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


def several() -> FeatureData:
    """Two factors of classes and a continuous one."""
    data = planted()
    table = FactorTable(
        (
            *data.factors.factors,
            Factor("half", "binary", ("no", "yes"), "made"),
            Factor("size", "continuous", ("s", "l"), ""),
        ),
        torch.cat([data.factors.values, (torch.arange(300) % 2)[:, None], torch.rand(300, 1)], 1),
    )
    return FeatureData(**{**vars(data), "factors": table})


def test_several_factors_have_their_own_rows(tmp_path: Path) -> None:
    both = several()
    found = clustered(tmp_path / "both", both, "methods=[kmeans]", "k=3")
    assert found["kmeans/group/ari"] == 1 and abs(found["kmeans/half/ari"]) < 0.05 and "kmeans/ari" not in found
    one = clustered(tmp_path / "one", both, "methods=[kmeans]", "label=group")
    assert one["kmeans/ari"] == 1


def test_a_label_without_classes_is_one_line(tmp_path: Path) -> None:
    line = "Expected label= to be a factor that has classes, got size, which is continuous: .* \\(group, half\\)"
    with pytest.raises(UserError, match=line):
        clustered(tmp_path, several(), "methods=[kmeans]", "k=3", "label=size")


def test_a_collapse_that_is_provoked_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = clustered(tmp_path, planted(), "methods=[dec]", "dec.learning_rate=200.0")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("dec ") and "cluster" in line]
    assert found["dec/used_clusters"] < 3 and found["dec/center_separation"] < 0.01
    assert found["dec/stop_reason"] == 1, "it looks like success"
    assert lines[0].startswith("dec uses 2 of 3 clusters, the others are empty.")
    assert "dec has two centres that are " in lines[1] and "of the codes' spread apart: they coincide. Try" in lines[1]


def test_a_healthy_fit_says_nothing_of_a_collapse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clustered(tmp_path, planted(), "methods=[dec]")
    assert "uses" not in (out := capsys.readouterr().out) and "centres" not in out


def test_nearly_empty_clusters_and_merged_centres_are_a_collapse() -> None:
    nearly = Fitted(torch.tensor([0] * 398 + [1, 2]), torch.ones(400), {"center_separation": 0.5})
    (note,) = clustering_pipeline.collapse_notes("idec", [nearly], torch.arange(400), 3)
    assert note.startswith("idec uses 1 of 3 clusters, the others are empty or below 1 % of an equal share.")
    merged = Fitted(torch.arange(400) % 3, torch.ones(400), {"center_separation": 2e-4})
    (note,) = clustering_pipeline.collapse_notes(
        "dec", [nearly._replace(clusters=merged.clusters), merged], torch.arange(400), 3
    )
    assert note.startswith(
        "dec has two centres that are 2.0e-04 of the codes' spread apart (seed 2 of 2): they coincide"
    )


def test_a_collapse_is_said() -> None:
    fitted = Fitted(torch.tensor([0, 0, 2, 2, 1]), torch.ones(5), {})
    (note,) = clustering_pipeline.collapse_notes("dec", [fitted], torch.arange(4), 3)
    assert note.startswith("dec uses 2 of 3 clusters, the others are empty.")
    assert clustering_pipeline.collapse_notes("dec", [fitted], torch.arange(5), 3) == []


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["k=300"], "Expected k between 2 and 270, the rows to cluster, got 300"),
        (["k=1"], "Expected k between 2 and 270, the rows to cluster, got 1"),
        (["methods=[kmeans,dek]"], "Expected methods among kmeans, .*, got 'dek'. Did you mean dec"),
        (["methods=[]"], "Expected methods among .*, got none"),
        (["fit_on=tset"], "Expected fit_on to be one of train, all, got tset"),
        (["head_input=code"], "Expected head_input to be one of features, codes, got code"),
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
    assert scores([0, 0, 1], [1, 1, 0])["ari"] == 1


def test_no_k_is_asked_for_that_is_more_than_the_rows_that_are_compared_can_have() -> None:
    run = LoadedRun(Path(), OmegaConf.create({"seed": 0}), {}, torch.device("cpu"))
    vars(run)["vectors"] = planted(12_000, features=2, images=False)
    with pytest.raises(UserError, match="Expected ks= between 2 and 1250, a quarter of the 5000 rows .*, got 2600"):
        clustering.suggest(run, clustering.Options("", ks=[2600]))


def begin(folder: Path, *overrides: str, model: str = "dec") -> Path:
    """A run as train.py makes it."""
    config = settings(folder / "run", f"cache_dir={folder / 'cache'}", *overrides, model=model)
    with open_run(config) as run:
        train(config, run)
    return run.path


def own(file: Path, n: int) -> str:
    """The setting of a file of n vectors."""
    np.savez(file, x=planted(n).values.numpy(), y=np.arange(n) % 3)
    return f"data.path={file}"


def test_a_run_without_a_model_of_its_own_is_extended_but_not_with_other_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = own(tmp_path / "own.npz", 200)
    run = begin(tmp_path, "data=vectors", path, "data.labels=y", "methods=[kmeans]")
    assert not list(run.glob("checkpoints/*.ckpt")) and capsys.readouterr().out
    clustering.main([f"run={run}", "methods=[autoencoder]", "json=true"])
    assert json.loads(capsys.readouterr().out)["autoencoder/ari"] > 0.95
    clustering.main([f"run={run}", "ks=[2,3,6]", "json=true"])
    assert json.loads(capsys.readouterr().out)["suggested"] == 3
    before = (run / "assignments.parquet").read_bytes()
    own(tmp_path / "own.npz", 260)
    for option in ("methods=[dec]", "ks=[2]"):
        with pytest.raises(UserError, match="Expected the data that .* was trained on, got other rows"):
            clustering.main([f"run={run}", option])
    assert (run / "assignments.parquet").read_bytes() == before


def test_a_run_of_vectors_is_not_asked_about_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    Image.fromarray(images[0]).save(tmp_path / "new.png")
    run = begin(tmp_path, "data=vectors", f"data.path={tmp_path / 'images.npy'}", "k=2", "methods=[kmeans]")
    with pytest.raises(UserError, match="Expected a run of images, got one of vectors at "):
        clustering.main([f"run={run}", f"images=[{tmp_path / 'new.png'}]"])


def test_new_images_go_the_way_that_the_heads_input_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings(tmp_path / "run", "data.n=60", "head_input=codes", "methods=[turtle]", model="turtle")
    data, encoder, run = build(config.data), build(config.encoder), Run(tmp_path / "run", config)
    run.manifest(data, encoder.identity, 0, "cpu")
    cluster(config, extract(data, encoder, tmp_path / "cache"), run, torch.device("cpu"))
    capsys.readouterr()
    known = pd.read_parquet(run.path / "assignments.parquet")["turtle"]
    (tmp_path / "photos").mkdir()
    for i in range(20):
        Image.fromarray(data.images[i, 0].numpy()).save(tmp_path / f"photos/{i:02d}.png")
    files = sorted((tmp_path / "photos").iterdir())
    assert torch.equal(load(run.path).preprocessing.read(files), data.images[:20]), "grey stays as it is"
    clustering.main([f"run={run.path}", f"images=[{tmp_path / 'photos'}]", "json=true"])
    found = json.loads(capsys.readouterr().out)
    assert [row["cluster"] for row in found] == known[:20].tolist() and known[:20].nunique() > 1
    with pytest.raises(UserError, match="Expected at least one image, got none"):
        clustering.main([f"run={run.path}", "images=[]"])


def test_new_grey_images_go_through_a_vae_as_the_data_went(tmp_path: Path) -> None:
    config = settings(tmp_path / "run", "data.n=20")
    data, vae = build(config.data), VAE(size=16, latent=4, width=4).eval()
    run = LoadedRun(tmp_path, config, {"data": describe(data)}, torch.device("cpu"))
    vars(run)["encoder"] = vae
    pictures = [Image.fromarray(data.images[i, 0].numpy()) for i in range(20)]
    torch.testing.assert_close(run.features(pictures), extract(data, vae, tmp_path / "cache").values[:20])


@pytest.mark.parametrize("wrong", ["k=5000", "methods=[dek]", "label=digitt", "fit_on=tset", "head_input=code"])
def test_what_does_not_fit_leaves_no_folder_in_the_way(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(UserError):
        begin(tmp_path, "data.n=60", wrong)
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()


def test_more_seeds_are_computed_where_the_run_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin(tmp_path, "data=vectors", own(tmp_path / "own.npz", 90), "k=3", "methods=[kmeans]")
    seen: list[str] = []
    monkeypatch.setattr(clustering, "cluster", lambda config, *_: seen.append(config.trainer.accelerator))
    loaded = load(run)
    loaded.config.trainer.accelerator = "gpu"
    clustering.extend(loaded, clustering.Options(str(run), methods=["kmeans"]))
    assert seen == ["cpu"]
