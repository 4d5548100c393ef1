"""Speeds as ratios within one run: python -m evaluation.benchmark [what=flow] [batch=256 steps=30 rounds=15].

what=flow, how fast the flow trains. Three loops over the same pairs, in turn, in short rounds, so that the two sides of
a ratio saw the machine in the same state; medians over the rounds:

    cached     Facet's own training loop on cached latents
    encoding   the same loop, encoding both images of every pair at every step, as the public IIN code does
    bare       nothing but the FrEIA flow's forward and backward on both halves of the batch

what=extraction, how fast features are computed (architecture=ViT-B-32 images=256 batch=32 rounds=5): images from a
memory map through preprocessing and CLIP (random weights) into the cache, against nothing but CLIP's forward pass on
images that are ready.

what=search, how fast the nearest rows of a query are found (rows=1000000): exactly, in a matrix of 512 columns on disk,
against nothing but its product with the query. what=splice, how fast texts are found that rows are made of (rows=1000):
SpLiCE's solver against scikit-learn's Lasso on the same rows, 512 numbers wide, and 5,000 texts.
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
from evaluation.command import command, options
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
    what: str = "flow"
    architecture: str = "ViT-B-32"
    batch: int = 256
    steps: int = 30
    rounds: int = 15
    size: int = 64
    images: int = 2048
    rows: int | None = None
    json: bool = False


class Encoding:
    """The pair batches, with latents computed from the images at every step."""

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


def with_rows(batches: Batches) -> Batches:
    """Pair batches that also say which rows they are of."""

    def take(anchors: Tensor, partners: Tensor, factor: Tensor) -> dict[str, Tensor]:
        return batches.take(anchors, partners, factor) | {"row": anchors, "partner_row": partners}

    return Batches(batches.draw, take, batches.batch_size, batches.steps)


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
    with silent():
        pl.Trainer(max_steps=steps, devices=1, **quiet).fit(iin, batches)  # type: ignore[arg-type]  # all flags


def bare(iin: IIN, a: Tensor, b: Tensor, steps: int) -> None:
    """FrEIA's flow alone: forward and backward of both halves, in one pass, which is faster than two."""
    assert isinstance(iin.flow, Flow)  # of flat latents
    inn, both = iin.flow.inn.to(a.device), torch.cat([a, b])
    for _ in range(steps):
        codes, log_det = inn(both)
        (0.5 * codes.square().sum() - log_det.sum()).backward()
        inn.zero_grad()


def rounds(loops: dict[str, Callable[[], Any]], count: int) -> Float[Tensor, "loops rounds"]:
    """Seconds of every loop in every round, the loops in turn; a first round warms up."""
    times = [[seconds(loop) for loop in loops.values()] for _ in range(count + 1)]
    return torch.tensor(times[1:]).T


def extraction(asked: Options, device: str) -> dict[str, str | float]:
    """Images per second of the whole extraction, and of the network alone."""
    encoder = CLIP(asked.architecture, "random").to(device)
    side, n = encoder.prepare.crop, asked.images
    with TemporaryDirectory() as folder:
        file = Path(folder) / "images"
        np.random.default_rng(0).integers(0, 256, (n, 3, side, side), dtype=np.uint8).tofile(file)
        images = torch.from_file(str(file), size=n * 3 * side * side, dtype=torch.uint8).view(n, 3, side, side)
        ready = [encoder.prepare(part.to(device)) for part in images.split(asked.batch)]
        shards = Shards(Path(folder), (n, encoder.features))
        shards.open()

        def network() -> None:
            with torch.inference_mode(), half_precision(torch.device(device), on_cpu=False):
                for part in ready:
                    encoder(part)

        def whole() -> None:
            fill(images, encoder.embed, shards, list(range(shards.count)), device, asked.batch, shown=False)

        alone, all_of_it = rounds({"network": network, "extraction": whole}, asked.rounds)
    return {
        "images_per_s/network": n / float(alone.median()),
        "images_per_s/extraction": n / float(all_of_it.median()),
        "extraction_over_network": float((alone / all_of_it).median()),
    }


