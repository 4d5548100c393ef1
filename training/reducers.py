"""Fit reductions of features by name and dimension, store them in the run, and apply them to new rows.

Closed-form reductions and the Matryoshka map are fitted once and truncated to each width; neural MDS and the
auto-encoder are trained for each width. Of paired data, texts are kind 0 and images kind 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from datamodules.batches import row_batches
from models import UserError, check_choice, near_names
from models.autoencoder import Autoencoder
from models.matryoshka import Matryoshka
from models.mds import NeuralMDS
from models.reduction import CLOSED_FORM, METRICS, Metric, Reduction, fit_reduction
from training.build import build
from training.checkpoints import finish, load_module
from training.fit import STEPS_PER_EPOCH, fit, stage_steps
from training.run_folder import Run
from training.settings import Settings

__all__ = [
    "KINDS", "METHODS", "Reducer", "ReducerFits", "check_dims", "check_methods", "metric_of", "name_of", "reducer",
]  # fmt: skip

NEURAL = ("isometric", "isotonic")
METHODS = (*CLOSED_FORM, "autoencoder", "matryoshka", *NEURAL)
KINDS = ("text", "image")
CHUNK = 8192


@dataclass(frozen=True)
class Reducer:
    """One fitted method at one width. `first` is the reduction applied before an auto-encoder."""

    module: Any
    width: int
    metric: Metric
    first: Reduction | None = None

    @torch.inference_mode()
    def __call__(self, rows: Float[Tensor, "n d"], kind: int = 0) -> Float[Tensor, "n width"]:
        """Reduce new rows; of a reduction of pairs, `kind` is 0 for texts and 1 for images.

        Raises:
            UserError: rows of another width than the training rows; a kind that the reduction was not fitted on.
        """
        mean = (self.module if self.first is None else self.first).mean
        if rows.shape[1] != mean.shape[1]:
            raise UserError(f"Expected rows of {mean.shape[1]} numbers, as the reduction was fitted on, got "
                            f"{rows.shape[1]}: use the encoder that made them.")  # fmt: skip
        if kind >= len(mean):
            raise UserError("Expected rows of the only kind that was fitted on, got images: leave out kind=.")
        return torch.cat([self.coded(part.to(mean.device), kind)[:, : self.width] for part in rows.split(CHUNK)])

    def coded(self, rows: Float[Tensor, "n d"], kind: int) -> Float[Tensor, "n _"]:
        return self.module(rows, kind) if self.first is None else self.module.encode(self.first(rows, kind))


def check_methods(methods: Sequence[str]) -> None:
    """Check the names of methods.

    Raises:
        UserError: an unknown method, or none at all.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        near = near_names(unknown[0], METHODS) if unknown else ""
        got = repr(unknown[0]) if unknown else "none"
        raise UserError(f"Expected methods among {', '.join(METHODS)}, got {got}.{near}")


def check_dims(dims: Any, features: int | None) -> list[int]:
    """Return the widths to reduce to, sorted: the given one or list, or for None 2, 4, 8, ... and the full width.

    Before the embeddings are computed, their width `features` is None, and given widths may be any from 1.

    >>> check_dims(None, 20)
    [2, 4, 8, 16, 20]

    Raises:
        UserError: a width that the embeddings do not have.
    """
    if dims is None:
        most = features or 2
        return [*(2**i for i in range(1, 20) if 2**i < most), most]
    dims = [dims] if isinstance(dims, int | float | str) else list(dims)
    wrong = [dim for dim in dims if type(dim) is not int or dim < 1 or (features is not None and dim > features)]
    if wrong or not dims:
        got, most_text = repr(wrong[0]) if wrong else "none", "" if features is None else f"{features}, "
        raise UserError(f"Expected dims= from 1 to {most_text}the embeddings' width, got {got}: choose others.")
    return sorted(set(dims))


def metric_of(config: Settings, kinds: int) -> Metric:
    """Return the metric that compares rows and codes; by default cosine for pairs, else euclidean.

    Raises:
        UserError: an unknown metric.
    """
    chosen: Metric = config.metric or ("euclidean" if kinds == 1 else "cosine")
    check_choice("metric", chosen, METRICS)
    return chosen


def name_of(method: str, dim: int) -> str:
    """Name the checkpoint and the stage of a method; those fitted once for all widths have no number.

    >>> name_of("isometric", 8)
    'isometric_8'
    """
    return method if method in (*CLOSED_FORM, "matryoshka") else f"{method}_{dim}"


