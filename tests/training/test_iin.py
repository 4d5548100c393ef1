"""What the stages of train.py refuse before they spend time, and what they take from a run folder."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from datamodules.factors import FactorTable
from datamodules.features import Latents
from datamodules.splits import TEST
from evaluation.editing.pipeline import identity_model
from evaluation.run import load
from models import UserError
from models.labels import Factor
from training.build import build
from training.features import features_of, latents_of
from training.iin import check_iin, train_guide, train_iin
from training.run_folder import Run
from training.vae import elsewhere, key_of, train_vae

ROOT = Path(__file__).parents[2]
GLASSES, RACE = Factor("glasses", "binary", ("no", "yes")), Factor("race", "categorical", ("a", "b", "c"))
LABELS = FactorTable((GLASSES, RACE), torch.tensor([[0.0, 1], [1, 2]]))


def settings(*overrides: str) -> Any:
    import train  # registers the resolver  # noqa: F401

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", ["trainer.accelerator=cpu", *overrides])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "got iin.objective=faithful iin.head=pairs: leave it null"),
        (["iin.objective=likelihood", "iin.head=label"], "got iin.objective=likelihood iin.head=label: leave it null"),
    ],
)
def test_block_sizes_that_no_pairs_can_give(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_iin(settings("iin.block_sizes=auto", *overrides), LABELS, (8,))
    check_iin(settings("model=vae"), LABELS, (8,))  # makes no flow


def test_stage_checkpoints_that_are_no_use(run_copy: Path) -> None:
    loaded, folder, config = load(run_copy), run_copy / "checkpoints", settings()
    data, encoder, run = loaded.data, loaded.encoder, Run(run_copy, config)
    latents = Latents(torch.zeros(len(data.images), 12), torch.zeros(len(data.images), 12))
    with pytest.raises(
        UserError, match=r"Expected a checkpoint for 12 latents, .* one for 10 at .*last.ckpt: remove it"
    ):
        train_iin(config, latents, data.factors, None, run, encoder)
    for name in ("vae.ckpt", "guide.ckpt", "last.ckpt"):
        (folder / name).write_bytes(b"damaged")
    with pytest.raises(UserError, match="Expected a checkpoint of IIN, got .*last.ckpt"):
        train_iin(config, latents, data.factors, None, run, encoder)
    with pytest.raises(UserError, match="Expected a checkpoint of Guide, got .*guide.ckpt"):
        train_guide(config, data, latents, encoder, run)
    with pytest.raises(UserError, match="Expected a checkpoint of VAE, got .*vae.ckpt"):
        train_vae(config, data, run)


def test_a_vae_is_used_again_by_its_key_alone(tmp_path: Path) -> None:
    config = settings(f"runs_dir={tmp_path}")
    for name, key, whole in (("a", "other", True), ("b", "wanted", True), ("c", "wanted", False), ("d", None, True)):
        checkpoints = tmp_path / "faces/iin" / name / "checkpoints"
        checkpoints.mkdir(parents=True)
        if whole:
            (checkpoints / "vae.ckpt").touch()
        (checkpoints / "vae.json").write_text("damaged" if key is None else json.dumps({"key": key}))
    found = elsewhere(config, "wanted")
    assert found == tmp_path / "faces/iin/b/checkpoints/vae.ckpt" and key_of(found) == "wanted"
    assert elsewhere(config, "none has it") is None


def test_a_face_embedding_model_is_tried_first(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.trace(nn.Linear(4, 2), torch.zeros(1, 4)).save(tmp_path / "narrow.pt")
    device = torch.device("cpu")
    assert identity_model(settings(), device) is None
    with pytest.raises(UserError, match="no file at nothing.pt"):
        identity_model(settings("identity_model=nothing.pt"), device)
    with pytest.raises(UserError, match=r"Expected identity_model=.*narrow.pt to embed RGB images, got .*: give"):
        identity_model(settings(f"identity_model={tmp_path / 'narrow.pt'}"), device)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # as fitting.py asks, too
def test_digits_are_clustered_by_latents_of_the_vae_but_not_edited(tmp_path: Path) -> None:
    """They are 8×8 and grey; the VAE reads RGB of its own size."""
    config = settings(
        "data=digits", "data.n=40", "encoder=vae", "model=dec", "vae.size=16", "vae.latent=6", "vae.width=4",
        "trainer.vae.steps=1", f"cache_dir={tmp_path / 'cache'}", f"runs_dir={tmp_path / 'runs'}",
    )  # fmt: skip
    run = Run(tmp_path / "run", config)
    data = build(config.data)
    features = features_of(config, data, run)
    assert features.values.shape == (len(data.ids), 6) and features.values.std(0).min() > 0
    assert data.images.shape[1:] == (1, 8, 8) and features.images is data.images
    config.model.name = "vae"
    with pytest.raises(UserError, match="Expected RGB images, as the encoder reads, got grey ones"):
        latents_of(config, data, Run(tmp_path / "other", config))
    assert not (tmp_path / "other" / "checkpoints").exists()


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # as fitting.py asks, too
def test_a_final_decoder_is_closer_to_the_images_at_the_same_latents(tmp_path: Path) -> None:
    config = settings(
        "data.n=300", "data.size=16", "vae.latent=8", "vae.width=4", "vae.final_width=8", "trainer.vae.steps=150",
        "trainer.final_decoder.steps=150", f"cache_dir={tmp_path / 'cache'}", f"runs_dir={tmp_path / 'runs'}",
    )  # fmt: skip
    run, data = Run(tmp_path / "run", config), build(config.data)
    vae = train_vae(config, data, run)
    assert {"time/vae_s", "time/final_decoder_s"} <= run.metrics.keys()
    assert [file.name for file in (run.path / "checkpoints").glob("*.ckpt")] == ["vae.ckpt"]
    rows = data.rows(TEST)
    latents, images = vae.encode(data.images[rows])[0], data.images[rows].float() / 255
    assert (vae.decode(latents) - images).abs().mean() < 0.95 * (vae.draft(latents) - images).abs().mean()
    again = train_vae(config, data, Run(tmp_path / "run", config))
    torch.testing.assert_close(again.decode(latents), vae.decode(latents))
    key = key_of(run.path / "checkpoints" / "vae.ckpt")
    config.trainer.final_decoder.steps = 20
    train_vae(config, data, other := Run(tmp_path / "other", config))
    assert key is not None and key_of(other.path / "checkpoints" / "vae.ckpt") not in (key, None)
