"""Test methods on synthetic data with a known answer: python -m evaluation.planted [seeds=5] [json=true].

Mean and standard deviation over seeds of:

    linear MDS      from a random start, on rows that are symmetric about their axes: the largest angle, in degrees,
                    between its map and the principal components, where its optimum lies
    flat            5 dimensions and a little noise in 32, reduced to 5: the share of the 10 nearest neighbours that are
                    kept. PCA is the answer
    ribbon          a plane that is bent to three quarters of a cylinder, in 32 dimensions, reduced to 2: the share of
                    the 10 nearest neighbours on the plane that are kept. No linear map has the answer
    SAE, SpLiCE     rows that are sums of 3 of 48 directions, or of 5 of 1,000 texts: F1 of the support
    Lasso           largest difference between the weights of SpLiCE and of the Lasso of scikit-learn
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from datamodules.batches import row_batches
from evaluation.command import command, json_only, option, parse_options
from evaluation.reduction.metrics import overlap
from models import UserError
from models.mds import NeuralMDS
from models.neighbours import nearest
from models.reduction import fit_reduction, pca
from models.sae import SAE, Codes, combination
from models.splice import nonnegative_lasso, penalty_at
from training.files import jsonable
from training.fit import STEPS_PER_EPOCH

__all__ = [
    "atoms",
    "bent",
    "largest_angle",
    "main",
    "matched",
    "mixed",
    "recovered",
    "support_f1",
    "symmetric",
    "train",
    "words",
]

WIDE = 32  # dimensions that the flat rows and the ribbon are embedded in
NEAREST = 10


def train(module: Any, rows: Tensor, steps: int, batch: int, seed: int = 0) -> Any:
    """Initialise a module on the rows and train it on the CPU, without writing files."""
    key = "features" if isinstance(module, SAE) else "x"
    quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    module.start(rows)
    trainer = pl.Trainer(accelerator="cpu", max_steps=steps, max_epochs=-1, enable_model_summary=False, **quiet)
    trainer.fit(module, row_batches({key: rows}, batch, seed, torch.arange(len(rows)), min(steps, STEPS_PER_EPOCH)))
    return module.eval()


def symmetric(seed: int = 0) -> Float[Tensor, "32000 5"]:
    """Draw rows whose set is invariant under reflection of any axis, with axes of different lengths, rotated."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(1000, 5, generator=generator) * torch.tensor([3.0, 2.0, 0.8, 0.6, 0.5])
    signs = torch.tensor(list(product((-1.0, 1.0), repeat=5)))
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    return (points[:, None] * signs).flatten(0, 1) @ rotation.T


def largest_angle(a: Float[Tensor, "d k"], b: Float[Tensor, "d k"]) -> float:
    """Return the largest principal angle between the column spaces of two matrices, in degrees."""
    cosines = torch.linalg.svdvals(torch.linalg.qr(a.double()).Q.T @ torch.linalg.qr(b.double()).Q)
    return math.degrees(math.acos(min(1.0, float(cosines.min()))))


def wide(rows: Float[Tensor, "n d"], generator: torch.Generator, noise: float) -> Float[Tensor, "n 32"]:
    """Embed rows in 32 dimensions by a random rotation, with noise in all of them."""
    axes = torch.linalg.qr(torch.randn(WIDE, WIDE, generator=generator)).Q[: rows.shape[1]]
    return rows @ axes + noise * torch.randn(len(rows), WIDE, generator=generator)


def flat(seed: int = 0, n: int = 2000) -> tuple[Float[Tensor, "n 5"], Float[Tensor, "n 32"]]:
    """Draw Gaussian rows of five dimensions, and return them with their noisy embedding."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, 5, generator=generator) * torch.tensor([3.0, 2.5, 2.0, 1.5, 1.0])
    return rows, wide(rows, generator, 0.02)


def bent(seed: int = 0, n: int = 2000) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 32"]]:
    """Draw points on a plane, and return them with the plane bent around an axis by three quarters of a turn."""
    generator = torch.Generator().manual_seed(seed)
    angle, height = 4.7 * torch.rand(n, generator=generator), 2 * torch.rand(n, generator=generator)
    return torch.stack([angle, height], 1), wide(torch.stack([angle.cos(), angle.sin(), height], 1), generator, 0.005)


def kept(places: Float[Tensor, "n k"], codes: Float[Tensor, "n d"]) -> float:
    """Return the share of the nearest neighbours of the points that are nearest neighbours of the codes."""
    true, found = (nearest(x, x, NEAREST, "euclidean", own=torch.arange(len(x))).rows for x in (places, codes))
    return float(overlap(true, found, (NEAREST,)).mean())


def atoms(seed: int = 0, n: int = 4000, d: int = 32, count: int = 48,
          k: int = 3) -> tuple[Float[Tensor, "n d"], Float[Tensor, "count d"], Int64[Tensor, "n k"]]:  # fmt: skip
    """Draw rows that are sums of k directions around a mean, and return them with the directions and the supports."""
    generator = torch.Generator().manual_seed(seed)
    directions = normalize(torch.randn(count, d, generator=generator), dim=1)
    support = torch.rand(n, count, generator=generator).argsort(1)[:, :k]
    values = 1 + torch.rand(n, k, generator=generator)
    noise = 0.01 * torch.randn(n, d, generator=generator)
    return combination(Codes(values, support), directions) + noise + 3, directions, support


def words(count: int, d: int, groups: int, spread: float = 0.7, seed: int = 0) -> Float[Tensor, "count d"]:
    """Draw unit vectors in clusters, as the words of one topic are."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(groups, d, generator=generator)
    own = torch.randint(groups, (count,), generator=generator)
    return normalize(centres[own] + spread * torch.randn(count, d, generator=generator), dim=1)


