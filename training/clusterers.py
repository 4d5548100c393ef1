"""Every clustering method on the same features: fitted on the same rows, applied to all of them.

No method sees a label. What is trained is kept in the run's checkpoints, so that a run goes on where it stopped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from datamodules.batches import Batches
from models.autoencoder import Autoencoder, Layer
from models.dec import DEC, kmeans
from models.precision import fast_precision
from models.temi import TEMI
from models.turtle import TURTLE
from training.build import build
from training.checkpoints import finish, load_module
from training.fit import STEPS_PER_EPOCH, fit, stage_steps
from training.run_folder import Run
from training.settings import Settings

__all__ = ["ClustererFits", "Fitted", "KINDS", "METHODS", "by_centers"]

CHUNK = 4096
METHODS = ("kmeans", "autoencoder", "dec", "idec", "turtle", "temi")
KINDS: dict[str, type[pl.LightningModule]] = {"dec": DEC, "idec": DEC, "turtle": TURTLE, "temi": TEMI}


class Fitted(NamedTuple):
    """The clusters of all rows by one method, and how its training ended."""

    clusters: Int64[Tensor, " n"]
    certainty: Float[Tensor, " n"]  # 0 to 1
    details: dict[str, float]


def by_centers(vectors: Float[Tensor, "n d"], centers: Float[Tensor, "k d"]) -> tuple[Tensor, Tensor]:
    """The nearest centre, and 1 - d₁/d₂ of the distances to the two nearest: 0 half-way between them, 1 on a centre."""
    middle = centers.mean(0)  # distances come from products, which lose them far from the origin
    around = [torch.cdist(part - middle, centers - middle) for part in vectors.split(CHUNK)]
    near = [part.topk(min(2, len(centers)), largest=False) for part in around]
    distances, clusters = (torch.cat(part).cpu() for part in zip(*near, strict=True))
    second = distances[:, -1].clamp_min(1e-12)
    return clusters[:, 0], 1 - distances[:, 0] / second if len(centers) > 1 else torch.ones(len(vectors))


@dataclass
class ClustererFits:
    """The methods of one seed. `values` are the features of all rows on the device, `rows` those that are fitted on."""

    config: Settings
    values: Float[Tensor, "n features"]
    rows: Int64[Tensor, " rows"]
    k: int
    seed: int
    run: Run
    device: torch.device

    def __call__(self, method: str) -> Fitted:
        """One method, fitted or read back."""
        if method == "kmeans":
            return self.kmeans(method, self.values)
        if method == "autoencoder":
            return self.kmeans("codes", self.codes)
        if method in ("dec", "idec"):
            return self.dec(method)
        return self.head(method)

    def name(self, stage: str) -> str:
        """Name a stage and its checkpoint; that of the first seed has no number."""
        return stage if self.seed == self.config.seed else f"{stage}_{self.seed}"

    def file(self, stage: str) -> Path:
        """The checkpoint that a stage ends with; that of the run's own model is its last."""
        name = self.name(stage)
        return self.run.path / "checkpoints" / f"{'last' if name == self.config.model.name else name}.ckpt"

    def known(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "rows d"]:
        """The rows that are fitted on; no copy where these are all."""
        return vectors if len(self.rows) == len(vectors) else vectors[self.rows.to(vectors.device)]

    def trained(self, stage: str, kind: type[pl.LightningModule], make: Callable[[], Any], vectors: Tensor,
                steps: int, batch_size: int, interval: int | None = None) -> Any:  # fmt: skip
        """The module of a stage, from its checkpoint or trained now.

        A checkpoint is written after every `interval` steps, by default some fifty times.
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
            batches = Batches(tensors, size, self.seed, torch.arange(len(vectors)), min(interval, steps))
            bf16 = self.config.trainer.bf16
            half = fast_precision(self.device) == torch.bfloat16 if bf16 is None else bf16
            precision = "bf16-mixed" if half and kind in (Autoencoder, Layer, DEC) else "32-true"
            timed.items = size * fit(module, batches, self.run, name, self.config, steps, precision)
        finish(module, self.run, name, file.stem)
        return module.to(self.device).eval().requires_grad_(False)

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The auto-encoder that the methods on codes share."""
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
        layers = self.layers(fresh(), known) if wanted else []  # stages of their own, before this one
        steps = self.pretraining_steps(settings.epochs, len(known))
        return self.trained("autoencoder", Autoencoder, make, known, steps, settings.batch_size)

    def pretraining_steps(self, epochs: int, rows: int) -> int:
        """Those of the epochs, `steps` at most."""
        settings = self.config.trainer.autoencoder
        per_epoch = -(-rows // min(settings.batch_size, rows))
        return stage_steps(self.config, min(epochs * per_epoch, settings.steps))

    def layers(self, whole: Autoencoder, vectors: Float[Tensor, "rows features"]) -> list[Layer]:
        """The greedy pretraining: each layer on what the one before makes of the rows."""
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
            module = build(self.config[method], clusters=self.k, **widths)
            module.start(autoencoder, known, self.seed)
            return module

        steps = stage_steps(self.config, settings.steps)
        module = self.trained(method, DEC, make, known, steps, settings.batch_size, settings.interval)
        return self.assigned(module, self.values)

    def head(self, method: str) -> Fitted:
        """TURTLE or TEMI, on the features or on the auto-encoder's codes."""
        vectors = self.codes if self.config.head_input == "codes" else self.values
        known, settings = self.known(vectors), self.config.trainer[method]

        def make() -> Any:
            module = build(self.config[method], features=known.shape[1], clusters=self.k)
            module.start(known, self.seed)
            return module

        module = self.trained(
            method, KINDS[method], make, known, stage_steps(self.config, settings.steps), settings.batch_size, 100
        )
        return self.assigned(module, vectors)

    def assigned(self, module: Any, vectors: Float[Tensor, "n d"]) -> Fitted:
        with torch.inference_mode():
            certainty, clusters = module.assign(vectors).max(1)
        details = module.details() if hasattr(module, "details") else {}
        return Fitted(clusters.cpu(), certainty.cpu(), details)