def reducer(run: Path, method: str, dim: int) -> Reducer:
    """Load a reduction that a run has fitted.

    Raises:
        UserError: an unknown method; a width that the run did not fit.
    """
    check_methods([method])
    kind = {"autoencoder": Autoencoder, "matryoshka": Matryoshka, **dict.fromkeys(NEURAL, NeuralMDS)}
    file = run / "checkpoints" / f"{name_of(method, dim)}.ckpt"
    if not file.is_file():
        known = sorted(path.stem for path in file.parent.glob("*.ckpt") if path.stem.startswith(METHODS))
        raise UserError(f"Expected {name_of(method, dim)} among what {run} has fitted ({', '.join(known)}), got none: "
                        f"fit it by evaluation.retrieval run={run} methods=[{method}] dims=[{dim}].")  # fmt: skip
    module: Any = load_module(kind.get(method, Reduction), file)
    if method == "autoencoder":
        first = load_module(Reduction, file.with_name("centred_pca.ckpt"))
        return Reducer(module, dim, first.metric, first)
    widest = module.widths[-1] if method == "matryoshka" else module.mean.shape[1]
    if not 1 <= dim <= widest:
        raise UserError(f"Expected dim= from 1 to {widest}, as {file} has them, got {dim}: choose another.")
    return Reducer(module, dim, module.metric)


@dataclass
class ReducerFits:
    """Fit the methods on these rows: `x` alone, or texts `x` with `y`, the image that each text describes, row by row.

    `image` numbers the images, as several captions may describe the same one; `dims` are the widths that the
    Matryoshka map is trained for.
    """

    config: Settings
    x: Float[Tensor, "n d"]
    y: Float[Tensor, "n d"] | None
    image: Int64[Tensor, " n"] | None
    dims: Sequence[int]
    run: Run
    device: torch.device

    def __call__(self, method: str, dim: int) -> Reducer:
        """Return one method at one width, fitted now or loaded from its checkpoint."""
        name = name_of(method, dim)
        if method == "autoencoder":
            self("centred_pca", dim)  # the auto-encoder reads centred rows
        if not (self.run.path / "checkpoints" / f"{name}.ckpt").is_file():
            pl.seed_everything(self.config.seed, verbose=False)
            with self.run.stage(name, len(self.x)) as stage:
                if method in CLOSED_FORM:
                    module: Any = fit_reduction(method, self.x, self.y, self.metric, self.config.seed)
                else:
                    module = self.untrained(method, dim)
                    stage.items = self.train(method, name, module)
            finish(module, self.run, name)
        found = reducer(self.run.path, method, dim)
        found.module.to(self.device)
        if found.first is not None:
            found.first.to(self.device)
        return found

    @property
    def metric(self) -> Metric:
        return metric_of(self.config, 1 if self.y is None else 2)

    def untrained(self, method: str, dim: int) -> Any:
        """Build the module of a trained method, before its weights are initialised from the rows."""
        features = self.x.shape[1]
        if method == "autoencoder":
            return build(self.config.autoencoder, features=features, code=dim)
        shape = {"features": features, "kinds": 1 if self.y is None else 2, "metric": self.metric}
        if method == "matryoshka":
            return build(self.config.matryoshka, widths=list(self.dims), **shape)
        return build(self.config.mds, objective=method, width=dim, **shape)

    def check(self, methods: Sequence[str]) -> None:
        """Check the settings of all methods before any of them is trained."""
        for method in methods:
            if method not in CLOSED_FORM:
                self.untrained(method, self.dims[0])
            if method == "matryoshka" and (self.run.path / "checkpoints" / "matryoshka.ckpt").is_file():
                reducer(self.run.path, method, self.dims[-1])  # the requested width may exceed the trained one

    def tensors(self, method: str) -> dict[str, Tensor]:
        """Return the tensors that batches are drawn from; for the auto-encoder the rows of both kinds, each centred."""
        if method == "autoencoder":
            first = reducer(self.run.path, "centred_pca", self.x.shape[1])
            first.module.to(self.device)
            return {"features": torch.cat([first(rows, kind) for kind, rows in enumerate((self.x, self.y))
                                           if rows is not None])}  # fmt: skip
        found = {"x": self.x, "y": self.y, "image": self.image}  # unpaired data have only x
        return {key: value for key, value in found.items() if value is not None}

    def train(self, method: str, name: str, module: Any) -> int:
        """Train for the configured epochs, at most `steps` steps, and return the number of rows drawn."""
        settings, tensors = self.config.trainer["mds" if method in NEURAL else method], self.tensors(method)
        module.start(*([tensors["features"]] if method == "autoencoder" else [self.x, self.y]))
        rows = len(next(iter(tensors.values())))
        size = min(settings.batch_size, rows)
        steps = stage_steps(self.config, min(settings.epochs * -(-rows // size), settings.steps))
        interval = min(max(STEPS_PER_EPOCH, steps // 20), steps)
        batches = row_batches(tensors, size, self.config.seed, torch.arange(rows), interval)
        rate = f"{'mds' if method in NEURAL else method}.learning_rate"
        return size * fit(module, batches, self.run, name, self.config, steps, rate=rate)
