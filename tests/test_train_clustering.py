"""`python train.py model=dec` as a user types it, and what can be asked of the finished run."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.command import ROOT, ask_here, small_clip, train, train_here, weights

SMALL = [
    "autoencoder.hidden=[64]", "autoencoder.code=5", "trainer.autoencoder.epochs=30", "trainer.dec.steps=60",
    "trainer.dec.interval=20", "dec.tolerance=0.0", "trainer.accelerator=cpu", "trainer.bf16=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clustering")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    path = folder / "runs/digits/dec/first"
    result = train(folder, "model=dec", *SMALL, f"run_dir={path}")
    assert "k=10, the number of classes of digit." in result.stdout
    assert f"Open: {path / 'report.html'}" in result.stdout
    return path


def test_the_run_folder_is_the_contracts(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    for method in ("kmeans", "autoencoder", "dec"):
        for prefix in ("", "heldout/"):
            assert all(
                0 < metrics[f"{prefix}{method}/{score}"] <= 1 for score in ("ami", "ari", "fmi", "nmi", "accuracy")
            )
    assert metrics["kmeans/accuracy"] > 0.7  # published: .79
    assert metrics["dec/stop_reason"] == 0 and metrics["dec/updates"] == 3
    for stage in ("data", "encode", "kmeans", "autoencoder", "dec", "total"):
        assert metrics[f"time/{stage}_s"] > 0
    for name in ("config.yaml", "manifest.json", "checkpoints/last.ckpt", "report.html", "figures/clusters.png"):
        assert (run / name).stat().st_size > 100, name
    page = (run / "report.html").read_text()
    assert "AMI" in page and "held-out" in page and "auto-encoder" in page
    assert json.loads((run / "manifest.json").read_text())["encoder"]["name"] == "pixels"


def test_a_run_killed_in_dec_and_resumed_equals_an_uninterrupted_one(folder: Path, run: Path) -> None:
    stopped = folder / "stopped"
    code = (
        "import os\nfrom models.dec import DEC\n"
        "step = DEC.training_step\n"
        "def dying(self, batch, index):\n"
        "    if self.global_step == 30: os._exit(9)\n"
        "    return step(self, batch, index)\n"
        "DEC.training_step = dying\n"
        f"import runpy; runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    )
    places = [f"cache_dir={folder / 'cache'}", f"run_dir={stopped}", "runs_dir=nowhere"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(
        [sys.executable, "-c", code, "model=dec", *SMALL, *places], cwd=folder, env=environment, capture_output=True
    )
    assert killed.returncode == 9 and (stopped / "checkpoints/dec.partial.ckpt").exists()
    train_here(folder, f"ckpt={stopped / 'checkpoints/dec.partial.ckpt'}")
    for name in ("autoencoder", "last"):
        expected, found = (weights(path / f"checkpoints/{name}.ckpt") for path in (run, stopped))
        assert all(torch.equal(expected[key], found[key]) for key in expected), name
    expected, found = (pd.read_parquet(path / "assignments.parquet") for path in (run, stopped))
    pd.testing.assert_frame_equal(expected, found)


def test_new_images_are_asked_about(folder: Path, run: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits().images
    for i in range(20):
        Image.fromarray((digits[i] * 255 / 16).round().astype(np.uint8)).save(folder / f"new{i:02d}.png")
    names = [str(folder / f"new{i:02d}.png") for i in range(20)]
    result = ask_here("evaluation.clustering", f"run={run}", f"images=[{','.join(names)}]", "json=true")
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout)
    table = pd.read_parquet(run / "assignments.parquet").set_index("id")
    assert [row["cluster"] for row in found] == [int(table.loc[f"digit{i:04d}", "dec"]) for i in range(20)]


def test_more_seeds_and_methods_of_a_finished_run(run: Path) -> None:
    before = json.loads((run / "metrics.json").read_text())
    result = ask_here("evaluation.clustering", f"run={run}", "seeds=2", "methods=[kmeans]", "json=true")
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout)
    assert found["kmeans/ari_mean"] == pytest.approx(before["kmeans/ari"], abs=0.1) and "kmeans/ari_sd" in found
    assert json.loads((run / "metrics.json").read_text())["dec/ari"] == before["dec/ari"]


def test_maps_of_a_finished_run(run: Path) -> None:
    result = ask_here("evaluation.tsne", f"run={run}", "n=300", "perplexity=10", "json=true")
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout)
    for space in ("features", "autoencoder", "dec"):
        assert 0.8 < found[f"map/tsne/{space}/trustworthiness"] <= 1
        assert 0.2 < found[f"map/tsne/{space}/knn_recall"] <= 1
    points = pd.read_parquet(found["points"])
    assert len(points) == 300 and {"projection_x", "digit", "dec cluster", "image", "neighbors"} <= set(points)
    assert Path(found["figure"]).stat().st_size > 10_000 and "Plotly" in Path(found["page"]).read_text()
    assert (run / "tensorboard/projector").is_dir() and "<h2>Maps</h2>" in (run / "report.html").read_text()
    wrong = ask_here("evaluation.tsne", f"run={run}", "spaces=[code]")
    assert wrong.returncode == 2 and wrong.stderr.startswith("Expected spaces= among features, autoencoder, dec")


@pytest.fixture(scope="module")
def own(folder: Path) -> Path:
    """A run of vectors with four planted groups."""
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 4
    vectors = (5 * generator.normal(size=(4, 6)))[labels] + generator.normal(size=(200, 6))
    np.savez(folder / "own.npz", x=vectors.astype(np.float32), y=labels)
    settings = ["data=vectors", f"data.path={folder / 'own.npz'}", "data.labels=y", "methods=[kmeans,dec]"]
    train_here(folder, "model=dec", *SMALL, *settings, f"run_dir={folder / 'own'}")
    return folder / "own"


def test_vectors_of_the_users_own(own: Path) -> None:
    metrics = json.loads((own / "metrics.json").read_text())
    assert metrics["kmeans/accuracy"] > 0.95 and metrics["dec/accuracy"] > 0.9


def test_a_suggestion_for_k_is_the_number_of_planted_groups(own: Path) -> None:
    result = ask_here("evaluation.clustering", f"run={own}", "ks=[2,4,6,10]", "json=true")
    found = json.loads(result.stdout)
    assert found["suggested"] == 4 and set(found["prediction_strength"]) == {"2", "4", "6", "10"}
    assert found["prediction_strength"]["4"] > 0.95 and found["prediction_strength"]["6"] < 0.8


def cifar(folder: Path, each: int = 60) -> None:
    """A few hundred drawn images in CIFAR-10's own format: ten colours."""
    place = folder / "cifar-10-batches-py"
    place.mkdir(parents=True)
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (10, 3, 1))
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        labels = np.arange(each) % 10
        data = np.clip(colours[labels] + generator.normal(0, 20, (each, 3, 1024)), 0, 255).astype(np.uint8)
        content = {"data": data.reshape(each, 3072), "labels": labels.tolist()}
        (place / name).write_bytes(pickle.dumps(content))
    words = "airplane automobile bird cat deer dog frog horse ship truck".split()
    (place / "batches.meta").write_bytes(pickle.dumps({"label_names": words}))


