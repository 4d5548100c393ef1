"""Fit every clustering method on the same rows of the same features, and assign all rows to clusters.

No method sees a label. Trained modules are stored as checkpoints of the run, so that it resumes where it stopped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from hydra.utils import get_object
from jaxtyping import Float, Int64
from omegaconf import DictConfig
from torch import Tensor

from datamodules.batches import row_batches
from models.autoencoder import Autoencoder, Layer
from models.dec import DEC, kmeans
from models.precision import fast_precision
from training.build import build
from training.checkpoints import finish, load_module
from training.fit import STEPS_PER_EPOCH, fit, stage_steps
from training.run_folder import Run
from training.settings import Settings

__all__ = ["ClustererFits", "Fitted", "by_centers", "clusterers", "methods"]

CHUNK = 4096
CODES = ("kmeans", "autoencoder")  # k-means on the features, and on the auto-encoder's codes


def clusterers(config: Settings) -> dict[str, type[pl.LightningModule]]:
    """Return the class of each method that is trained: of the sections that build a module with `assign`."""
    found: dict[str, type[pl.LightningModule]] = {}
    for name, section in config.items():
        if isinstance(section, DictConfig) and "_target_" in section:
            target = get_object(section._target_)
            if isinstance(target, type) and hasattr(target, "assign"):
                found[str(name)] = target
    return found


def methods(config: Settings) -> list[str]:
    """Return the names of all clustering methods that a configuration has."""
    return [*CODES, *clusterers(config)]


class Fitted(NamedTuple):
    """One method's clusters of all rows, and numbers about the end of its training."""

    clusters: Int64[Tensor, " n"]
    certainty: Float[Tensor, " n"]  # 0 to 1
    details: dict[str, float]


def by_centers(vectors: Float[Tensor, "n d"], centers: Float[Tensor, "k d"]) -> tuple[Tensor, Tensor]:
    """Assign each row to its nearest centre, with the certainty 1 - d₁/d₂ of the distances to the two nearest centres.

    The certainty is 0 half-way between the two and 1 on a centre.

    >>> by_centers(torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([[0.0], [4.0]]))
    (tensor([0, 0, 1]), tensor([1.0000, 0.6667, 1.0000]))
    """
    middle = centers.mean(0)  # cdist expands the square, which loses precision far from the origin
    around = [torch.cdist(part - middle, centers - middle) for part in vectors.split(CHUNK)]
    near = [part.topk(min(2, len(centers)), largest=False) for part in around]
    distances, clusters = (torch.cat(part).cpu() for part in zip(*near, strict=True))
    second = distances[:, -1].clamp_min(1e-12)
    return clusters[:, 0], 1 - distances[:, 0] / second if len(centers) > 1 else torch.ones(len(vectors))


