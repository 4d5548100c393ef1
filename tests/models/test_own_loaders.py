"""The modules in a user's own `Trainer`: pairs from an ordinary DataLoader, float images, validation, rates."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from datamodules.faces import faces
from datamodules.lightning import LightningData
from models.autoencoder import Autoencoder
from models.batches import inputs_of, labelled_batch
from models.dec import DEC, soft_assignment
from models.iin import IIN
from models.muon import Muon
from models.networks import to_signed
from models.sae import SAE
from models.turtle import TURTLE
from models.vae import VAE


def trainer(folder: Path, steps: int = 4, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder, max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=1, **options,
    )  # fmt: skip


def loader(inputs: Tensor, *labels: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(inputs, *labels), batch_size=16)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return faces(n=200, size=16).images[:64]


@pytest.fixture(scope="module")
def features() -> Tensor:
    shift = torch.arange(64)[:, None] % 2 * 4.0
    return torch.randn(64, 6, generator=torch.Generator().manual_seed(0)) + shift


@pytest.mark.filterwarnings("ignore:.*shuffl.*", "ignore:.*num_workers.*")
def test_a_vae_learns_the_same_from_pixels_and_from_floats(tmp_path: Path, images: Tensor) -> None:
    """uint8 pixels and the same images as floats in [0, 1], which stay as they were; validation is logged."""
    floats, labels = images.float() / 255, torch.zeros(64)
    kept, found = floats.clone(), []
    for given in (images, floats):
        pl.seed_everything(0, verbose=False)
        vae, fit = VAE(size=16, latent=4, width=4), trainer(tmp_path)
        fit.fit(vae, loader(given, labels), loader(given, labels))
        assert {"val/loss", "val/nll", "val/kl", "val/psnr"} <= fit.callback_metrics.keys()
        found.append(fit.callback_metrics["val/loss"])
    assert torch.equal(floats, kept)
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=0)


@pytest.mark.filterwarnings("ignore:.*num_workers.*")
def test_a_data_sets_own_loaders(tmp_path: Path) -> None:
    drawn = faces(n=300, size=16)
    data = LightningData(drawn, batch_size=32, seed=1)
    fit = trainer(tmp_path, 8)
    fit.fit(VAE(size=16, latent=4, width=4), datamodule=data)
    assert float(fit.callback_metrics["val/psnr"]) > 0
    first, second = (next(iter(data.train_dataloader())) for _ in range(2))
    assert first["images"].shape == (32, 3, 16, 16) and first["labels"].shape == (32, 6)
    assert torch.equal(first["row"], second["row"]), "the order depends on the seed alone"
    assert torch.equal(drawn.images[first["row"]], first["images"])
    assert set(first["row"].tolist()) <= set(drawn.rows(0).tolist())


@pytest.mark.parametrize(("scale", "got"), [(2.0, "values from 0 to 2"), (-1.0, "values from -1 to -0")])
def test_images_in_another_range_are_refused(scale: float, got: str) -> None:
    images = torch.linspace(0, 1, 3 * 16 * 16).reshape(1, 3, 16, 16) * scale
    with pytest.raises(ValueError, match=rf"Expected float images in \[0, 1\], got {got}"):
        to_signed(images)


def test_images_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected images of uint8 or of floats in \[0, 1\], got torch.int64"):
        to_signed(torch.zeros(1, 3, 16, 16, dtype=torch.int64))


@pytest.mark.filterwarnings("ignore:.*shuffl.*", "ignore:.*num_workers.*")
def test_features_with_labels(tmp_path: Path, features: Tensor) -> None:
    labels = torch.arange(64) % 2
    autoencoder = Autoencoder(6, [8], 2)
    autoencoder.start(features)
    turtle = TURTLE(6, 2, heads=2)
    turtle.start(features, 0)
    sae = SAE(6)
    sae.start(features)
    for module in (autoencoder, turtle, sae):
        before = [weight.clone() for weight in module.parameters()]
        trainer(tmp_path).fit(module, loader(features, labels))
        assert any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:.*shuffl.*", "ignore:.*num_workers.*")
def test_dec_finds_two_clusters_without_row_numbers(tmp_path: Path, features: Tensor) -> None:
    pl.seed_everything(0, verbose=False)
    autoencoder = Autoencoder(6, [8], 2)
    autoencoder.start(features)
    dec = DEC(6, 2, hidden=[8], code=2)
    dec.start(autoencoder, features, 0)
    trainer(tmp_path, 8).fit(dec, loader(features, torch.arange(64) % 2))
    clusters = dec.assign(features).argmax(1)
    right = (clusters == torch.arange(64) % 2).float().mean()
    assert max(right, 1 - right) > 0.9
    assert dec.details()["updates"] == 1 and dec.stop_reason == "steps", "an epoch of two batches is no interval"


@pytest.mark.filterwarnings("ignore:.*shuffl.*", "ignore:.*num_workers.*")
def test_an_iin_of_latents_and_labels(tmp_path: Path, features: Tensor) -> None:
    labels = (torch.arange(64) % 2).float()
    iin = IIN(6, [("even", "binary", ["no", "yes"])], "likelihood", "label", blocks=2, width=8)
    iin.start(features, torch.full_like(features, -5.0), labels[:, None])
    fit = trainer(tmp_path, 40)
    fit.fit(iin, loader(features, labels), loader(features, labels))
    assert {"val/loss", "val/label", "val/nll_bits_per_dim"} <= fit.callback_metrics.keys()
    with pytest.raises(RuntimeError, match="Expected a calibrated network, got one that is not: call calibrate"):
        iin.set_component(features, 0, 3.0)
    iin.calibrate(features, labels[:, None])
    assert not torch.allclose(iin.set_component(features, 0, 3.0), iin.set_component(features, 0, -3.0))


def test_one_rate_moves_every_group_of_muon() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    slow, fast = (Muon(network.parameters(), rate).param_groups for rate in (1e-3, 1e-2))
    assert [group["lr"] for group in fast] == [0.01, 0.002]
    assert [group["lr"] for group in slow] == pytest.approx([0.001, 0.0002])


def test_batches_of_every_kind() -> None:
    inputs, labels = torch.zeros(3, 2), torch.tensor([0, 1, 1])
    for batch in (inputs, (inputs, labels), [inputs, labels], {"features": inputs, "label": labels}):
        assert inputs_of(batch, "features") is inputs
    with pytest.raises(ValueError, match="Expected a batch with 'images', got one with features"):
        inputs_of({"features": inputs}, "images")
    with pytest.raises(ValueError, match="Expected a batch that is a tensor, a pair or a dictionary"):
        inputs_of("text", "images")
    with pytest.raises(ValueError, match="Expected labels of 2 factors, got 1"):
        labelled_batch((inputs, labels), 2)
    with pytest.raises(ValueError, match="Expected a batch that is a dictionary or a pair of latents and labels"):
        labelled_batch(inputs, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_soft_assignment_keeps_its_precision(dtype: torch.dtype) -> None:
    found = soft_assignment(torch.randn(5, 3).to(dtype), torch.randn(2, 3).to(dtype))
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