def mixed(directions: Float[Tensor, "count d"], n: int, k: int, noise: float = 0.02,
          seed: int = 1) -> tuple[Float[Tensor, "n d"], Int64[Tensor, "n k"]]:  # fmt: skip
    """Draw unit rows that are sums of k texts with weights from 1 to 2, and return them with their supports."""
    generator = torch.Generator().manual_seed(seed)
    support = torch.rand(n, len(directions), generator=generator).argsort(1)[:, :k]
    rows = combination(Codes(1 + torch.rand(n, k, generator=generator), support), directions)
    return normalize(rows + noise * torch.randn(rows.shape, generator=generator), dim=1), support


def support_f1(codes: Codes, support: Int64[Tensor, "n k"]) -> float:
    """Return the F1 score of the recovered supports: 2 |found ∩ true| / (|found| + |true|), over all rows together."""
    found = torch.where(codes.values > 0, codes.units, -1)
    correct = int((found[:, :, None] == support[:, None, :]).sum())
    return 2 * correct / (int((codes.values > 0).sum()) + support.numel())


def matched(codes: Codes, found: Float[Tensor, "units d"], directions: Float[Tensor, "count d"]) -> Codes:
    """Renumber the units of codes as the planted directions, matched one to one by their cosine."""
    from scipy.optimize import linear_sum_assignment

    planted, units = linear_sum_assignment(-(directions @ found.T).numpy())
    place = torch.full((len(found),), -1)
    place[torch.from_numpy(units)] = torch.from_numpy(planted)
    return Codes(codes.values, place[codes.units])


def linear_mds(seed: int) -> dict[str, float]:
    """Measure the angle between linear neural MDS and PCA."""
    rows = symmetric(seed)
    module = NeuralMDS(5, 2, hidden=[], initial="random", learning_rate=0.1)
    train(module, rows, 400, 200, seed)
    weight: Any = module.linear[0].weight
    return {"linear MDS: degrees from PCA": largest_angle(weight.detach().T, pca(rows).weight[0, :, :2])}


def reductions(name: str, make: Callable[[int], tuple[Tensor, Tensor]], seed: int) -> dict[str, float]:
    """Measure the neighbours kept by PCA, a random projection, and both neural MDS with random and k-NN pairs."""
    places, rows = make(seed)
    width = places.shape[1]
    found = {method: fit_reduction(method, rows, None, "euclidean", seed)(rows)[:, :width]
             for method in ("pca", "gaussian_projection")}  # fmt: skip
    neural: dict[str, dict[str, Any]] = {
        "isometric": {}, "isotonic": {"objective": "isotonic"},
        "isometric, knn": {"pairs": "knn"}, "isotonic, knn": {"objective": "isotonic", "pairs": "knn"},
    }  # fmt: skip
    for method, settings in neural.items():
        module = train(NeuralMDS(WIDE, width, **settings), rows, 1000, 256, seed)
        with torch.no_grad():
            found[method] = module(rows)
    return {f"{name}: kept by {method}": kept(places, codes) for method, codes in found.items()}


def sae(seed: int) -> dict[str, float]:
    """Measure how well sparse auto-encoders recover the support of planted directions."""
    rows, directions, support = atoms(seed)
    found = {}
    for name, active in (("TopK", 3), ("Matryoshka", [1, 3])):
        module = train(SAE(32, expansion=2, active=active, learning_rate=0.01), rows, 700, 256, seed)
        codes = matched(module.encode(rows), module.directions.detach(), directions)
        found[f"SAE, {name}: support F1"] = support_f1(codes, support)
    return found


def splice(seed: int) -> dict[str, float]:
    """Measure how well SpLiCE recovers the support of planted texts, and its difference from the Lasso."""
    from sklearn.linear_model import Lasso

    directions = words(1000, 256, 1000, seed=seed)
    rows, support = mixed(directions, 300, 5, seed=seed + 1)
    penalty = penalty_at(rows, directions, 5)
    codes = nonnegative_lasso(rows, directions, penalty)
    lasso = Lasso(alpha=penalty / 256, positive=True, fit_intercept=False, tol=1e-10, max_iter=100_000)
    reference = lasso.fit(np.asfortranarray(directions.T.double().numpy()), rows.T.double().numpy()).coef_
    return {
        "SpLiCE: support F1": support_f1(codes, support),
        "SpLiCE: difference from Lasso": float(np.abs(codes.dense(1000).numpy() - reference).max()),
    }


def recovered(seeds: int = 5) -> pd.DataFrame:
    """Run every test over seeds, and return the mean and standard deviation of each number."""
    tests: list[Callable[[int], dict[str, float]]] = [
        linear_mds, lambda seed: reductions("flat", flat, seed), lambda seed: reductions("ribbon", bent, seed),
        sae, splice,
    ]  # fmt: skip
    found = []
    for seed in range(seeds):
        row: dict[str, float] = {}
        for test in tests:
            pl.seed_everything(seed, verbose=False)
            row |= test(seed)
        found.append(row)
    return pd.DataFrame(found).agg(["mean", "std"]).T.rename(columns={"std": "sd"})


@dataclass
class Options:
    """Options, given as key=value."""

    seeds: int = option(5, "number of seeds")
    json: bool = option(False, "print one JSON object instead of a table")


def main(arguments: Sequence[str]) -> None:
    """Run the tests and print their numbers."""
    options = parse_options(Options, arguments)
    if options.seeds < 1:
        raise UserError(f"Expected seeds= of at least 1, got {options.seeds}.")
    with json_only(options.json):
        table = recovered(options.seeds)
    print(
        json.dumps(jsonable(table.to_dict("index"))) if options.json else table.to_string(float_format="{:.4g}".format)
    )


if __name__ == "__main__":
    command(main, Options)
