import pickle
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import Tensor

from datamodules.batches import Batches, row_batches
from models import UserError
from models.autoencoder import Autoencoder, Layer, fully_connected, optimization
from training.checkpoints import finish
from training.fit import fit
from training.run_folder import Run

SMALL: dict[str, Any] = {"hidden": [32, 16], "code": 4, "corruption": 0.0, "anneal": False}
QUICK: dict[str, Any] = {"learning_rate": 5e-3}  # small layers take it, and a test does not wait
CONFIG = OmegaConf.create({"trainer": {"accelerator": "cpu", "devices": 1, "scale": 1.0}})
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # as fitting.py asks, too


def low_rank(n: int = 1000, d: int = 24, rank: int = 3) -> Tensor:
    """Rows in a subspace of `rank` dimensions, plus noise of 1/100 of their variance."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(n, d, generator=generator)
    return torch.randn(n, rank, generator=generator) @ torch.randn(rank, d, generator=generator) / rank**0.5 + noise


def batches(features: Tensor, steps: int = 50, size: int = 128) -> Batches:
    return row_batches({"features": features}, size, 0, torch.arange(len(features)), steps)


def train(module: pl.LightningModule, features: Tensor, steps: int, **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(accelerator="cpu", max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, **options)  # fmt: skip
    trainer.fit(module, batches(features))
    return trainer


def error(autoencoder: Autoencoder, features: Tensor) -> float:
    """Mean squared error in units of the variance: 1 for whoever answers with the mean."""
    with torch.no_grad():
        difference = autoencoder.decode(autoencoder.embed(features)) - features
    return (difference.square().mean() / features.var(0, correction=0).mean()).item()


def test_layers_are_linear_at_code_and_output_and_start_as_in_dec_keras() -> None:
    autoencoder = Autoencoder(24, **SMALL)
    encoder: Any = autoencoder.encoder
    decoder: Any = autoencoder.decoder
    kinds = [type(layer).__name__ for layer in autoencoder.encoder]
    assert kinds == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert [tuple(layer.weight.shape) for layer in encoder[::2]] == [(32, 24), (16, 32), (4, 16)]
    assert [tuple(layer.weight.shape) for layer in decoder[::2]] == [(16, 4), (32, 16), (24, 32)]
    fresh: Any = fully_connected([400, 300, 200])
    for linear in fresh[::2]:
        limit = linear.in_features**-0.5
        assert not linear.bias.any()
        assert 0.99 * limit < linear.weight.abs().max() <= limit
        assert linear.weight.var().item() == pytest.approx(1 / 3 / linear.in_features, rel=0.05)


def test_the_scale_makes_the_mean_square_1_and_reconstructions_come_back_in_the_features_units() -> None:
    features = 1e-3 * low_rank()
    autoencoder = Autoencoder(24, **SMALL)
    autoencoder.start(features)
    assert (autoencoder.scale * features).square().mean().item() == pytest.approx(1, rel=1e-5)
    codes = autoencoder.encode(features)
    loss = autoencoder.reconstruction_loss(features, codes)
    expected = (autoencoder.decode(codes) - features).square().mean() / features.square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_training_does_not_depend_on_the_features_unit() -> None:
    errors = []
    for unit in (1.0, 1e-3):
        torch.manual_seed(0)
        autoencoder, features = Autoencoder(24, **SMALL), unit * low_rank()
        autoencoder.start(features)
        train(autoencoder, features, 50)
        errors.append(error(autoencoder, features))
    assert errors[0] == pytest.approx(errors[1], rel=1e-2)


@pytest.mark.parametrize("settings", [QUICK, {"optimizer": "sgd"}], ids=["adam", "sgd"])
def test_low_rank_data_are_reconstructed(settings: dict[str, Any]) -> None:
    features = low_rank()
    autoencoder = Autoencoder(24, **SMALL, **settings)
    autoencoder.start(features)
    assert error(autoencoder, features) > 0.8
    train(autoencoder, features, 300)
    assert error(autoencoder, features) < 0.03


def test_corrupted_rows_are_restored_to_what_they_were() -> None:
    """The best answer to a row with holes is not the row with holes: of rank 3, the rest tells what was there."""
    features, found = low_rank(), {}
    holes = torch.nn.functional.dropout(features, 0.3)
    for corruption in (0.0, 0.3):
        torch.manual_seed(0)
        autoencoder = Autoencoder(24, **{**SMALL, **QUICK, "corruption": corruption})
        autoencoder.start(features)
        train(autoencoder, features, 300)
        difference = autoencoder.decode(autoencoder.embed(holes)) - features
        found[corruption] = (difference.square().mean() / features.square().mean()).item()
    assert found[0.3] < 0.8 * found[0.0]


def test_unit_norm_features_train() -> None:
    features = torch.nn.functional.normalize(low_rank(d=256) + 1, dim=1)  # with a common direction, as CLIP's have
    autoencoder = Autoencoder(256, **SMALL, **QUICK)
    autoencoder.start(features)
    train(autoencoder, features, 150)
    assert error(autoencoder, features) < 0.1


def test_half_precision_is_the_trainers() -> None:
    features = low_rank()
    autoencoder = Autoencoder(24, **SMALL, **QUICK)
    autoencoder.start(features)
    train(autoencoder, features, 150, precision="bf16-mixed")
    assert error(autoencoder, features) < 0.05
    with torch.autocast("cpu", torch.bfloat16):
        codes = autoencoder.encode(features[:2])
        assert codes.dtype == autoencoder.reconstruction_loss(features[:2], codes).dtype == torch.float32


def test_embed_takes_any_number_of_rows() -> None:
    autoencoder, features = Autoencoder(24, **SMALL), torch.randn(4097, 24)
    codes = autoencoder.embed(features)
    assert codes.shape == (4097, 4) and not codes.requires_grad
    torch.testing.assert_close(codes[-2:], autoencoder.encode(features[-2:]))


def test_the_rate_falls_where_the_recipe_says() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    for drop_every, expected in ((None, [0.1] * 5), (2, [0.1, 0.1, 0.01, 0.01, 0.001])):
        made: Any = optimization([parameter], "sgd", 0.1, 0.9, drop_every)
        rates = []
        for _ in range(5):
            rates.append(made["optimizer"].param_groups[0]["lr"])
            made["optimizer"].step()
            made["lr_scheduler"]["scheduler"].step()
        assert rates == pytest.approx(expected)


def test_the_rate_is_annealed_over_the_whole_training() -> None:
    autoencoder, rates = Autoencoder(24, **{**SMALL, "anneal": True}), []
    autoencoder.start(low_rank())
    autoencoder.log = lambda name, value: rates.append(autoencoder.optimizers().param_groups[0]["lr"])  # type: ignore
    train(autoencoder, low_rank(), 100)
    assert len(rates) == 100
    assert rates[:6] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 1e-3], rel=1e-2)
    assert rates[50] == pytest.approx(5e-4) and 0 < rates[99] < 1e-6


@pytest.mark.parametrize(("optimizer", "kind", "rate"), [("adam", "Adam", 1e-3), ("sgd", "SGD", 0.1)])
def test_each_optimizer_has_its_own_rate(optimizer: Any, kind: str, rate: float) -> None:
    for module in (Autoencoder(24, **SMALL, optimizer=optimizer), *Autoencoder(24, optimizer=optimizer).layers()):
        made: Any = module.configure_optimizers()["optimizer"]  # type: ignore[index,call-overload]
        assert (type(made).__name__, made.param_groups[0]["lr"]) == (kind, rate)


def test_layers_are_denoising_but_neither_features_nor_code_lose_anything() -> None:
    autoencoder = Autoencoder(24, **SMALL, optimizer="sgd", learning_rate=0.3, drop_every=7)
    autoencoder.start(low_rank())
    first, middle, last = autoencoder.layers(dropout=0.5)
    assert [layer.input_dropout.p for layer in (first, middle, last)] == [0, 0.5, 0.5]
    assert [layer.hidden_dropout.p for layer in (first, middle, last)] == [0.5, 0.5, 0]
    assert [type(layer.hidden).__name__ for layer in (first, middle, last)] == ["ReLU", "ReLU", "Identity"]
    assert [type(layer.output).__name__ for layer in (first, middle, last)] == ["Identity", "ReLU", "ReLU"]
    assert [layer.scale for layer in (first, middle, last)] == [autoencoder.scale.item(), 1, 1]
    rate = [(layer.hparams["learning_rate"], layer.hparams["drop_every"]) for layer in (first, middle, last)]
    assert rate == [(0.3, 7)] * 3
    assert middle.encoder.weight.std().item() == pytest.approx(0.01, rel=0.2) and not middle.encoder.bias.any()
    (only,) = Autoencoder(24, [], 4).layers()
    assert (only.input_dropout.p, only.hidden_dropout.p, type(only.output).__name__) == (0, 0, "Identity")


def test_a_layer_of_hand_made_weights() -> None:
    layer = Layer(2, 1, scale=2.0, dropout=0.0)
    with torch.no_grad():
        layer.encoder.weight.copy_(torch.tensor([[1.0, -1.0]]))
    torch.testing.assert_close(layer.embed(torch.tensor([[3.0, 1.0], [1.0, 3.0]])), torch.tensor([[4.0], [0.0]]))


def test_layer_by_layer_then_the_whole() -> None:
    features = low_rank()
    autoencoder = Autoencoder(24, **SMALL, **QUICK)
    autoencoder.start(features)
    layers, inputs = autoencoder.layers(), features
    for layer, width in zip(layers, (32, 16, 4), strict=True):
        before = float(train(layer, inputs, 1).callback_metrics["layer/loss"])
        after = float(train(layer, inputs, 150).callback_metrics["layer/loss"])
        assert after < 0.3 * before
        inputs = layer.embed(inputs)
        assert inputs.shape == (1000, width)
    started = error(autoencoder, features)
    autoencoder.load_layers(layers)
    torch.testing.assert_close(autoencoder.embed(features), inputs)  # the stack is what the layers made
    stacked = error(autoencoder, features)
    assert stacked < 0.3 * started
    train(autoencoder, features, 100)
    assert error(autoencoder, features) < 0.3 * stacked


@pytest.mark.parametrize("features", [torch.zeros(3, 4), torch.full((3, 4), torch.nan), torch.full((3, 4), torch.inf)])
def test_features_without_a_scale_are_one_line(features: Tensor) -> None:
    with pytest.raises(UserError, match="Expected features with a finite root mean square above 0, got .*: look"):
        Autoencoder(4, **SMALL).start(features)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"code": 0}, r"Expected widths of at least 1, got \[4, 500, 500, 2000, 0\]"),
        ({"corruption": 1.0}, "Expected autoencoder.corruption from 0 to less than 1, got 1.0"),
        ({"hidden": [8, -1]}, r"Expected widths of at least 1, got \[4, 8, -1, 10\]"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Autoencoder(4, **settings)


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path) -> None:
    """Dropout included: the random state is in the checkpoint."""
    features, weights = low_rank(), []
    for steps in ([150], [100, 150]):
        run = Run(tmp_path / str(len(steps)), OmegaConf.create({}))
        for until in steps:
            torch.manual_seed(0)
            layer = Layer(24, 16)
            fit(layer, batches(features), run, "layer", CONFIG, until)
        weights.append(layer.encoder.weight.detach())
    assert torch.equal(*weights)


def test_saved_loaded_and_pickled_it_is_the_same(tmp_path: Path) -> None:
    features = low_rank()
    autoencoder = Autoencoder(24, hidden=(32, 16), code=4)
    autoencoder.start(features)
    run = Run(tmp_path / "run", OmegaConf.create({}))
    fit(autoencoder, batches(features), run, "autoencoder", CONFIG, 10)
    finish(autoencoder, run, "autoencoder")
    loaded = Autoencoder.load_from_checkpoint(run.path / "checkpoints/autoencoder.ckpt", weights_only=True)
    for again in (loaded, pickle.loads(pickle.dumps(autoencoder))):
        assert torch.equal(again.embed(features), autoencoder.embed(features))
        assert again.scale == autoencoder.scale != 1
