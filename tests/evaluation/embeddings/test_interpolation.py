"""Interpolations between two embeddings: their norms, nearest rows, the map, and decoded images."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from PIL import Image

from evaluation.embeddings.interpolation import (
    decode_steps,
    diffuse_steps,
    interpolate,
    map_interpolation,
    spherical,
    step_table,
)
from evaluation.embeddings.source import Source, source
from evaluation.interpolate import main
from models import UserError
from models.stable_diffusion import StableDiffusion
from tests.evaluation.browser import WEBGL, open_browser
from tests.evaluation.directions import LVIS, answer_of, circle, compass_source, real


@pytest.fixture
def compass(tmp_path: Path) -> Source:
    return compass_source(tmp_path)


def test_lengths_and_angles_by_hand(compass: Source) -> None:
    """at0 is (1, 0), at90 is 1.09 (0, 1): between them the line is short, the arc is not."""
    path = interpolate(compass, "at0", "at90", n=3)
    straight, arc = (path.points[name].numpy() for name in ("linear", "spherical"))
    assert straight == pytest.approx(np.array([[1, 0], [0.75, 0.2725], [0.5, 0.545], [0.25, 0.8175], [0, 1.09]]))
    angles = np.deg2rad([0, 22.5, 45, 67.5, 90])
    lengths = np.linspace(1, 1.09, 5)
    assert arc == pytest.approx(np.stack([np.cos(angles), np.sin(angles)], 1) * lengths[:, None], abs=1e-6)
    table = step_table(compass, path, k=2).set_index(["way", "step"])
    assert table.loc["spherical"]["norm"].tolist() == pytest.approx(lengths.tolist())
    assert table.loc[("linear", 2), "norm"] == pytest.approx(np.hypot(0.5, 0.545))
    assert table.loc["spherical"]["t"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert table.loc[("spherical", 0), "to_first"] == pytest.approx(1)
    assert table.loc[("spherical", 0), "to_second"] == pytest.approx(0, abs=1e-6)


def test_the_nearest_rows_are_none_of_the_ends(compass: Source) -> None:
    table = step_table(compass, interpolate(compass, "at0", "at90", n=2, interpolations=["spherical"]), k=2)
    assert table["nearest"].tolist()[1:3] == ["at30", "at60"]
    assert table["cosine"].tolist()[1:3] == pytest.approx([1, 1])
    assert table["nearest"][0] in ("at10", "at350") and table["nearest_2"][0] in ("at10", "at350")
    new = step_table(compass, interpolate(compass, "0", "90", n=2, interpolations=["spherical"]), k=1)
    assert new["nearest"].tolist() == ["at0", "at30", "at60", "at90"], "a new text is no row"


def test_an_arc_along_one_direction_is_the_line() -> None:
    points = spherical(np.array([1.0, 2]), np.array([3.0, 6]), np.linspace(0, 1, 3))
    assert points == pytest.approx(np.array([[1, 2], [2, 4], [3, 6]]))


def test_the_steps_on_the_map(compass: Source) -> None:
    table, drawn = map_interpolation(compass, interpolate(compass, "at0", "at90", n=4), metric="euclidean")
    points = np.asarray(drawn.coordinates)
    assert table["kind"].value_counts().to_dict() == {"row": 36, "linear": 6, "spherical": 6}
    line, arc = (points[list(rows)] for rows in drawn.lines)
    steps = np.diff(line, axis=0)
    assert steps == pytest.approx(np.repeat(steps[:1], 5, 0), abs=1e-5), "PCA keeps a straight line"
    row = {name: points[i] for i, name in enumerate(table["id"])}
    assert line[0] == pytest.approx(row["at0"], abs=1e-5) and arc[-1] == pytest.approx(row["at90"], abs=1e-5)
    assert [name for name in drawn.names if name] == ["at0", "at90"] * 2


def test_files_and_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = [*circle(tmp_path), "between=[at0,at90]"]
    found = answer_of(main, capsys, *data, "n=6", f"out={tmp_path / 'out'}")
    assert [Path(file).name for file in found["files"]] == ["steps.csv", "between.html", "between.png", "between.csv"]
    assert len(found["steps"]) == 16 == len(pd.read_csv(tmp_path / "out" / "steps.csv"))
    with open_browser(tmp_path, WEBGL) as window:
        window.open(tmp_path / "out" / "between.html")
        window.wait(lambda: window.run("return document.body.dataset.ready"), "the page to be drawn")
        assert window.run("return maps[0].plot.data[1].mode") == "lines"
        assert window.run("return maps[0].plot.data[1].x.filter(x => x === null).length") == 2
        assert window.run("return document.querySelector('#colour').value") == "t"
        assert window.errors() == []
    main([*data, "map=null", f"out={tmp_path / 'none'}"])
    assert [file.name for file in (tmp_path / "none").iterdir()] == ["steps.csv"]


@real
def test_between_real_words(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = answer_of(main, capsys, "data=vectors", *LVIS, "between=[cat,truck]", f"out={tmp_path}", "k=1")["steps"]
    straight = [row for row in found if row["way"] == "linear"]
    assert len(straight) == 50
    assert straight[0]["nearest"] == "kitten" and "truck" in straight[-1]["nearest"]
    assert min(row["norm"] for row in straight) < min(straight[0]["norm"], straight[-1]["norm"])


def test_images_between_two_images_of_a_run(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = OmegaConf.load(run_copy / "config.yaml")
    config.cache_dir = config.data.cache_dir
    OmegaConf.save(config, run_copy / "config.yaml")
    found = source(f"run={run_copy}")
    first, second = found.names[:2]
    at, images = decode_steps(found, interpolate(found, first, second, n=18))
    assert len(at) == 10 and at[0] == 0 and at[-1] == 1
    assert images["linear"].shape == (10, 3, 16, 16)
    assert (images["linear"][0] == images["spherical"][0]).all(), "both start at the same image"
    answer = answer_of(main, capsys, f"run={run_copy}", f"between=[{first},{second}]", "n=4", "map=null")
    assert [Path(file) for file in answer["files"]] == [
        run_copy / "figures" / "steps.csv", run_copy / "figures" / "images.png",
    ]  # fmt: skip
    with Image.open(run_copy / "figures" / "images.png") as picture:
        assert picture.width > 6 * 128 and 2 * 128 < picture.height < 3 * 128


def test_stable_diffusion_between_two_prompts(
    stable_diffusion: Path, compass: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = StableDiffusion(str(stable_diffusion))
    at, images = diffuse_steps(model, ["cat", "dog"], ["linear", "spherical"], 3, seed=1, steps=2)
    assert at == [0, 0.5, 1] and images["linear"].shape == (3, 3, 16, 16)
    first, second = (model.images(states, 1, 2) for states in model.states(["cat", "dog"]))
    for name in ("linear", "spherical"):
        assert images[name][0].allclose(first, atol=1e-4) and images[name][2].allclose(second, atol=1e-4)
    middle = model.images(model.states(["cat", "dog"]).mean(0), 1, 2)
    assert images["linear"][1].allclose(middle, atol=1e-4)
    assert not images["spherical"][1].allclose(middle, atol=1e-4)
    settings = [*circle(tmp_path), "between=[at0,at90]", "n=2", "k=1", "map=null", f"diffusion={stable_diffusion}"]
    answer_of(main, capsys, *settings, "images=2", "denoising=1", f"out={tmp_path}")
    with Image.open(tmp_path / "diffusion.png") as picture:
        assert picture.width > 2 * 128
    with pytest.raises(UserError, match="Expected images, with both ends, to be at least 2, got 1"):
        diffuse_steps(model, ["cat", "dog"], ["linear"], 1)
    with pytest.raises(UserError, match="Expected a Stable Diffusion pipeline at .*none"):
        main([*settings[:-1], f"diffusion={tmp_path / 'none'}", f"out={tmp_path}"])


def test_ends_without_an_interpolation(tmp_path: Path, compass: Source) -> None:
    with pytest.raises(UserError, match="Expected ends with one shortest arc between them, got opposite ones"):
        interpolate(compass, "at0", "at180")
    assert len(interpolate(compass, "at0", "at180", interpolations=["linear"], n=3).points["linear"]) == 5
    with pytest.raises(UserError, match="two ends that differ, got 'at0' and 'at0' with the same embedding"):
        interpolate(compass, "at0", "at0")
    with pytest.raises(UserError, match="interpolations to be one of linear, spherical, got round"):
        interpolate(compass, "at0", "at90", interpolations=["round"])
    with pytest.raises(UserError, match="Expected interpolations= among linear, spherical, got none"):
        interpolate(compass, "at0", "at90", interpolations=[])
    with pytest.raises(UserError, match="n, the points between, to be at least 1, got 0"):
        interpolate(compass, "at0", "at90", n=0)
    with pytest.raises(UserError, match="direction for interpolations=\\[spherical\\], got one of length 0"):
        spherical(np.zeros(2), np.ones(2), np.linspace(0, 1, 3))
    data = circle(tmp_path)
    with pytest.raises(UserError, match=r"Expected between=\[a,b\], got 3 of them"):
        main([*data, "between=[at0,at10,at20]"])
    with pytest.raises(UserError, match="Expected k from 1 to 34, the other rows, got 35"):
        main([*data, "between=[at0,at90]", "k=35"])
    with pytest.raises(UserError, match="Expected between=..., got none"):
        main(data)