def search(asked: Options, device: str) -> dict[str, str | float]:
    """Milliseconds of a query, and of nothing but the product with every row; memory that is not the file's."""
    n, width, generator = 1_000_000 if asked.rows is None else asked.rows, 512, np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "rows.npy"
        values = np.lib.format.open_memmap(file, "w+", np.float32, (n, width))
        for start in range(0, n, 20_000):
            part = values[start : start + 20_000]
            part[:] = generator.standard_normal(part.shape, np.float32)
        values.flush()
        values = np.load(file, mmap_mode="r")
        query, before = generator.standard_normal((1, width), np.float32), own_memory()
        index = Index(values)
        found, alone = rounds({
            "search": lambda: index.ends(query, 10),
            "product": lambda: values @ query[0],
        }, asked.rounds)  # fmt: skip
        held = own_memory() - before
    return {
        "ms_per_query/search": 1000 * float(found.median()),
        "ms_per_query/product": 1000 * float(alone.median()),
        "product_over_search": float((alone / found).median()),
        "mib_held": held,
        "mib_of_matrix": n * width * 4 / 2**20,
    }


def own_memory() -> float:
    """MiB of this process that are no mapped file's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def splice(asked: Options, device: str) -> dict[str, str | float]:
    """Rows per second of both solvers at two penalties, and how far their weights differ at most."""
    from sklearn.linear_model import Lasso

    n, width, vocabulary = 1000 if asked.rows is None else asked.rows, 512, 5000
    torch.manual_seed(0)
    groups = torch.randn(300, width)[torch.randint(300, (vocabulary,))]  # texts that are alike, as words are
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
        theirs = lasso.fit(np.asfortranarray(texts.T.numpy()), rows.T.numpy()).coef_
        ended = time.perf_counter()
        result |= {
            f"rows_per_s/splice_{penalty}": n / (middle - started),
            f"rows_per_s/lasso_{penalty}": n / (ended - middle),
            f"splice_over_lasso_{penalty}": (ended - middle) / (middle - started),
            f"texts_per_row_{penalty}": float((own.values > 0).sum(1).float().mean()),
            f"largest_difference_{penalty}": float(np.abs(own.dense(vocabulary).numpy() - theirs).max()),
        }
    return result


def flow(asked: Options, device: str) -> dict[str, str | float]:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    pl.seed_everything(0, verbose=False)
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
    batches = with_rows(pair_batches(PairSampler(table), latents, table, asked.batch, 0, asked.steps, partners=True))
    encoding = Encoding(batches, images, vae)
    first = next(iter(batches))
    loops = {
        "cached": lambda: fit(iin, batches, asked.steps),
        "bare": lambda: bare(iin, first["mean"], first["partner_mean"], asked.steps),
        "encoding": lambda: fit(iin, encoding, asked.steps),
    }
    cached, bare_flow, encoding_too = each = rounds(loops, asked.rounds) / asked.steps
    return {
        **{f"pairs_per_s/{name}": asked.batch / float(row.median()) for name, row in zip(loops, each, strict=True)},
        "speed_up_by_cache": float((encoding_too / cached).median()),
        "step_over_bare_flow": float((cached / bare_flow).median()),
    }


def main(arguments: Sequence[str]) -> None:
    asked = options(Options, arguments)
    each = {"flow": flow, "extraction": extraction, "search": search, "splice": splice}
    check_choice("what", asked.what, tuple(each))
    if asked.rows is not None and asked.rows < 1:
        raise UserError(f"Expected rows= to be at least 1, got {asked.rows}: leave it out for the usual number.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    result = {"device": device, **each[asked.what](asked, device)}
    if asked.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:24} {value if isinstance(value, str) else f'{value:,.2f}' if value > 0.01 else f'{value:.1e}'}")


if __name__ == "__main__":
    command(main)