@dataclass
class ClustererFits:
    """Fit the methods of one seed. `values` are the features of all rows, on the device; `rows` are for training."""

    config: Settings
    values: Float[Tensor, "n features"]
    rows: Int64[Tensor, " rows"]
    k: int
    seed: int
    run: Run
    device: torch.device

    def __call__(self, method: str) -> Fitted:
        """Return the clusters of one method, which is fitted or loaded from its checkpoint."""
        if method == "kmeans":
            return self.kmeans(method, self.values)
        if method == "autoencoder":
            return self.kmeans("codes", self.codes)
        kind = clusterers(self.config)[method]
        return self.dec(method) if issubclass(kind, DEC) else self.head(method, kind)

    def name(self, stage: str) -> str:
        """Name a stage and its checkpoint; the first seed's names have no number."""
        return stage if self.seed == self.config.seed else f"{stage}_{self.seed}"

    def file(self, stage: str) -> Path:
        """Return the path of a stage's final checkpoint; that of the run's own model is `last.ckpt`."""
        name = self.name(stage)
        return self.run.path / "checkpoints" / f"{'last' if name == self.config.model.name else name}.ckpt"

    def known(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "rows d"]:
        """Return the training rows, without a copy where these are all rows."""
        return vectors if len(self.rows) == len(vectors) else vectors[self.rows.to(vectors.device)]

    def trained(self, stage: str, kind: type[pl.LightningModule], make: Callable[[], Any], vectors: Tensor,
                steps: int, batch_size: int, interval: int | None = None) -> Any:  # fmt: skip
        """Return the module of a stage, loaded from its final checkpoint or trained now.

        While it trains, a partial checkpoint is written every `interval` steps, by default about fifty times.
        """
        name, file = self.name(stage), self.file(stage)
        if file.is_file():
            return load_module(kind, file).to(self.device)
        pl.seed_everything(self.seed, verbose=False)
        with self.run.stage(name) as timed:
            module = make()
            tensors = {"features": vectors, "row": torch.arange(len(vectors), device=vectors.device)}
            size = min(batch_size, len(vectors))
            interval = max(STEPS_PER_EPOCH, steps // 50) if interval is None else interval
            batches = row_batches(tensors, size, self.seed, torch.arange(len(vectors)), min(interval, steps))
            bf16 = self.config.trainer.bf16
            half = fast_precision(self.device) == torch.bfloat16 if bf16 is None else bf16
            precision = "bf16-mixed" if half and issubclass(kind, (Autoencoder, Layer, DEC)) else "32-true"
            rate = f"{'autoencoder' if kind is Layer else stage}.learning_rate"
            timed.items = size * fit(module, batches, self.run, name, self.config, steps, precision, rate=rate)
        finish(module, self.run, name, file.stem)
        return module.to(self.device).eval().requires_grad_(False)

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The auto-encoder that all methods on codes share."""
        settings, known = self.config.trainer.autoencoder, self.known(self.values)

        def fresh() -> Autoencoder:
            module = build(self.config.autoencoder, features=known.shape[1])
            module.start(known)
            return module

        def make() -> Autoencoder:
            module = fresh()
            if layers:
                module.load_layers(layers)
            return module

        wanted = settings.layer_epochs and not self.file("autoencoder").is_file()
        layers = self.layers(fresh(), known) if wanted else []  # these are stages of their own, before this one
        steps = self.pretraining_steps(settings.epochs, len(known))
        return self.trained("autoencoder", Autoencoder, make, known, steps, settings.batch_size)

    def pretraining_steps(self, epochs: int, rows: int) -> int:
        """Return the number of steps in these epochs, at most `trainer.autoencoder.steps`."""
        settings = self.config.trainer.autoencoder
        per_epoch = -(-rows // min(settings.batch_size, rows))
        return stage_steps(self.config, min(epochs * per_epoch, settings.steps))

    def layers(self, whole: Autoencoder, vectors: Float[Tensor, "rows features"]) -> list[Layer]:
        """Pretrain the layers greedily: each is trained on the outputs of the one before it."""
        settings, trained = self.config.trainer.autoencoder, []
        steps = self.pretraining_steps(settings.layer_epochs, len(vectors))
        for i in range(len(whole.widths) - 1):
            make = partial(lambda i: whole.layers()[i], i)
            trained.append(self.trained(f"layer_{i + 1}", Layer, make, vectors, steps, settings.batch_size))
            vectors = trained[-1].embed(vectors)
        return trained

    @cached_property
    def codes(self) -> Float[Tensor, "n code"]:
        return self.autoencoder.embed(self.values)

    def kmeans(self, stage: str, vectors: Float[Tensor, "n d"]) -> Fitted:
        with self.run.stage(self.name(stage), len(self.rows)):
            clusters, certainty = by_centers(vectors, kmeans(self.known(vectors), self.k, self.seed))
        return Fitted(clusters, certainty, {})

    def dec(self, method: str) -> Fitted:
        autoencoder, known, settings = self.autoencoder, self.known(self.values), self.config.trainer.dec
        widths = {"features": known.shape[1], "hidden": autoencoder.widths[1:-1], "code": autoencoder.widths[-1]}

        def make() -> DEC:
            module = build(self.config[method], clusters=self.k, interval=settings.interval, **widths)
            module.start(autoencoder, known, self.seed)
            return module

        steps = stage_steps(self.config, settings.steps)
        module = self.trained(method, DEC, make, known, steps, settings.batch_size, settings.interval)
        return self.assigned(module, self.values)

    def head(self, method: str, kind: type[pl.LightningModule]) -> Fitted:
        """Fit a method whose outputs are clusters, such as TURTLE, on the features or on the auto-encoder's codes."""
        vectors = self.codes if self.config.head_input == "codes" else self.values
        known, settings = self.known(vectors), self.config.trainer[method]

        def make() -> Any:
            module = build(self.config[method], features=known.shape[1], clusters=self.k)
            module.start(known, self.seed)
            return module

        module = self.trained(
            method, kind, make, known, stage_steps(self.config, settings.steps), settings.batch_size, 100
        )
        return self.assigned(module, vectors)

    def assigned(self, module: Any, vectors: Float[Tensor, "n d"]) -> Fitted:
        """Assign all rows to the cluster of the highest probability, which is the certainty."""
        with torch.inference_mode():
            certainty, clusters = module.assign(vectors).max(1)
        details = module.details() if hasattr(module, "details") else {}
        return Fitted(clusters.cpu(), certainty.cpu(), details)
