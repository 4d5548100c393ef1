"""The command: cosines, zero-shot labels, correlations and the gap of images, pairs, vectors and runs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from matplotlib.patches import Rectangle

from datamodules.features import FeatureData
from evaluation.embeddings.source import CONFIGS, Source, source
from evaluation.semantics.__main__ import main
from evaluation.semantics.correlation import chance_level
from evaluation.semantics.prompts import cosines, marked, zero_shot
from evaluation.semantics.text_source import reader_of
from models import UserError
from tests.evaluation.colours import Colours, colour_images, write_photographs
from tests.evaluation.directions import answer_of, circle

PROMPTS = "prompts={warm:[a red thing,a blue thing]}"
READER = "prompt_encoder={_target_:tests.evaluation.colours.Colours}"


@pytest.fixture
def photographs(tmp_path: Path) -> Source:
    """Three pictures in a folder, with an encoder of their colours."""
    write_photographs(tmp_path)
    found = source(
        "data=folder", f"data.root={tmp_path}", "data.size=16", f"cache_dir={tmp_path / 'c'}", "encoder=pixels"
    )
    found.encoder = Colours()
    return found


def test_captions_by_images(photographs: Source, tmp_path: Path) -> None:
    files = write_photographs(tmp_path)
    captions = ["a red thing", "red and blue", "green"]
    table = cosines(photographs, captions, files)
    assert list(table.index) == captions and list(table.columns) == files
    length = np.linalg.norm([250, 10, 10])
    assert table.iloc[0].tolist() == pytest.approx([250 / length, 10 / length, 10 / length], abs=1e-4)
    assert table.iloc[1].tolist() == pytest.approx(np.array([260, 20, 260]) / length / np.sqrt(2), abs=1e-4)
    rows = cosines(photographs, captions, 3)
    assert sorted(rows.columns) == sorted(photographs.vectors.ids)
    one = next(name for name in rows.columns if "green" in name)
    assert rows.loc["green", one] == pytest.approx(250 / length, abs=1e-3)
    alone = source("encoder=pixels")
    alone.encoder = Colours()
    assert cosines(alone, captions, files).to_numpy() == pytest.approx(table.to_numpy(), abs=1e-6)


def test_the_largest_of_a_row_is_marked() -> None:
    drawing = marked(pd.DataFrame([[0.1, 0.3], [0.9, 0.2], [0.0, 0.5]], list("abc"), ["x", "y"]))
    framed = [patch.get_xy() for patch in drawing.axes[0].patches if isinstance(patch, Rectangle)]
    assert framed == [(0.5, -0.5), (-0.5, 0.5), (0.5, 1.5)]


def test_zero_shot_labels_beside_those_at_hand() -> None:
    found = source("data=faces", "encoder=pixels")
    found.data, truth = colour_images()
    found.encoder = Colours()
    data = found.data
    found.vectors = FeatureData("x", Colours().embed(data.images), data.ids, data.factors, data.split, "x")
    table, shares = zero_shot(found, {"warm": ("red", "blue"), "level": ("red", "blue"), "new": ("blue", "red")}, 0.9)
    sure = table["warm"].notna()
    assert sure.sum() > 50 and (table["warm"][sure] == np.where(truth.numpy()[sure] == 1, "yes", "no")).all()
    assert table["given warm"].tolist() == np.where(truth.numpy() == 1, "warm", "cold").tolist()
    assert table["p(warm)"].is_monotonic_increasing
    assert table["p(new)"].to_numpy() == pytest.approx(1 - table["p(warm)"].to_numpy(), abs=1e-6)
    assert shares["factor"].tolist() == ["warm", "level", "new"]
    assert shares["accuracy"][:2].tolist() == [1, 1] and np.isnan(shares["accuracy"][2])
    assert shares["auc"][0] == 1 and shares["labelled"][0] == pytest.approx(sure.mean())


def vectors(folder: Path) -> list[str]:
    """Means of R, G and B with two labels, as somebody else's vectors."""
    data, truth = colour_images()
    noise = np.random.default_rng(0).random((60, 3)).astype(np.float32)
    np.save(folder / "v.npy", Colours().embed(data.images).numpy() + 1e-3 * noise)
    pd.DataFrame({"id": data.ids, "warm": truth.numpy(), "red": data.factors.values[:, 1]}).to_csv(folder / "v.csv")
    return ["data=vectors", f"data.path={folder / 'v.npy'}", f"data.labels={folder / 'v.csv'}",
            f"data.names={folder / 'v.csv'}", f"out={folder / 'out'}"]  # fmt: skip


