"""Matrices and curves, and the numbers they are drawn from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from evaluation.editing.measurement import FactorMeasurement, Measurement, measurements
from evaluation.report.charts import (
    draw_charts,
    event_curves,
    leakage_matrix,
    smoothed,
    strength_curves,
    training_curves,
)
from models.labels import Factor

NAN = float("nan")
CURVE = {"strength": [0.0, 0.5, 1.0], "success": [0.0, 0.4, 0.95], "leakage": [0.0, 0.0, 0.02]}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """A run folder with two TensorBoard logs."""
    from torch.utils.tensorboard import SummaryWriter

    for stage, values in (("vae", [4.0, 2.0, 1.0]), ("iin", [9.0, 3.0, NAN])):
        with SummaryWriter(str(tmp_path / "tensorboard" / stage)) as writer:
            for step, value in enumerate(values):
                writer.add_scalar(f"{stage}/loss", value, 10 * step)
                writer.add_scalar("epoch", step, step)
    return tmp_path


def test_measurements() -> None:
    factors = (Factor("glasses", "binary", ("without", "with")), Factor("hat", "binary", ("without", "with")))
    row = torch.tensor([NAN, 0.25])
    first = FactorMeasurement(3, success=1.0, leakage_row=row, curve=((0.0, 0.0, 0.0), (1.0, 0.95, 0.25)))
    content = measurements({"flow": Measurement(factors, (first, FactorMeasurement(0)))})
    assert content["factors"] == ["glasses", "hat"]
    assert content["curves"] == {
        "flow": {"glasses": {"strength": (0.0, 1.0), "success": (0.0, 0.95), "leakage": (0.0, 0.25)}}
    }
    assert content["leakage"]["flow"][0][1] == 0.25


def test_editors_are_named_as_people_read_them() -> None:
    nothing = Measurement((Factor("hat", "binary", ("without", "with")),), (FactorMeasurement(0),))
    content = measurements({"mean_difference": nothing, "linear_svm": nothing})
    assert list(content["leakage"]) == ["mean difference", "linear SVM"]


def test_darkest_where_most_leaks(tmp_path: Path) -> None:
    matrix = [[None, 0.9, 0.0], [0.0, None, 0.0], [0.0, 0.0, None]]
    leakage_matrix(tmp_path / "m.png", ["glasses", "sex", "hat"], {"flow": matrix})
    red = pixels(tmp_path / "m.png")
    ys, xs = np.nonzero((red[..., 0] > 150) & (red[..., 2] < 60))
    assert len(ys) > 1000, "no cell is dark"
    height, width = red.shape[:2]
    assert ys.max() < height / 2 and xs.min() > width / 3 and np.ptp(ys) < 80 and np.ptp(xs) < 80


def test_nothing_to_draw_draws_nothing(tmp_path: Path) -> None:
    leakage_matrix(tmp_path / "m.png", ["glasses"], {"flow": [[None]]})
    strength_curves(tmp_path / "s.png", {})
    training_curves(tmp_path / "t.png", tmp_path)
    draw_charts(tmp_path, {})
    assert not list(tmp_path.rglob("*.png"))


def test_strength_curves_have_the_editors_colours(tmp_path: Path) -> None:
    curves = {
        "flow": {"glasses": CURVE, "hat": CURVE},
        "mean difference": {"hat": CURVE | {"success": [0.0, 0.1, 0.2]}},
    }
    strength_curves(tmp_path / "s.png", curves)
    image = pixels(tmp_path / "s.png")
    width = image.shape[1]
    blue = np.nonzero((np.abs(image - [0x25, 0x63, 0xEB]).sum(2) < 12).any(0))[0]
    orange = np.nonzero((np.abs(image[60:] - [0xD9, 0x77, 0x06]).sum(2) < 12).any(0))[0]
    assert blue.min() < width / 2 < blue.max()
    assert len(orange) and orange.min() > width / 2, "the second editor has no curve of the first factor"


def test_the_curve_of_a_single_factor_has_no_leakage(tmp_path: Path) -> None:
    strength_curves(tmp_path / "s.png", {"flow": {"glasses": CURVE | {"leakage": [float("nan")] * 3}}})
    assert (tmp_path / "s.png").exists()


def test_smoothed_is_the_mean_of_neighbours() -> None:
    assert smoothed([1.0, 2.0, 6.0, 7.0], 1) == pytest.approx([1.5, 3.0, 5.0, 6.5])
    assert smoothed([1.0, 2.0], 0) == [1.0, 2.0]
    assert smoothed([3.0] * 5, 9) == pytest.approx([3.0] * 5)


def test_event_files_are_read(events: Path) -> None:
    curves = event_curves(events / "tensorboard")
    assert curves["vae/loss"] == [([0, 10, 20], [4.0, 2.0, 1.0])]
    assert curves["iin/loss"][0][1][:2] == [9.0, 3.0]


def test_each_seed_is_a_curve_of_its_own(events: Path) -> None:
    """One after the other they would be joined by lines across the panel."""
    with SummaryWriter(str(events / "tensorboard" / "vae_1")) as writer:
        writer.add_scalar("vae/loss", 5.0, 0)
        writer.add_scalar("vae/loss", 1.0, 20)
    assert event_curves(events / "tensorboard")["vae/loss"] == [([0, 10, 20], [4.0, 2.0, 1.0]), ([0, 20], [5.0, 1.0])]
    training_curves(events / "t.png", events)
    assert pixels(events / "t.png").shape[1] > 0


def test_widths_of_a_reduction_share_a_panel(tmp_path: Path) -> None:
    for width in (8, 16):
        with SummaryWriter(str(tmp_path / f"isotonic_{width}")) as writer:
            writer.add_scalar(f"isotonic/{width}", 1 / width, 0)
    assert event_curves(tmp_path) == {"isotonic": [([0], [1 / 16]), ([0], [1 / 8])]}


def test_training_curves_have_a_panel_each(events: Path) -> None:
    training_curves(events / "t.png", events)
    both = pixels(events / "t.png").shape
    (events / "tensorboard" / "iin").rename(events / "gone")
    training_curves(events / "t.png", events)
    one = pixels(events / "t.png").shape
    assert both[0] == one[0] and both[1] == one[1] + 310
