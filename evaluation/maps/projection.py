"""Vectors to a map of two or three dimensions by t-SNE, PCA or UMAP. Vectors of anything: images, texts, codes.

t-SNE: van der Maaten and Hinton 2008, https://jmlr.org/papers/v9/vandermaaten08a.html, by openTSNE (Poličar et al.
2024, https://doi.org/10.18637/jss.v109.i03) where it is installed. UMAP: McInnes et al. 2018,
https://arxiv.org/abs/1802.03426.
"""

import warnings
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64

from datamodules.progress import with_progress
from evaluation.maps.neighbours import Vectors, checked, draw_rows
from models import UserError, check_choice

__all__ = [
    "FEWEST_ROWS",
    "INSTALL",
    "Linear",
    "METHODS",
    "Projection",
    "Settings",
    "has_open_tsne",
    "project",
    "reduced",
    "umap_class",
]

Settings: TypeAlias = dict[str, str | int | float]
METHODS = ("tsne", "pca", "umap")
INSTALL = "pip install -e '.[viz]'"
FEWEST_ROWS = 5
MOST_ROWS = 10_000  # of a t-SNE by scikit-learn or in three dimensions, where nobody asked for more
PCA_FIRST = 50  # numbers per vector that t-SNE sees
INTERPOLATE_FROM = 10_000  # rows from which openTSNE's interpolation is faster than its tree; in two dimensions only
ITERATIONS, TOLD_EVERY = 750, 50  # of openTSNE


class Linear(NamedTuple):
    """Principal components: what is taken off a row, and the axes that it is then seen along."""

    mean: Float32[np.ndarray, " features"]
    axes: Float32[np.ndarray, "features width"]

    def __call__(self, values: Float32[np.ndarray, "n features"]) -> Float32[np.ndarray, "n width"]:
        return (values - self.mean) @ self.axes


class Made(NamedTuple):
    """The coordinates of the rows by one method, and the principal components that it was given, if any."""

    coordinates: Float[np.ndarray, "n dimensions"]
    settings: Settings
    first: Linear | None = None


class Projection(NamedTuple):
    """A map, and in `settings` what was done; `sample` among them, if it is there, says why not all rows are shown."""

    coordinates: Float32[np.ndarray, "shown dimensions"]
    rows: Int64[np.ndarray, " shown"]  # which of the vectors these are, ascending
    settings: Settings
    first: Linear | None = None  # what the vectors went through first; of PCA all that there is

    @property
    def caption(self) -> str:
        """The settings as a line of text."""
        made = self.settings
        parts = [f"{made['method']} by {made['library']}", f"{made['metric']} distances"]
        parts += [f"{name} {made[name]:g}" for name in ("perplexity", "neighbours") if name in made]
        parts += [f"PCA to {made['pca']} first"] if "pca" in made else []
        return ", ".join([*parts, f"seed {made['seed']}"]) + (f"; {made['sample']}" if "sample" in made else "")


def principal(
    values: Float32[np.ndarray, "n features"], width: int, seed: int
) -> tuple[Float32[np.ndarray, "n width"], Linear]:
    """The first principal components, and what gives them of other rows."""
    from sklearn.decomposition import PCA

    algorithm = PCA(width, random_state=seed)
    found = algorithm.fit_transform(values).astype(np.float32)
    return found, Linear(algorithm.mean_.astype(np.float32), algorithm.components_.T.astype(np.float32))


def reduced(values: Float32[np.ndarray, "n features"], width: int, seed: int) -> Float32[np.ndarray, "n width"]:
    """The first principal components."""
    return principal(values, width, seed)[0]


def has_open_tsne() -> bool:
    return find_spec("openTSNE") is not None


def tsne_limit(dimensions: int) -> tuple[int | None, str]:
    """Return the default limit of rows for t-SNE, and the reason for it."""
    if not has_open_tsne():
        return MOST_ROWS, f"scikit-learn's t-SNE is slow on more; {INSTALL} brings openTSNE, which maps all"
    return (MOST_ROWS, "t-SNE in three dimensions is slow on more") if dimensions > 2 else (None, "")


