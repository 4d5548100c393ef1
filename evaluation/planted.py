"""Known answers found again: python -m evaluation.planted [seeds=5] [json=true].

Data are made so that the answer is known, then given to the methods as they are; mean and sd over seeds. Rows:

    linear MDS      started at random, on rows that are symmetric about their axes: the largest angle, in degrees,
                    between its map and the principal components, where its optimum lies
    flat            5 dimensions and a little noise in 32, reduced to 5: the share of the 10 nearest rows that stay.
                    PCA is the answer
    ribbon          a plane that is bent to three quarters of a cylinder, in 32 dimensions, reduced to 2: the share of
                    the 10 nearest rows on the plane that are nearest in the reduction. No linear map has the answer
    SAE, SpLiCE     rows made of 3 of 48 directions, of 5 of 1,000 texts: F1 of which ones (support_f1)
    Lasso           largest difference of SpLiCE's weights from scikit-learn's
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
from evaluation.command import aside, command, options
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

WIDE = 32  # dimensions that the flat rows and the ribbon are put into
NEAREST = 10


def train(module: Any, rows: Tensor, steps: int, batch: int, seed: int = 0) -> Any:
    """On the CPU, from its start and without a trace on disk."""
    key = "features" if isinstance(module, SAE) else "x"
    quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    module.start(rows)
    trainer = pl.Trainer(accelerator="cpu", max_steps=steps, max_epochs=-1, enable_model_summary=False, **quiet)
    trainer.fit(module, row_batches({key: rows}, batch, seed, torch.arange(len(rows)), min(steps, STEPS_PER_EPOCH)))
    return module.eval()


def symmetric(seed: int = 0) -> Float[Tensor, "32000 5"]:
    """Rows that any reflection along an axis maps to rows, with axes of different lengths, rotated at random."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(1000, 5, generator=generator) * torch.tensor([3.0, 2.0, 0.8, 0.6, 0.5])
    signs = torch.tensor(list(product((-1.0, 1.0), repeat=5)))
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    return (points[:, None] * signs).flatten(0, 1) @ rotation.T


def largest_angle(a: Float[Tensor, "d k"], b: Float[Tensor, "d k"]) -> float:
    """Between two subspaces given by columns, in degrees."""
    cosines = torch.linalg.svdvals(torch.linalg.qr(a.double()).Q.T @ torch.linalg.qr(b.double()).Q)
    return math.degrees(math.acos(min(1.0, float(cosines.min()))))


def wide(rows: Float[Tensor, "n d"], generator: torch.Generator, noise: float) -> Float[Tensor, "n 32"]:
    """The rows in more dimensions, rotated at random, with noise in all of them."""
    axes = torch.linalg.qr(torch.randn(WIDE, WIDE, generator=generator)).Q[: rows.shape[1]]
    return rows @ axes + noise * torch.randn(len(rows), WIDE, generator=generator)


def flat(seed: int = 0, n: int = 2000) -> tuple[Float[Tensor, "n 5"], Float[Tensor, "n 32"]]:
    """Gaussian rows of five dimensions, and what is given of them."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, 5, generator=generator) * torch.tensor([3.0, 2.5, 2.0, 1.5, 1.0])
    return rows, wide(rows, generator, 0.02)


def bent(seed: int = 0, n: int = 2000) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 32"]]:
    """Places on a plane, and what is given of them: the plane bent around an axis, by three quarters of a turn."""
    generator = torch.Generator().manual_seed(seed)
    angle, height = 4.7 * torch.rand(n, generator=generator), 2 * torch.rand(n, generator=generator)
    return torch.stack([angle, height], 1), wide(torch.stack([angle.cos(), angle.sin(), height], 1), generator, 0.005)


def kept(places: Float[Tensor, "n k"], codes: Float[Tensor, "n d"]) -> float:
    """The share of the nearest rows by place that are nearest by code."""
    near, found = (nearest(x, x, NEAREST, "euclidean", own=torch.arange(len(x))).rows for x in (places, codes))
    return float(overlap(near, found, (NEAREST,)).mean())


def atoms(seed: int = 0, n: int = 4000, d: int = 32, count: int = 48,
          k: int = 3) -> tuple[Float[Tensor, "n d"], Float[Tensor, "count d"], Int64[Tensor, "n k"]]:  # fmt: skip
    """Rows that are sums of k directions each, around a mean; the directions, and which of them each row has."""
    generator = torch.Generator().manual_seed(seed)
    directions = normalize(torch.randn(count, d, generator=generator), dim=1)
    support = torch.rand(n, count, generator=generator).argsort(1)[:, :k]
    values = 1 + torch.rand(n, k, generator=generator)
    noise = 0.01 * torch.randn(n, d, generator=generator)
    return combination(Codes(values, support), directions) + noise + 3, directions, support


def words(count: int, d: int, groups: int, spread: float = 0.7, seed: int = 0) -> Float[Tensor, "count d"]:
    """Unit vectors in groups of near ones, as words of one topic are."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(groups, d, generator=generator)
    own = torch.randint(groups, (count,), generator=generator)
    return normalize(centres[own] + spread * torch.randn(count, d, generator=generator), dim=1)


