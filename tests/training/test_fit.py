"""One stage's training: what stops it, what it keeps, and with which rate it goes on."""

import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import Tensor

from datamodules.batches import Batches, ValidationBatches, row_batches
from models import UserError
from models.muon import Muon
from training.build import device_of
from training.callbacks import Bar
from training.checkpoints import finish
from training.fit import fit
from training.run_folder import Run

fitting = sys.modules["training.fit"]  # the module; its function has the same name
CONFIG = OmegaConf.create({"trainer": {"accelerator": "cpu", "devices": 1, "scale": 1.0}})
STEPS, NAN = 220, 150
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # as fitting.py asks, too


class Line(pl.LightningModule):
    """Least squares; at one step the loss, or the weights after it, can be made NaN."""

    def __init__(self, learning_rate: float = 1e-2, schedule: str = "cycle", nan: str = "", at: int = NAN) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer, self.nan, self.at = torch.nn.Linear(4, 4), nan, at
        self.rates: list[float] = []

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        loss = (self.layer(batch["x"]) - batch["x"].flip(1)).square().mean()
        return loss * torch.nan if self.nan == "loss" and self.global_step == self.at else loss

    def on_train_batch_end(self, *_: Any) -> None:
        if self.nan == "weights" and self.global_step == self.at + 1:
            self.layer.weight.data[0, 0] = torch.nan

    def configure_optimizers(self) -> Any:
        optimizer = Muon(self.parameters(), self.hparams["learning_rate"])
        rates = [group["lr"] for group in optimizer.param_groups]
        kinds: dict[str, Any] = {
            "cycle": lambda: torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, STEPS, cycle_momentum=False),
            "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS),  # from the rate before
            "lambda": lambda: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 - 2 * step / STEPS)),
        }
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": kinds[self.hparams["schedule"]](), "interval": "step"},
        }


def batches() -> Batches:
    return row_batches(
        {"x": torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))}, 8, 0, torch.arange(1000), 100
    )


def line(**settings: Any) -> Line:
    torch.manual_seed(0)
    return Line(**settings)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", OmegaConf.create({}))


@pytest.mark.parametrize("nan", ["loss", "weights"])
@pytest.mark.parametrize("schedule", ["cycle", "cosine", "lambda"])
def test_nan_keeps_the_last_good_checkpoint_and_a_lower_rate_goes_on_from_it(
    run: Run, nan: str, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "of_pipeline", lambda *_: {"line": ("line.learning_rate",)})
    kept = run.path / "checkpoints/line.partial.ckpt"
    with pytest.raises(UserError, match=rf"Expected .*finite .* go on with ckpt={kept} and a lower line.learning_rate"):
        fit(line(nan=nan, schedule=schedule), batches(), run, "line", CONFIG, STEPS)
    content = torch.load(kept, weights_only=True)
    assert content["global_step"] == 100 and all(weight.isfinite().all() for weight in content["state_dict"].values())

    whole, resumed = line(schedule=schedule), line(learning_rate=1e-3, schedule=schedule)
    assert fit(resumed, batches(), run, "line", CONFIG, STEPS) == STEPS - 100
    fit(whole, batches(), Run(run.path.parent / "whole", OmegaConf.create({})), "line", CONFIG, STEPS)
    assert torch.allclose(torch.tensor(resumed.rates) * 10, torch.tensor(whole.rates[100:]), rtol=1e-4)
    finish(resumed, run, "line")
    assert (
        torch.load(run.path / "checkpoints/line.ckpt", weights_only=True)["hyper_parameters"]["learning_rate"] == 1e-3
    )
    assert not kept.exists()


@pytest.mark.parametrize("schedule", ["cycle", "cosine", "lambda"])
def test_going_on_with_the_same_rate_changes_nothing(run: Run, schedule: str) -> None:
    with pytest.raises(UserError):
        fit(line(nan="loss", schedule=schedule), batches(), run, "line", CONFIG, STEPS)
    whole, resumed = line(schedule=schedule), line(schedule=schedule)
    fit(resumed, batches(), run, "line", CONFIG, STEPS)
    fit(whole, batches(), Run(run.path.parent / "whole", OmegaConf.create({})), "line", CONFIG, STEPS)
    assert resumed.rates == whole.rates[100:]
    assert torch.equal(resumed.layer.weight, whole.layer.weight)


def test_before_the_first_checkpoint_none_is_promised(run: Run) -> None:
    with pytest.raises(UserError, match="at step 51 of stage line; lower line.learning_rate and start again") as error:
        fit(line(nan="loss", at=50), batches(), run, "line", CONFIG, STEPS)
    assert "ckpt" not in str(error.value)


