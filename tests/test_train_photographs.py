"""`python train.py` on latents with places, at a size that takes seconds: a tiny auto-encoder at random weights."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops

from evaluation.run import load
from models.diffusion_flow import DiffusionFlow
from models.iin import IIN
from models.spatial_flow import SpatialFlow
from tests.command import ROOT, train, weights

diffusers = pytest.importorskip("diffusers")

SMALL = [
    "encoder=taesd", "data.n=200", "data.size=16", "spatial_guide.width=8", "spatial_guide.solver_steps=2",
    "trainer.spatial_guide.steps=120", "trainer.reading.steps=60", "trainer.accelerator=cpu", "measured_images=8",
]  # fmt: skip
COUPLINGS = [
    *SMALL, "iin.coupling=glow", "spatial_guide_edits=100", "iin.blocks=2", "iin.width=8", "iin.depth=1",
    "trainer.spatial_iin.steps=120", "trainer.spatial_iin.batch_size=16",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    torch.manual_seed(0)
    diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4,
    ).save_pretrained(folder / "taesd")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    path = folder / "runs/faces/iin/first"
    train(folder, *SMALL, f"encoder.weights={folder / 'taesd'}", f"run_dir={path}")
    return path


@pytest.fixture(scope="module")
def glow(folder: Path) -> Path:
    path = folder / "glow"
    train(folder, *COUPLINGS, f"encoder.weights={folder / 'taesd'}", f"run_dir={path}")
    return path


def test_the_flow_of_latents_with_places_is_a_diffusion_models(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["flow/inverse_error"] < 1e-4 and math.isfinite(metrics["flow/nll_bits_per_dim"])
    for factor in ("glasses", "sex", "smile", "hat", "beard", "skin"):
        assert f"edit/{factor}/effectiveness" in metrics and f"edit/{factor}/counterfactual_image" in metrics
    assert all(metrics[f"time/{stage}_s"] > 0 for stage in ("guide", "iin"))
    assert not {"time/edits_s", "time/reader_s"} & set(metrics)
    iin = IIN.load_from_checkpoint(run / "checkpoints/last.ckpt", map_location="cpu")
    assert isinstance(iin.flow, DiffusionFlow)
    guide = weights(run / "checkpoints/guide.ckpt")
    assert all(torch.equal(iin.flow.guide.state_dict()[name], tensor) for name, tensor in guide.items())


def test_latents_with_places_can_have_couplings_that_learn_from_the_guides_edits(glow: Path) -> None:
    run = glow
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["flow/inverse_error"] < 1e-4
    for factor in ("glasses", "sex", "smile", "hat", "beard", "skin"):
        assert f"edit/{factor}/effectiveness" in metrics and f"edit/{factor}/counterfactual_image" in metrics
    assert all(metrics[f"time/{stage}_s"] > 0 for stage in ("guide", "edits", "iin"))
    assert "time/reader_s" not in metrics
    assert not list((run / "checkpoints").glob("*.partial.*"))
    iin = IIN.load_from_checkpoint(run / "checkpoints/last.ckpt", map_location="cpu")
    assert isinstance(iin.flow, SpatialFlow) and iin.flow.shape == (4, 8, 8)


def test_an_edit_of_strength_0_is_the_picture_and_another_one_is_of_its_size(run: Path, folder: Path) -> None:
    loaded = load(run)
    picture = Image.fromarray(loaded.data.images[0].permute(1, 2, 0).numpy()).resize((37, 29))
    same = loaded.edit(picture, glasses=1, strength=0.0)
    assert isinstance(same, Image.Image)
    assert ImageChops.difference(same, picture).getbbox() is None
    edited = loaded.edit(picture, hat=1, glasses=1, beard=1, sex=1, smile=1, strength=3.0)
    assert isinstance(edited, Image.Image) and edited.size == picture.size


def test_a_run_killed_while_the_flow_learns_goes_on_with_the_guides_edits(folder: Path, glow: Path) -> None:
    stopped = folder / "stopped"
    code = (
        "import os\nfrom models.iin import IIN as Dying\n"
        "step = Dying.training_step\n"
        "def dying(self, batch, index):\n"
        "    if self.global_step == 110: os._exit(9)\n"
        "    return step(self, batch, index)\n"
        "Dying.training_step = dying\n"
        f"import runpy; runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    )
    places = [f"cache_dir={folder / 'cache'}", f"run_dir={stopped}", f"encoder.weights={folder / 'taesd'}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *COUPLINGS, *places]
    killed = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert killed.returncode == 9, killed.stderr[-2000:]
    resumed = train(folder, f"ckpt={stopped / 'checkpoints/iin.partial.ckpt'}")
    assert "iin started" in resumed.stdout and "edits started" not in resumed.stdout
    expected, found = (weights(path / "checkpoints/last.ckpt") for path in (glow, stopped))
    assert all(torch.equal(expected[key], found[key]) for key in expected)
