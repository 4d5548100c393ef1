"""Train the oracle, a regression between latents, on true counterfactual pairs: an upper bound for edits.

Only drawn data have such pairs. The oracle is trained on training scenes with one factor changed; its score on test
scenes is what an editor of these latents can be expected to reach.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from datamodules.cache import code_digest, fingerprint
from datamodules.factors import ImageData
from datamodules.progress import with_progress
from models.interfaces import ImageEncoder
from models.labels import Factor, factor_statistics
from models.oracle import Oracle
from models.precision import half_precision
from training.interrupt import saving
from training.partials import Epochs, train_once

__all__ = ["counterfactual_latents", "other_class", "train_oracle"]


def counterfactual_latents(
    data: ImageData,
    encoder: ImageEncoder,
    rows: Int64[Tensor, " n"],
    factor: str,
    values: Float[Tensor, " n"],
    device: torch.device,
    batch: int = 256,
) -> Float[Tensor, "n features"]:
    """Return E(x'), the posterior means of the same scenes drawn with that factor at these values."""
    if data.counterfactual is None:
        raise ValueError(f"The scenes of {data.name} are not known, so they have no counterfactuals.")
    with torch.no_grad():
        parts = [
            encoder.encode(data.counterfactual(some, factor, wanted).to(device))[0]
            for some, wanted in zip(rows.split(batch), values.split(batch), strict=True)
        ]
    return torch.cat(parts)


def other_class(
    values: Float[Tensor, " n"], classes: Float[Tensor, " classes"], generator: torch.Generator
) -> Float[Tensor, " n"]:
    """Draw for each value another one of the classes (sorted, two or more), uniformly.

    >>> other_class(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), torch.Generator())
    tensor([1., 0.])
    """
    step = torch.randint(1, len(classes), values.shape, generator=generator)
    return classes[(torch.searchsorted(classes, values.contiguous()) + step) % len(classes)]


def draw_targets(
    values: Float[Tensor, "n factors"], factors: Sequence[Factor], generator: torch.Generator
) -> tuple[Int64[Tensor, " n"], Float[Tensor, " n"]]:
    """Draw for each row one of its labelled factors (-1 if there is none) and another value of that factor.

    Values of continuous factors are permuted between rows.
    """
    known = ~values.isnan()
    lots = torch.rand(values.shape, generator=generator).masked_fill(~known, -1.0)
    which = torch.where(known.any(1), lots.argmax(1), -1)
    target = torch.full((len(values),), torch.nan)
    for i, factor in enumerate(factors):
        rows = (which == i).nonzero().flatten()
        present = values[rows, i]
        if factor.kind == "continuous":
            target[rows] = present[torch.randperm(len(rows), generator=generator)]
        else:
            target[rows] = other_class(present, present.unique(), generator)
    return which, target


def regress(
    oracle: Oracle,
    pairs: Sequence[Tensor],
    generator: torch.Generator,
    epochs: int,
    batch: int,
    learning_rate: float,
    stored: Path | None = None,
) -> None:
    """Train an oracle in place on (latents, edited latents, factor, value).

    The state of the training is stored in the file `stored`, from which it goes on.
    """
    device = oracle.mean.device
    before, after = ((latents - oracle.mean) / oracle.deviation for latents in pairs[:2])
    which, value = (part.to(device) for part in pairs[2:])
    optimiser = torch.optim.Adam(oracle.parameters(), learning_rate, fused=True)
    steps = epochs * -(-len(before) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    parts, each = {"oracle": oracle, "optimiser": optimiser, "schedule": schedule}, max(len(before), 1)
    training = Epochs(len(before), batch, epochs, generator, parts, {}, stored)
    with saving():
        for order in with_progress(training, max(training.left, each), "Training the oracle on pairs", each=each):
            for chosen in order:
                rows = chosen.to(device)
                with half_precision(device):
                    move = oracle(before[rows], which[rows], value[rows])
                loss = functional.smooth_l1_loss(move.float(), after[rows] - before[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    oracle.eval().requires_grad_(False)


def train_oracle(
    data: ImageData,
    encoder: ImageEncoder,
    latents: Float[Tensor, "n features"],
    rows: Int64[Tensor, " n"],
    seed: int = 0,
    size: int = 10_000,
    epochs: int = 20,
    batch: int = 256,
    learning_rate: float = 2e-3,
    width: int = 512,
    cache_dir: str | Path | None = None,
) -> Oracle:
    """Train the oracle on `size` training scenes, each redrawn with one factor changed, in both directions.

    `latents` are the posterior means of the data's rows `rows`. The loss is smooth L1 in standardised latents, the
    optimiser Adam with a cosine schedule. Global random state does not change. The oracle and the state of its training
    are stored in the cache folder.

    Raises:
        UserError: weights that are not finite; the cache folder cannot be written.
    """
    generator = torch.Generator().manual_seed(seed)
    statistics = factor_statistics(data.factors.values[rows])
    mean, deviation = latents.mean(0), latents.std(0).clamp(min=1e-6)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs, too
        oracle = Oracle(data.factors.factors, statistics, mean.cpu(), deviation.cpu(), width).to(latents.device)

    chosen = torch.randperm(len(rows), generator=generator)[:size]
    values = data.factors.values[rows[chosen]]
    which, target = draw_targets(values, data.factors.factors, generator)
    chosen, values, which, target = (part[which >= 0] for part in (chosen, values, which, target))
    before = latents[chosen.to(latents.device)]
    after = torch.empty_like(before)
    for i, factor in enumerate(data.factors.factors):
        some = (which == i).nonzero().flatten()
        if len(some):
            redrawn = counterfactual_latents(
                data, encoder, rows[chosen[some]], factor.name, target[some], latents.device
            )
            after[some.to(latents.device)] = redrawn
    present = values.gather(1, which[:, None])[:, 0]
    pairs = [torch.cat(both) for both in ((before, after), (after, before), (which, which), (target, present))]
    options = epochs, batch, learning_rate
    key = fingerprint("oracle", code_digest(Oracle, regress), *pairs, seed, width, *options, latents.device.type)
    folder = None if cache_dir is None else Path(cache_dir).expanduser() / "oracle"
    train_once(oracle, folder, key, lambda stored: regress(oracle, pairs, generator, *options, stored=stored))
    return oracle