def mixed(directions: Float[Tensor, "count d"], n: int, k: int, noise: float = 0.02,
          seed: int = 1) -> tuple[Float[Tensor, "n d"], Int64[Tensor, "n k"]]:  # fmt: skip
    """Unit sums of k texts, weights 1 to 2, and the texts of each."""
    generator = torch.Generator().manual_seed(seed)
    support = torch.rand(n, len(directions), generator=generator).argsort(1)[:, :k]
    rows = combination(Codes(1 + torch.rand(n, k, generator=generator), support), directions)
    return normalize(rows + noise * torch.randn(rows.shape, generator=generator), dim=1), support


def support_f1(codes: Codes, support: Int64[Tensor, "n k"]) -> float:
    """Return the F1 score of the recovered supports: 2 |found ∩ true| / (|found| + |true|), over all rows together."""
    guessed = torch.where(codes.values > 0, codes.units, -1)
    right = int((guessed[:, :, None] == support[:, None, :]).sum())
    return 2 * right / (int((codes.values > 0).sum()) + support.numel())


def matched(codes: Codes, found: Float[Tensor, "units d"], directions: Float[Tensor, "count d"]) -> Codes:
    """Codes in numbers of the planted directions, units being matched to them one to one by their cosine."""
    from scipy.optimize import linear_sum_assignment

    planted, units = linear_sum_assignment(-(directions @ found.T).numpy())
    place = torch.full((len(found),), -1)
    place[torch.from_numpy(units)] = torch.from_numpy(planted)
    return Codes(codes.values, place[codes.units])


def linear_mds(seed: int) -> dict[str, float]:
    rows = symmetric(seed)
    module = NeuralMDS(5, 2, hidden=[], initial="random", learning_rate=0.1)
    train(module, rows, 400, 200, seed)
    weight: Any = module.linear[0].weight
    return {"linear MDS: degrees from PCA": largest_angle(weight.detach().T, pca(rows).weight[0, :, :2])}


def reductions(name: str, make: Callable[[int], tuple[Tensor, Tensor]], seed: int) -> dict[str, float]:
    """PCA, a random map and neural MDS of both kinds, as they are by default and by nearest rows."""
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
    rows, directions, support = atoms(seed)
    found = {}
    for name, active in (("TopK", 3), ("Matryoshka", [1, 3])):
        module = train(SAE(32, expansion=2, active=active, learning_rate=0.01), rows, 700, 256, seed)
        codes = matched(module.encode(rows), module.directions.detach(), directions)
        found[f"SAE, {name}: support F1"] = support_f1(codes, support)
    return found


def splice(seed: int) -> dict[str, float]:
    from sklearn.linear_model import Lasso

    directions = words(1000, 256, 1000, seed=seed)
    rows, support = mixed(directions, 300, 5, seed=seed + 1)
    penalty = penalty_at(rows, directions, 5)
    codes = nonnegative_lasso(rows, directions, penalty)
    lasso = Lasso(alpha=penalty / 256, positive=True, fit_intercept=False, tol=1e-10, max_iter=100_000)
    theirs = lasso.fit(np.asfortranarray(directions.T.double().numpy()), rows.T.double().numpy()).coef_
    return {
        "SpLiCE: support F1": support_f1(codes, support),
        "SpLiCE: difference from Lasso": float(np.abs(codes.dense(1000).numpy() - theirs).max()),
    }


def recovered(seeds: int = 5) -> pd.DataFrame:
    """Mean and sd of every row, over seeds."""
    makers: list[Callable[[int], dict[str, float]]] = [
        linear_mds, lambda seed: reductions("flat", flat, seed), lambda seed: reductions("ribbon", bent, seed),
        sae, splice,
    ]  # fmt: skip
    found = []
    for seed in range(seeds):
        row: dict[str, float] = {}
        for make in makers:
            pl.seed_everything(seed, verbose=False)
            row |= make(seed)
        found.append(row)
    return pd.DataFrame(found).agg(["mean", "std"]).T.rename(columns={"std": "sd"})


@dataclass
class Options:
    seeds: int = 5
    json: bool = False


def main(arguments: Sequence[str]) -> None:
    asked = options(Options, arguments)
    if asked.seeds < 1:
        raise UserError(f"Expected seeds= from 1, got {asked.seeds}.")
    with aside(asked.json):
        table = recovered(asked.seeds)
    print(json.dumps(jsonable(table.to_dict("index"))) if asked.json else table.to_string(float_format="{:.4g}".format))


if __name__ == "__main__":
    command(main)