def tsne(values: Float32[np.ndarray, "n features"], dimensions: int, perplexity: float, seed: int) -> Made:
    """By openTSNE or scikit-learn, of the first 50 principal components where vectors are wider."""
    made: Settings = {"method": "t-SNE", "perplexity": perplexity}
    first = None
    if min(values.shape) > PCA_FIRST:
        values, first = principal(values, PCA_FIRST, seed)
        made["pca"] = PCA_FIRST
    if has_open_tsne() and perplexity <= (len(values) - 1) / 3:  # above, it quietly takes another perplexity
        made["library"] = f"openTSNE {version('openTSNE')}"
        return Made(open_tsne(values, dimensions, perplexity, seed), made, first)
    from sklearn.manifold import TSNE

    print(f"t-SNE of {len(values):,} rows ...", flush=True)
    algorithm = TSNE(dimensions, perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    made["library"] = f"scikit-learn {version('scikit-learn')}"
    return Made(algorithm.fit_transform(values), made, first)


def open_tsne(
    values: Float32[np.ndarray, "n features"], dimensions: int, perplexity: float, seed: int
) -> Float[np.ndarray, "n dimensions"]:
    from openTSNE import TSNE

    ticks = with_progress(range(ITERATIONS // TOLD_EVERY), ITERATIONS, "t-SNE", each=TOLD_EVERY)

    def tell(iteration: int, error: float, embedding: np.ndarray) -> None:  # what it returned would end the search
        next(ticks, None)

    interpolated = dimensions == 2 and len(values) >= INTERPOLATE_FROM
    algorithm = TSNE(
        dimensions, perplexity=perplexity, random_state=seed, n_jobs=torch.get_num_threads(),
        negative_gradient_method="fft" if interpolated else "bh", callbacks=tell, callbacks_every_iters=TOLD_EVERY,
    )  # fmt: skip
    coordinates = np.asarray(algorithm.fit(values))
    next(ticks, None)  # past the last of them, which is told only then
    return coordinates


def umap_class() -> Any:
    """umap-learn's.

    Raises:
        UserError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # that there is no TensorFlow
            from umap import UMAP
    except ImportError as error:
        raise UserError(f"Expected the package umap-learn for method=umap, got none: {INSTALL}") from error
    return UMAP


def umap(values: Float32[np.ndarray, "n features"], dimensions: int, neighbours: int, metric: str, seed: int) -> Made:
    """By umap-learn."""
    kind = umap_class()
    print(f"UMAP of {len(values):,} rows ...", flush=True)
    # umap-learn warns where a seed comes with more than one thread.
    algorithm = kind(n_components=dimensions, n_neighbors=neighbours, metric=metric, random_state=seed, n_jobs=1)
    threads = torch.get_num_threads()
    coordinates = algorithm.fit_transform(values)
    torch.set_num_threads(threads)  # numba makes it one per core, and sums by other threads are other sums
    library = f"umap-learn {version('umap-learn')}"
    return Made(coordinates, {"method": "UMAP", "neighbours": neighbours, "library": library})


def check_map(values: np.ndarray, method: str, dimensions: int, perplexity: float, neighbours: int) -> None:
    """Raises UserError where these rows cannot be mapped this way."""
    n, width = values.shape
    if n < FEWEST_ROWS:
        raise UserError(f"Expected at least {FEWEST_ROWS} rows for a map, got {n}: use more.")
    if width < dimensions:
        raise UserError(
            f"Expected vectors of at least {dimensions} numbers for a map in {dimensions} dimensions, got {width}: "
            "draw them as they are."
        )
    if (values == values[:1]).all():
        raise UserError(f"Expected vectors that differ, got {n} equal ones: check what made them.")
    if method == "tsne" and not 1 <= perplexity <= n - 1:
        raise UserError(
            f"Expected a perplexity from 1 to less than the {n} rows, got {perplexity:g}: choose "
            f"perplexity={max(1, (n - 1) // 3)}."
        )
    if method == "umap" and not 2 <= neighbours < n:
        raise UserError(
            f"Expected neighbours from 2 to less than the {n} rows, got {neighbours}: choose neighbours={n // 2}."
        )


def project(
    vectors: Vectors,
    method: str = "tsne",
    dimensions: int = 2,
    seed: int = 0,
    perplexity: float = 30.0,
    metric: str = "euclidean",
    most: int | None = None,
    neighbours: int = 15,
) -> Projection:
    """A map of the vectors, or of `most` of them, drawn at random.

    Without `most`, t-SNE by scikit-learn or in three dimensions takes 10,000 rows, the other methods all. `perplexity`
    is t-SNE's, `neighbours` UMAP's. Cosine distances are those of the vectors at unit length. The same seed gives the
    same map on the same machine only, so coordinates are to be kept.

    Raises:
        UserError: an unknown method, metric or number of dimensions; vectors that cannot be mapped: NaN, of length 0,
            all equal, too few for the perplexity or the neighbours; umap-learn is not installed.
    """
    check_choice("method", method, METHODS)
    if dimensions not in (2, 3):
        raise UserError(f"Expected dimensions to be 2 or 3, got {dimensions}.")
    n = len(vectors)
    limit, reason = tsne_limit(dimensions) if method == "tsne" and most is None else (most, "as many as were asked for")
    rows = draw_rows(n, limit, seed)
    shown = checked(vectors[rows] if len(rows) < n else vectors, metric)
    check_map(shown, method, dimensions, perplexity, neighbours)
    if method == "tsne":
        coordinates, made, first = tsne(shown, dimensions, perplexity, seed)
    elif method == "umap":
        coordinates, made, first = umap(shown, dimensions, neighbours, metric, seed)
    else:
        coordinates, first = principal(shown, dimensions, seed)
        made = {"method": "PCA", "library": f"scikit-learn {version('scikit-learn')}"}
    made |= {"metric": metric, "dimensions": dimensions, "seed": seed, "rows": len(rows), "of_rows": n}
    if len(rows) < n:
        made["sample"] = f"{len(rows):,} of {n:,} rows, drawn at random: {reason}"
    return Projection(np.asarray(coordinates, np.float32), rows, made, first)
