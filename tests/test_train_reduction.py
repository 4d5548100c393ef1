"""`python train.py model=mds` as a user types it, and what can be asked of the finished run."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.command import ask_here, small_clip, train, train_here

SMALL = [
    "trainer.mds.steps=40", "trainer.autoencoder.steps=40", "trainer.matryoshka.steps=40", "mds.hidden=[32]",
    "autoencoder.hidden=[32]", "mds.quadruplets=2000", "trainer.accelerator=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reduction")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    path = folder / "runs/digits/mds/first"
    result = train(folder, "model=mds", "dims=[2,8]", "methods=[pca,coordinates,isometric]", *SMALL, f"run_dir={path}")
    assert "label/digit: r1 by dimensions" in result.stdout and f"Open: {path / 'report.html'}" in result.stdout
    return path


def test_the_run_folder_is_the_contracts(run: Path) -> None:
    table = pd.read_csv(run / "retrieval.csv").set_index(["method", "dim", "direction"])
    assert table["r1"]["full", 64, "label/digit"] > 0.96
    assert table["r1"]["pca", 8, "label/digit"] > 0.85 > table["r1"]["coordinates", 2, "label/digit"]
    assert table["p"]["coordinates", 8, "label/digit"] < 0.01
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["retrieval/label/digit/pca_dims_for_90"] == 8 and metrics["time/isometric_8_s"] > 0
    for name in ("config.yaml", "manifest.json", "checkpoints/last.ckpt", "report.html", "figures/retrieval.png"):
        assert (run / name).stat().st_size > 100, name


def test_more_of_a_finished_run_and_its_reduction_of_new_rows(folder: Path, run: Path) -> None:
    result = ask_here("evaluation.retrieval", f"run={run}", "dims=[4]", "methods=[pca]", "json=true")
    assert result.returncode == 0, result.stderr[-2000:]
    assert {(entry["method"], entry["dim"]) for entry in json.loads(result.stdout)} >= {("pca", 4), ("isometric", 8)}
    np.save(folder / "new.npy", np.random.default_rng(0).random((5, 64), np.float32))
    place = folder / "codes.npy"
    result = ask_here(
        "evaluation.reducers", f"run={run}", "method=isometric", "dim=8", f"rows={folder / 'new.npy'}", f"out={place}"
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert np.load(place).shape == (5, 8)


def test_brought_pairs(folder: Path) -> None:
    generator = np.random.default_rng(0)
    images = generator.normal(size=(300, 16)).astype(np.float32)
    np.save(folder / "img.npy", images)
    np.save(folder / "txt.npy", images + 0.1 * generator.normal(size=images.shape).astype(np.float32))
    arrays = [f"data.images={folder / 'img.npy'}", f"data.texts={folder / 'txt.npy'}"]
    path = folder / "brought"
    train_here(folder, "model=mds", "data=pairs", *arrays, "dims=[4]", *SMALL, f"run_dir={path}")
    table = pd.read_csv(path / "retrieval.csv").set_index(["method", "dim", "direction"])
    assert table["r1"]["full", 16, "text_to_image"] == 1 and len(table) == 2 * 10
    result = ask_here("evaluation.retrieval", f"run={path}", "dims=[8]", "methods=[cross_modal_svd]", "json=true")
    assert result.returncode == 0, result.stderr[-2000:]


def test_coco_clip_reduction_with_a_small_random_clip(folder: Path) -> None:
    """COCO's files and CLIP's, both small: thirty images of two captions each, of which one is taken."""
    names = [f"{i:012d}.jpg" for i in range(30)]
    (folder / "val2017").mkdir()
    for i, name in enumerate(names):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "val2017" / name)
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"image_id": i % 30, "caption": f"number {i}"} for i in range(60)],
    }
    (folder / "captions.json").write_text(json.dumps(content))
    small = small_clip(folder, 16)
    path = folder / "coco"
    train_here(
        folder, "experiment=coco_clip_reduction", f"encoder.weights={small}", f"data.path={folder / 'captions.json'}",
        f"data.images={folder / 'val2017'}", "dims=[2,16]", *SMALL, f"run_dir={path}",
    )  # fmt: skip
    table = pd.read_csv(path / "retrieval.csv")
    assert set(table["n"]) == {30} and set(table["direction"]) == {"text_to_image", "image_to_text"}
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["encoder"]["name"] == "clip" and manifest["data"]["name"] == "pairs"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["data=pairs", "data.texts={folder}/txt.npy"], "Expected data.images=IMG.npy with data.texts=TXT.npy"),
        (["data=pairs"], "Expected data.path, a file of captions, or data.images and data.texts"),
        (["data=texts", "data.path={folder}/words.txt"], "Expected an encoder of texts, got pixels"),
        (["dims=[65]"], "Expected dims= from 1 to 64, the embeddings' width, got 65"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(folder: Path, arguments: list[str], line: str) -> None:
    (folder / "words.txt").write_text("".join(f"word {i}\n" for i in range(200)))
    filled = [argument.format(folder=folder) for argument in arguments]
    result = train_here(folder, "model=mds", *filled, check=False)
    assert result.returncode == 2 and result.stderr.startswith(line) and result.stderr.count("\n") == 1