@pytest.mark.parametrize(("stage", "setting"), [("dec_1", "dec"), ("layer_2_10", "autoencoder"), ("temi", "temi")])
def test_a_clustering_starts_again_at_a_lower_rate(run: Run, stage: str, setting: str) -> None:
    with pytest.raises(UserError, match=f"stage {stage}; lower {setting}.learning_rate and start again with") as error:
        fit(line(nan="loss"), batches(), run, stage, CONFIG, STEPS, rate=f"{setting}.learning_rate")
    assert "ckpt" not in str(error.value)


def test_weights_that_the_last_step_ruined(run: Run) -> None:
    with pytest.raises(UserError, match=f"Expected finite weights, got NaN or infinities at step {STEPS}"):
        fit(line(nan="weights", at=STEPS - 1), batches(), run, "line", CONFIG, STEPS)


def test_a_damaged_checkpoint_is_one_line(run: Run) -> None:
    (run.path / "checkpoints").mkdir()
    (run.path / "checkpoints/line.partial.ckpt").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"got a damaged file .*line.partial.ckpt \(.*\): remove it"):
        fit(line(), batches(), run, "line", CONFIG, STEPS)


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space left on device"):
        finish(line(), run, "line")
    assert not list((run.path / "checkpoints").iterdir())


@pytest.mark.parametrize("name", ["gpuu", "tpu", "gpu"])
def test_an_accelerator_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"trainer.accelerator.*{name}"):
        device_of(OmegaConf.create({"trainer": {"accelerator": name}}))


def test_a_second_logger_and_callbacks(tmp_path: Path) -> None:
    """`logger=csv callbacks=learning_rate` add to TensorBoard's what Lightning's own write."""
    import yaml

    read = {name: yaml.safe_load((Path(__file__).parents[2] / f"configs/{name}.yaml").read_text())
            for name in ("logger/csv", "callbacks/learning_rate")}  # fmt: skip
    logger = read["logger/csv"] | {"save_dir": str(tmp_path / "run")}
    added = {"logger": logger, "callbacks": read["callbacks/learning_rate"]}
    config: Any = OmegaConf.merge(CONFIG, added)
    fit(line(), batches(), Run(tmp_path / "run", config), "line", config, 40)
    table = (tmp_path / "run/csv/line/metrics.csv").read_text()
    assert "lr-" in table.splitlines()[0]
    assert any((tmp_path / "run/tensorboard/line").iterdir())


EARLY = {
    "_target_": "pytorch_lightning.callbacks.EarlyStopping",
    "monitor": "val/loss",
    "patience": 1,
    "min_delta": 1e9,
}


class Validated(Line):
    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        self.log("val/loss", (self.layer(batch["x"]) - batch["x"].flip(1)).square().mean())


@pytest.mark.parametrize(("rows", "steps"), [(16, 200), (0, STEPS)])
def test_early_stopping_where_there_are_held_out_rows(run: Run, rows: int, steps: int) -> None:
    config: Any = OmegaConf.merge(CONFIG, {"callbacks": {"early_stopping": EARLY}})
    held_out = {"x": torch.randn(16, 4, generator=torch.Generator().manual_seed(1))}
    found = fit(Validated(), batches(), run, "line", config, STEPS,
                validation=lambda: ValidationBatches(held_out, torch.arange(rows), 8))  # fmt: skip
    assert found == steps  # patience ends after the second epoch
    assert fit(line(), batches(), Run(run.path.parent / "b", CONFIG), "line", config, STEPS) == STEPS


def test_compiled_steps_reach_the_same_weights(run: Run) -> None:
    plain, compiled = line(), line()
    fit(plain, batches(), run, "plain", CONFIG, 20)
    fit(compiled, batches(), run, "compiled", OmegaConf.merge(CONFIG, {"compile": True}), 20)
    assert torch.allclose(plain.layer.weight, compiled.layer.weight, atol=1e-5)
    assert compiled.state_dict().keys() == plain.state_dict().keys()


def test_the_bar_says_stage_step_loss_and_time_left(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    shown: list[str] = []

    class Shown(Bar):
        def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            with self.progress.console.capture() as captured:
                self.progress.console.print(self.progress.get_renderable())
            shown.append(captured.get())
            super().on_train_end(trainer, module)

    monkeypatch.setattr(fitting, "Bar", Shown)
    fit(line(), batches(), run, "line", CONFIG, 120)
    assert "line" in shown[0] and "120/120" in shown[0] and "loss " in shown[0] and "0:00:00" in shown[0]
