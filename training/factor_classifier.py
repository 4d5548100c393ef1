"""Train the judge of edits or load it from the cache, and score its predictions.

The judge is a classifier of the factors. It reads images and never codes, so it is independent of the edited model.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from datamodules.cache import code_digest, fingerprint
from datamodules.factors import FactorTable, ImageData
from datamodules.progress import with_progress
from datamodules.splits import TRAIN, VALIDATION
from models import factor_classifier, muon
from models.factor_classifier import Judge, class_recalls, class_weights, factor_loss, reached
from models.interfaces import FactorReader
from models.labels import factor_statistics
from models.muon import Muon
from models.precision import fast_precision
from training.interrupt import saving
from training.partials import Epochs, train_once

__all__ = [
    "MOST_VALIDATION",
    "UNFIT_BELOW",
    "judge_quality",
    "reading_quality",
    "standardised",
    "train_judge",
    "unfit",
]

UNFIT_BELOW = 0.75  # balanced accuracy below which a factor is flagged
MOST_EPOCHS = 60  # upper bound for small data sets
MOST_VALIDATION = 2_000  # images on which the best epoch is chosen


def reading_quality(
    judged: Float[Tensor, "n factors"], labels: FactorTable, medians: Float[Tensor, " factors"]
) -> dict[str, dict[str, float]]:
    """Compare judged values with the known labels, per factor.

    `accuracy` and `balanced_accuracy` (mean recall of the classes that occur); a continuous factor has two classes,
    the sides of its training median, and also `r2`, 1 − Σ(judged − label)² / Σ(label − mean)². Factors without known
    labels are omitted.
    """
    table: dict[str, dict[str, float]] = {}
    for i, factor in enumerate(labels.factors):
        known = ~labels.values[:, i].isnan()
        read, label, median = judged[known, i], labels.values[known, i], medians[i].item()
        if not len(label):
            continue
        right = reached(read, label, factor, median)
        classes = label > median if factor.kind == "continuous" else label
        table[factor.name] = {
            "accuracy": right.double().mean().item(),
            "balanced_accuracy": class_recalls(right, classes).mean().item(),
        }
        spread = (label - label.mean()).square().sum().item()
        if factor.kind == "continuous" and spread > 0:
            table[factor.name]["r2"] = 1 - (read - label).square().sum().item() / spread
    return table


def judge_quality(
    judge: FactorReader, images: Shaped[Tensor, "n 3 size size"], labels: FactorTable
) -> dict[str, dict[str, float]]:
    """Score a judge on images: accuracy, balanced accuracy and, for continuous factors, r2; see `reading_quality`."""
    return reading_quality(judge.read(images).cpu(), labels, judge.median.cpu())


def unfit(quality: dict[str, dict[str, float]]) -> list[str]:
    """Return the factors that the judge predicts too poorly to measure edits: balanced accuracy below .75.

    >>> unfit({"hat": {"balanced_accuracy": 0.7}, "smile": {"balanced_accuracy": 0.9}})
    ['hat']
    """
    return [name for name, row in quality.items() if not row["balanced_accuracy"] >= UNFIT_BELOW]


def standardised(values: Float[Tensor, "n factors"], judge: Judge) -> Float[Tensor, "n factors"]:
    """Convert labels to the targets of the heads: continuous ones are standardised by the training labels."""
    columns = []
    for i, factor in enumerate(judge.factors):
        scaled = (values[:, i] - judge.mean[i]) / judge.deviation[i].clamp(min=1e-12)
        columns.append(scaled if factor.kind == "continuous" else values[:, i])
    return torch.stack(columns, dim=1)


def validation_score(judge: Judge, data: ImageData, rows: Tensor) -> float:
    """Return the balanced accuracy averaged over the factors, or 0 without validation images."""
    quality = judge_quality(judge, data.images[rows], data.factors[rows])
    return sum(row["balanced_accuracy"] for row in quality.values()) / max(len(quality), 1)


def fit(
    judge: Judge,
    data: ImageData,
    rows: Int64[Tensor, " train"],
    generator: torch.Generator,
    epochs: int,
    batch: int,
    learning_rate: float,
    flip: bool,
    stored: Path | None = None,
) -> None:
    """Train a judge in place, and keep the weights of the epoch with the highest validation score (the latest such).

    The state of the training is stored in the file `stored`, from which it goes on.
    """
    device, precision = judge.mean.device, fast_precision(judge.mean.device)
    validation = data.rows(VALIDATION)
    validation = validation[torch.randperm(len(validation), generator=generator)[:MOST_VALIDATION]]
    targets = standardised(data.factors.values.to(device), judge)
    sure = torch.ones_like(targets) if data.factors.confidence is None else data.factors.confidence.to(device)
    weights = [
        class_weights(data.factors.values[rows, i], max(len(f.values), 2)).to(device)
        if f.kind != "continuous"
        else torch.ones(1, device=device)
        for i, f in enumerate(judge.factors)
    ]
    optimiser = Muon(judge.parameters(), learning_rate, adam_rate=2e-3, weight_decay=0.05)
    rates = [group["lr"] for group in optimiser.param_groups]
    steps = epochs * math.ceil(len(rows) / batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=steps, cycle_momentum=False)
    kept: dict[str, Any] = {"best": -1.0, "weights": {}}
    parts = {"classifier": judge, "optimiser": optimiser, "schedule": schedule}
    training = Epochs(len(rows), batch, epochs, generator, parts, kept, stored)
    with saving():
        for order in with_progress(training, training.left, "Training the classifier on images", each=len(rows)):
            judge.train()
            for places in order:
                chosen = rows[places]
                images = judge.augmented(data.images[chosen].to(device), generator, flip)
                with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                    outputs = judge(images)
                losses = [
                    factor_loss(output, targets[chosen, i], judge.factors[i], weights[i], sure[chosen, i])
                    for i, output in enumerate(outputs)
                ]
                optimiser.zero_grad()
                torch.stack(losses).mean().backward()
                optimiser.step()
                schedule.step()
            score = validation_score(judge, data, validation)
            if score >= kept["best"]:
                best = {name: tensor.clone() for name, tensor in judge.state_dict().items()}
                kept.update(best=score, weights=best)
    judge.load_state_dict(kept["weights"])
    judge.eval().requires_grad_(False)


def train_judge(
    data: ImageData,
    seed: int = 0,
    epochs: int | None = None,
    width: int = 24,
    batch: int = 128,
    learning_rate: float = 1e-2,
    flip: bool = True,
    device: str | torch.device = "cpu",
    cache_dir: str | Path | None = None,
    scale: float = 1.0,
    rows: Int64[Tensor, " train"] | None = None,
    kind: type[Judge] = Judge,
    learn: Callable[..., None] | None = None,
) -> Judge:
    """Train a judge on images of the training split (all, or these `rows`), or load it from the cache.

    Global random state does not change, and on a CPU a seed gives the same judge bit for bit. By default there are as
    many `epochs` as show the `views` of its kind, a quarter as many for drawn images; `scale` below 1 shortens this, to
    at least one epoch. Set `flip=False` for factors that mirroring changes. `learn` replaces `fit`. A damaged file in
    the cache is replaced.

    Raises:
        UserError: the cache folder cannot be written.
        ValueError: `epochs` is below 1.
    """
    device, part = torch.device(device), [] if rows is None else [rows]
    rows = data.rows(TRAIN) if rows is None else rows
    seen = kind.views if data.counterfactual is None else kind.views // 4
    if epochs is None:
        epochs = max(1, round(min(scale, 1.0) * min(math.ceil(seen / max(len(rows), 1)), MOST_EPOCHS)))
    if epochs < 1:
        raise ValueError(f"Expected epochs to be at least 1, got {epochs}: None chooses them by the number of images.")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs, too
        judge = kind(data.factors.factors, factor_statistics(data.factors.values[rows]), data.size, width)
    judge = judge.to(device).to(memory_format=torch.channels_last)
    hyperparameters = (seed, epochs, width, batch, learning_rate, flip, device.type, fast_precision(device))
    labels = (data.factors.factors, data.factors.values, data.factors.confidence, data.split)
    key = fingerprint(
        code_digest(factor_classifier, kind, muon, fit, learn or fit),
        data.fingerprint,
        data.size,
        *labels,
        *hyperparameters,
        *part,
    )

    def train(stored: Path | None) -> None:
        generator, options = torch.Generator().manual_seed(seed), (epochs, batch, learning_rate, flip)
        (learn or partial(fit, stored=stored))(judge, data, rows, generator, *options)

    train_once(judge, None if cache_dir is None else Path(cache_dir).expanduser() / "judge", key, train)
    return judge