def test_cifar10_clip_clustering_with_a_small_random_clip(folder: Path) -> None:
    cifar(folder / "data")
    small = small_clip(folder, 32)
    run = folder / "cifar10"
    train_here(
        folder, "experiment=cifar10_clip_clustering", f"encoder.weights={small}", f"data.root={folder / 'data'}",
        *SMALL, "seeds=2", f"run_dir={run}",
    )  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text())
    for method in ("kmeans", "autoencoder", "dec"):
        for score in ("ami", "ari", "fmi", "nmi"):
            assert f"{method}/{score}_mean" in metrics and f"heldout/{method}/{score}_sd" in metrics
    assert metrics["kmeans/accuracy_mean"] > 0.5
    identity = json.loads((run / "manifest.json").read_text())["encoder"]
    assert identity["name"] == "clip" and len(identity["sha256"]) == 64


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["model=dec", "k=5000"], "Expected k between 2 and "),
        (["model=dec", "data=faces", "data.n=200", "data.size=16"], "Expected k=..., the number of clusters, got none"),
        (["model=iin", "data=vectors", "data.path={path}"], "Expected images for model=iin, got vectors"),
        (
            ["model=iin", "data=faces", "data.n=200", "data.size=16", "encoder=pixels"],
            "Expected an encoder whose latents",
        ),
    ],
)
def test_settings_that_do_not_fit_are_one_line(folder: Path, arguments: list[str], line: str) -> None:
    np.save(folder / "some.npy", np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))
    filled = [argument.format(path=folder / "some.npy") for argument in arguments]
    result = train_here(folder, *filled, f"run_dir={folder / 'refused'}", check=False)
    assert result.returncode == 2 and result.stderr.startswith(line) and result.stderr.count("\n") == 1
    assert not (folder / "refused").exists(), "it would be in the corrected command's way"
