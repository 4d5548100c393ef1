"""How fast the flow trains, as ratios within one run: python -m evaluation.benchmark [batch=256 steps=30 rounds=15].

Three loops over the same pairs, in turn, in short rounds, so that the two sides of a ratio saw the machine in the same
state; medians over the rounds:

    cached     Facet's own training loop on cached latents
    encoding   the same loop, encoding both images of every pair at every step, as the public IIN code does
    bare       nothing but the FrEIA flow's forward and backward on both halves of the batch
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules.faces import FACTORS, render, sample_parameters
from datamodules.factors import FactorTable
from datamodules.features import Latents
from datamodules.pairs import PairBatches, PairSampler
from evaluation.command import command, options
from models.iin import IIN
from models.vae import VAE


@dataclass
class Options:
    batch: int = 256
    steps: int = 30
    rounds: int = 15
    size: int = 64
    images: int = 2048
    json: bool = False


class Encoding:
    """The pair batches, with latents computed from the images at every step."""

    def __init__(self, batches: PairBatches, images: Tensor, vae: VAE) -> None:
        self.batches, self.images, self.vae = batches, images, vae

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.batches:
            with torch.no_grad():
                mean, logvar = self.vae.encode(self.images[batch["row"]])
                other, other_logvar = self.vae.encode(self.images[batch["partner_row"]])
            yield batch | {"mean": mean, "logvar": logvar, "partner_mean": other, "partner_logvar": other_logvar}


class Rows(PairBatches):
    """Pair batches that also say which rows they are of."""

    def batch(self, anchors: Tensor, partners: Tensor, factor: Tensor) -> dict[str, Tensor]:
        return super().batch(anchors, partners, factor) | {"row": anchors, "partner_row": partners}


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock seconds, the device's queue included."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def fit(iin: IIN, batches: Any, steps: int) -> None:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    pl.Trainer(max_steps=steps, devices=1, **quiet).fit(iin, batches)  # type: ignore[arg-type]  # all flags


def bare(iin: IIN, a: Tensor, b: Tensor, steps: int) -> None:
    """FrEIA's flow alone: forward and backward of both halves, in one pass, which is faster than two."""
    inn, both = iin.flow.inn.to(a.device), torch.cat([a, b])
    for _ in range(steps):
        codes, log_det = inn(both)
        (0.5 * codes.square().sum() - log_det.sum()).backward()
        inn.zero_grad()


def main(arguments: Sequence[str]) -> None:
    asked = options(Options, arguments)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    pl.seed_everything(0, verbose=False)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scenes = sample_parameters(asked.images, 0)
    images = torch.cat([render(scenes.rows(slice(i, i + 64)), asked.size) for i in range(0, asked.images, 64)]).to(
        device
    )
    vae = VAE(size=asked.size).eval().to(device)
    with torch.no_grad():
        encoded = [vae.encode(part) for part in images.split(256)]
    latents = Latents(*(torch.cat(part) for part in zip(*encoded, strict=True)))
    table = FactorTable(FACTORS, scenes.factors)
    iin = IIN(64, [(f.name, f.kind, list(f.values)) for f in FACTORS], objective="likelihood")
    iin.start(latents.mean.cpu(), latents.logvar.cpu(), table.values)
    batches = Rows(PairSampler(table), latents, table, asked.batch, 0, asked.steps, partners=True)
    encoding = Encoding(batches, images, vae)
    first = next(iter(batches))
    loops = {
        "cached": lambda: fit(iin, batches, asked.steps),
        "bare": lambda: bare(iin, first["mean"], first["partner_mean"], asked.steps),
        "encoding": lambda: fit(iin, encoding, asked.steps),
    }
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(asked.rounds + 1):
        for name, loop in loops.items():
            times[name].append(seconds(loop))
    rounds = torch.tensor([times[name][1:] for name in loops]) / asked.steps  # the first round warms up
    cached, bare_flow, encoding_too = rounds
    result = {
        "device": device,
        **{f"pairs_per_s/{name}": asked.batch / float(row.median()) for name, row in zip(loops, rounds, strict=True)},
        "speed_up_by_cache": float((encoding_too / cached).median()),
        "step_over_bare_flow": float((cached / bare_flow).median()),
    }
    if asked.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:24} {value if isinstance(value, str) else f'{value:,.2f}'}")


if __name__ == "__main__":
    command(main)