def test_components_by_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer_of(main, capsys, *vectors(tmp_path), "correlate=labels", "k=2", "measure=spearman")
    first = {row["attribute"]: row for row in reversed(found["components"])}
    assert set(first) == {"warm", "red"} and first["red"]["component"] in (0, 2)
    assert abs(first["red"]["pearson"]) > 0.999 and first["red"]["mutual_information"] > 1
    assert found["rows"] == 60 and 0.3 < found["chance"] < 0.5
    assert [Path(file).name for file in found["files"]] == [
        "correlation_spearman.csv", "components.csv", "correlation_spearman.png",
    ]  # fmt: skip
    table = pd.read_csv(found["files"][0], index_col="component")
    assert table.shape == (3, 2) and table["red"][0] == pytest.approx(1, abs=0.01) and table["red"][2] < -0.99


def test_chance_is_that_of_the_label_that_fewest_rows_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = circle(tmp_path)
    table = pd.read_csv(tmp_path / "v.csv", index_col=0)
    half = pd.Series(np.where(table.index < 6, "left", "right")).where(table.index < 12)
    table.assign(half=half).to_csv(tmp_path / "v.csv", index=False)
    found = answer_of(main, capsys, *data, "correlate=labels", f"out={tmp_path}")
    assert found["rows"] == 12 and found["chance"] == pytest.approx(chance_level(12, 4))


