"""Measure speeds as ratios within one process: python -m evaluation.benchmark [task=flow] [batch=256 steps=30].

task=flow measures the training of the flow. Three loops run over the same pairs, in turn and in short rounds, so that
both sides of a ratio meet the machine in the same state; medians over the rounds:

    cached     the training loop of Facet on cached latents
    encoding   the same loop, encoding both images of every pair at every step, as the public IIN code does
    bare       nothing but the forward and backward passes of the FrEIA flow on both halves of the batch

task=extraction measures the computation of features (architecture=ViT-B-32 images=256 batch=32 rounds=5): images from a
memory map through preprocessing and CLIP (random weights) into the cache, against nothing but the forward pass of CLIP
on preprocessed images.

task=search measures exact nearest-neighbour search (rows=1000000) in a matrix of 512 columns on disk, against nothing
but the product of the matrix with the query. task=splice measures sparse decomposition into texts (rows=1000): the
solver of SpLiCE against the Lasso of scikit-learn on the same rows of 512 numbers and 5,000 texts.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from datamodules.batches import Batches
from datamodules.faces import FACTORS, render, sample_parameters
from datamodules.factors import FactorTable
from datamodules.feature_cache import Shards, fill
from datamodules.features import Latents
from datamodules.pairs import PairSampler, pair_batches
from evaluation.command import command, option, parse_options
from evaluation.embeddings.search import Index
from models import UserError, check_choice
from models.clip import CLIP
from models.flow import Flow
from models.iin import IIN
from models.precision import half_precision
from models.splice import nonnegative_lasso
from models.vae import VAE
from training.fit import quiet as silent


@dataclass
class Options:
    """Options, given as key=value."""

    task: str = option("flow", "what is measured: flow, extraction, search or splice", former="what")
    architecture: str = option("ViT-B-32", "CLIP architecture of task=extraction")
    batch: int = option(256, "images or pairs per batch")
    steps: int = option(30, "training steps per round of task=flow")
    rounds: int = option(15, "rounds whose median is taken")
    size: int = option(64, "side of the images of task=flow, in pixels")
    images: int = option(2048, "number of images of task=flow and task=extraction")
    rows: int | None = option(None, "rows of task=search and task=splice (default: 1000000 and 1000)")
    json: bool = option(False, "print one JSON object instead of a table")


class EncodingBatches:
    """Pair batches whose latents are computed from the images at every step."""

    def __init__(self, batches: Batches, images: Tensor, vae: VAE) -> None:
        self.batches, self.images, self.vae = batches, images, vae

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.batches:
            with torch.no_grad():
                mean, logvar = self.vae.encode(self.images[batch["row"]])
                other, other_logvar = self.vae.encode(self.images[batch["partner_row"]])
            yield batch | {"mean": mean, "logvar": logvar, "partner_mean": other, "partner_logvar": other_logvar}


def with_row_numbers(batches: Batches) -> Batches:
    """Add the row numbers of their images to pair batches."""

    def take(anchors: Tensor, partners: Tensor, factor: Tensor) -> dict[str, Tensor]:
        return batches.take(anchors, partners, factor) | {"row": anchors, "partner_row": partners}

    return Batches(batches.draw, take, batches.batch_size, batches.steps)


def seconds(work: Callable[[], Any]) -> float:
    """Measure the wall-clock seconds of a function, waiting for the device to finish."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def fit(iin: IIN, batches: Any, steps: int) -> None:
    """Train an IIN for a number of steps, without logs and checkpoints."""
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    with silent():
        pl.Trainer(max_steps=steps, devices=1, **quiet).fit(iin, batches)  # type: ignore[arg-type]  # all flags


def bare(iin: IIN, a: Tensor, b: Tensor, steps: int) -> None:
    """Run the FrEIA flow alone, forward and backward: both halves in one pass, which is faster than two."""
    assert isinstance(iin.flow, Flow)  # of flat latents
    inn, both = iin.flow.inn.to(a.device), torch.cat([a, b])
    for _ in range(steps):
        codes, log_det = inn(both)
        (0.5 * codes.square().sum() - log_det.sum()).backward()
        inn.zero_grad()


def rounds(loops: dict[str, Callable[[], Any]], count: int) -> Float[Tensor, "loops rounds"]:
    """Measure the seconds of every loop in every round, the loops in turn; a first round warms up."""
    times = [[seconds(loop) for loop in loops.values()] for _ in range(count + 1)]
    return torch.tensor(times[1:]).T


def extraction(options: Options, device: str) -> dict[str, str | float]:
    """Measure the images per second of the whole extraction, and of the network alone."""
    encoder = CLIP(options.architecture, "random").to(device)
    side, n = encoder.prepare.crop, options.images
    with TemporaryDirectory() as folder:
        file = Path(folder) / "images"
        np.random.default_rng(0).integers(0, 256, (n, 3, side, side), dtype=np.uint8).tofile(file)
        images = torch.from_file(str(file), size=n * 3 * side * side, dtype=torch.uint8).view(n, 3, side, side)
        ready = [encoder.prepare(part.to(device)) for part in images.split(options.batch)]
        shards = Shards(Path(folder), (n, encoder.features))
        shards.open()

        def network() -> None:
            with torch.inference_mode(), half_precision(torch.device(device), on_cpu=False):
                for part in ready:
                    encoder(part)

        def whole() -> None:
            fill(images, encoder.embed, shards, list(range(shards.count)), device, options.batch, shown=False)

        alone, all_of_it = rounds({"network": network, "extraction": whole}, options.rounds)
    return {
        "images_per_s/network": n / float(alone.median()),
        "images_per_s/extraction": n / float(all_of_it.median()),
        "extraction_over_network": float((alone / all_of_it).median()),
    }