def test_a_run_and_clip(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faces know no colours, but everything is there: labels, edits, codes by the texts' scores, the gap."""
    monkeypatch.chdir(tmp_path)
    prompts = "prompts={glasses:[red and green,blue and green],light:[red,blue]}"
    file = run_copy / "config.yaml"
    file.write_text(file.read_text() + f"cache_dir: {tmp_path / 'cache'}\n")
    before = json.loads((run_copy / "metrics.json").read_text())
    found = answer_of(
        main, capsys, f"run={run_copy}", prompts, READER, "correlate=prompts", "gap=true", "n=100", "max_images=8"
    )
    assert [row["factor"] for row in found["zero_shot"]] == ["glasses", "light"]
    assert 0 <= found["zero_shot"][0]["accuracy"] <= 1 and found["zero_shot"][1]["accuracy"] is None
    metrics = json.loads((run_copy / "metrics.json").read_text())
    added = {f"semantics/glasses/{key}" for key in ("before", "after", "change")}
    assert set(metrics) - set(before) == added == set(found["metrics"])
    assert sum(row["images"] for row in found["edits"]) == 4 * 8, "two directions together, four texts"
    assert {row["attribute"] for row in found["components"]} == {"glasses", "light"}
    assert max(row["component"] for row in found["components"]) < 10, "the codes"
    assert 0 < found["gap"]["gap"] < 2
    assert {Path(each).name for each in found["files"]} == {
        "zero_shot.csv", "semantics.csv", "semantics.png", "correlation_pearson.csv", "components.csv",
        "correlation_pearson.png",
    }  # fmt: skip


def test_brought_pairs_and_their_gap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Needs no encoder at all; with one, prompts are asked too."""
    images = np.array([[1, 0, 2], [1, 0, 2], [0, 1, 2], [-1, 0, 2], [3, 0, 2]], np.float32)
    texts = np.array([[1, 0, -2], [1, 1, -2], [0, 1, -2], [-1, 0, -2], [1, 0, -2]], np.float32)
    np.save(tmp_path / "i.npy", images)
    np.save(tmp_path / "t.npy", texts)
    data = ["data=pairs", f"data.images={tmp_path / 'i.npy'}", f"data.texts={tmp_path / 't.npy'}",
            f"out={tmp_path / 'out'}"]  # fmt: skip
    found = answer_of(main, capsys, *data, "gap=true")["gap"]
    assert found["separated"] == 1 and found["gap"] > 1.5
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    assert found["matched"] == pytest.approx((unit(images) * unit(texts)).sum(1).mean())
    with pytest.raises(UserError, match="Expected rows with labels for correlate=labels, got none"):
        main([*data, "correlate=labels"])


def test_pairs_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write_photographs(tmp_path)
    captions = ["a red thing", "a green thing", "a blue thing"]
    pd.DataFrame({"image": files, "caption": captions}).to_csv(tmp_path / "pairs.csv", index=False)
    data = ["data=pairs", f"data.path={tmp_path / 'pairs.csv'}", f"data.images={tmp_path}", "data.size=16",
            f"cache_dir={tmp_path / 'c'}", f"out={tmp_path / 'out'}", READER]  # fmt: skip
    found = answer_of(main, capsys, *data, "images=3", "gap=true", PROMPTS)
    table = np.array(found["cosines"]["values"])
    assert found["cosines"]["captions"] == captions and (table.argmax(1) == [0, 1, 2]).all(), "its own on the diagonal"
    assert found["gap"]["matched"] == pytest.approx(np.diag(table).mean(), abs=1e-6)
    assert found["zero_shot"][0]["share"] == pytest.approx(1 / 3)
    named = answer_of(main, capsys, *data, "captions=[blue]", f"images=[{files[2]}]")["cosines"]
    assert named["values"][0][0] == pytest.approx(table[2, 2], abs=1e-4)


def test_every_run_has_the_settings() -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", ['prompts={glasses:["a face with glasses","a face without"]}'])
    assert config.prompts.glasses[1] == "a face without" and config.prompt_confidence == 0.5
    assert config.prompt_encoder._target_ == "models.clip.CLIP" and config.prompt_encoder.weights == "openai"


def test_what_cannot_be_answered(photographs: Source, tmp_path: Path) -> None:
    data = vectors(tmp_path)
    with pytest.raises(UserError, match="Expected images=, prompts=, correlate= or gap=true, got none"):
        main(data)
    with pytest.raises(UserError, match="encoder= to be the encoder of these vectors, got none that reads texts"):
        main([*data, PROMPTS])
    with pytest.raises(UserError, match="Expected correlate to be one of labels, prompts, got label"):
        main([*data, "correlate=label"])
    with pytest.raises(UserError, match="Expected measure to be one of pearson, .*, got cosine"):
        main([*data, "correlate=labels", "measure=cosine"])
    with pytest.raises(UserError, match="Expected space= with run=RUN, got space=iin"):
        main([*data, "correlate=labels", "space=iin"])
    with pytest.raises(UserError, match="Expected rows with labels for correlate=labels, got none"):
        main(["data=vectors", data[1], "correlate=labels"])
    with pytest.raises(UserError, match='captions=\\["a cat", ...\\] beside images=, got none'):
        cosines(photographs, None, 2)
    with pytest.raises(UserError, match=r"images=\[FILE, ...\] or a number of rows of data=, got 0"):
        cosines(photographs, ["red"], 0)
    with pytest.raises(UserError, match="Expected an image at .*none.png, got no such file"):
        cosines(photographs, ["red"], [str(tmp_path / "none.png")])
    with pytest.raises(UserError, match="prompt_encoder= to read both images and texts, got pixels"):
        reader_of(photographs, {"_target_": "models.backbones.Pixels"})