def search(options: Options, device: str) -> dict[str, str | float]:
    """Measure the milliseconds of a query and of its product with every row, and the memory beside the mapped file."""
    n, width, generator = 1_000_000 if options.rows is None else options.rows, 512, np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "rows.npy"
        values = np.lib.format.open_memmap(file, "w+", np.float32, (n, width))
        for start in range(0, n, 20_000):
            part = values[start : start + 20_000]
            part[:] = generator.standard_normal(part.shape, np.float32)
        values.flush()
        values = np.load(file, mmap_mode="r")
        query, before = generator.standard_normal((1, width), np.float32), private_memory()
        index = Index(values)
        found, alone = rounds({
            "search": lambda: index.ends(query, 10),
            "product": lambda: values @ query[0],
        }, options.rounds)  # fmt: skip
        held = private_memory() - before
    return {
        "ms_per_query/search": 1000 * float(found.median()),
        "ms_per_query/product": 1000 * float(alone.median()),
        "product_over_search": float((alone / found).median()),
        "mib_held": held,
        "mib_of_matrix": n * width * 4 / 2**20,
    }


def private_memory() -> float:
    """Return the MiB of this process without memory-mapped files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def splice(options: Options, device: str) -> dict[str, str | float]:
    """Measure the rows per second of both solvers at two penalties, and the largest difference of their weights."""
    from sklearn.linear_model import Lasso

    n, width, vocabulary = 1000 if options.rows is None else options.rows, 512, 5000
    torch.manual_seed(0)
    groups = torch.randn(300, width)[torch.randint(300, (vocabulary,))]  # similar texts, as the words of a topic are
    texts = normalize(groups + 0.7 * torch.randn(vocabulary, width), dim=1)
    weights = torch.relu(torch.randn(n, vocabulary)) * (torch.rand(n, vocabulary) < 0.003)
    rows = normalize(weights @ texts + 0.02 * torch.randn(n, width), dim=1)
    result: dict[str, str | float] = {}
    for penalty in (0.1, 0.03):
        lasso = Lasso(alpha=penalty / width, positive=True, fit_intercept=False, tol=1e-6, max_iter=10_000)
        own = nonnegative_lasso(rows[:32], texts, penalty)  # warms up
        started = time.perf_counter()
        own = nonnegative_lasso(rows, texts, penalty)
        middle = time.perf_counter()
        reference = lasso.fit(np.asfortranarray(texts.T.numpy()), rows.T.numpy()).coef_
        ended = time.perf_counter()
        result |= {
            f"rows_per_s/splice_{penalty}": n / (middle - started),
            f"rows_per_s/lasso_{penalty}": n / (ended - middle),
            f"splice_over_lasso_{penalty}": (ended - middle) / (middle - started),
            f"texts_per_row_{penalty}": float((own.values > 0).sum(1).float().mean()),
            f"largest_difference_{penalty}": float(np.abs(own.dense(vocabulary).numpy() - reference).max()),
        }
    return result


def flow(options: Options, device: str) -> dict[str, str | float]:
    """Measure the pairs per second of the training loop with and without cached latents, and of the bare flow."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    pl.seed_everything(0, verbose=False)
    scenes = sample_parameters(options.images, 0)
    images = torch.cat([render(scenes.rows(slice(i, i + 64)), options.size) for i in range(0, options.images, 64)]).to(
        device
    )
    vae = VAE(size=options.size).eval().to(device)
    with torch.no_grad():
        encoded = [vae.encode(part) for part in images.split(256)]
    latents = Latents(*(torch.cat(part) for part in zip(*encoded, strict=True)))
    table = FactorTable(FACTORS, scenes.factors)
    iin = IIN(64, [(f.name, f.kind, list(f.values)) for f in FACTORS], objective="likelihood")
    iin.start(latents.mean.cpu(), latents.logvar.cpu(), table.values)
    pairs = pair_batches(PairSampler(table), latents, table, options.batch, 0, options.steps, partners=True)
    batches = with_row_numbers(pairs)
    encoding = EncodingBatches(batches, images, vae)
    first = next(iter(batches))
    loops = {
        "cached": lambda: fit(iin, batches, options.steps),
        "bare": lambda: bare(iin, first["mean"], first["partner_mean"], options.steps),
        "encoding": lambda: fit(iin, encoding, options.steps),
    }
    cached, bare_flow, encoding_too = each = rounds(loops, options.rounds) / options.steps
    return {
        **{f"pairs_per_s/{name}": options.batch / float(row.median()) for name, row in zip(loops, each, strict=True)},
        "speed_up_by_cache": float((encoding_too / cached).median()),
        "step_over_bare_flow": float((cached / bare_flow).median()),
    }


def main(arguments: Sequence[str]) -> None:
    """Measure one task and print its numbers."""
    options = parse_options(Options, arguments)
    tasks = {"flow": flow, "extraction": extraction, "search": search, "splice": splice}
    check_choice("task", options.task, tuple(tasks))
    if options.rows is not None and options.rows < 1:
        raise UserError(f"Expected rows= to be at least 1, got {options.rows}: leave it out for the usual number.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    result = {"device": device, **tasks[options.task](options, device)}
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:24} {value if isinstance(value, str) else f'{value:,.2f}' if value > 0.01 else f'{value:.1e}'}")


if __name__ == "__main__":
    command(main, Options)
