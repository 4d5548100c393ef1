"""Project embeddings to two or three dimensions by t-SNE, PCA or UMAP.

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
    "distinct",
    "has_open_tsne",
    "project",
    "reduced",
    "umap_class",
]

Settings: TypeAlias = dict[str, str | int | float]
METHODS = ("tsne", "pca", "umap")
INSTALL = "pip install -e '.[viz]'"
FEWEST_ROWS = 5
MOST_ROWS = 10_000  # default limit for t-SNE by scikit-learn or in three dimensions
PCA_FIRST = 50  # principal components that t-SNE receives
INTERPOLATE_FROM = 10_000  # rows above which FIt-SNE is faster than Barnes-Hut; two dimensions only
ITERATIONS, REPORT_EVERY = 750, 50  # of openTSNE


class Linear(NamedTuple):
    """Principal components: rows are centred by `mean` and projected on the columns of `axes`."""

    mean: Float32[np.ndarray, " features"]
    axes: Float32[np.ndarray, "features width"]

    def __call__(self, values: Float32[np.ndarray, "n features"]) -> Float32[np.ndarray, "n width"]:
        return (values - self.mean) @ self.axes


class Embedded(NamedTuple):
    """Coordinates by one method, its settings, and the principal components that were its input, if any."""

    coordinates: Float[np.ndarray, "n dimensions"]
    settings: Settings
    first: Linear | None = None


class Projection(NamedTuple):
    """A map and its settings; where not all rows are shown, the setting `sample` says why."""

    coordinates: Float32[np.ndarray, "shown dimensions"]
    rows: Int64[np.ndarray, " shown"]  # indices of the projected vectors, ascending
    settings: Settings
    first: Linear | None = None  # applied to the vectors first; for PCA it is the whole method

    @property
    def caption(self) -> str:
        """The settings as a line of text."""
        used = self.settings
        parts = [f"{used['method']} ({used['library']})", f"{used['metric']} distance"]
        parts += [f"{name} {used[name]:g}" for name in ("perplexity", "neighbours") if name in used]
        parts += [f"after PCA to {used['pca']}"] if "pca" in used else []
        return ", ".join([*parts, f"seed {used['seed']}"]) + (f"; {used['sample']}" if "sample" in used else "")


def principal(
    values: Float32[np.ndarray, "n features"], width: int, seed: int
) -> tuple[Float32[np.ndarray, "n width"], Linear]:
    """Return the first principal components, and the linear map to them for other rows."""
    from sklearn.decomposition import PCA

    algorithm = PCA(width, random_state=seed)
    found = algorithm.fit_transform(values).astype(np.float32)
    return found, Linear(algorithm.mean_.astype(np.float32), algorithm.components_.T.astype(np.float32))


def reduced(values: Float32[np.ndarray, "n features"], width: int, seed: int) -> Float32[np.ndarray, "n width"]:
    """Return the first principal components."""
    return principal(values, width, seed)[0]


def has_open_tsne() -> bool:
    """Tell whether openTSNE is installed."""
    return find_spec("openTSNE") is not None


def tsne_limit(dimensions: int) -> tuple[int | None, str]:
    """Return the default limit of rows for t-SNE, and the reason for it."""
    if not has_open_tsne():
        return MOST_ROWS, f"scikit-learn's t-SNE is slow on more; {INSTALL} installs openTSNE, which takes all"
    return (MOST_ROWS, "t-SNE in three dimensions is slow on more") if dimensions > 2 else (None, "")


def tsne(values: Float32[np.ndarray, "n features"], dimensions: int, perplexity: float, seed: int) -> Embedded:
    """Run t-SNE by openTSNE or scikit-learn, on the first 50 principal components of wider vectors."""
    used: Settings = {"method": "t-SNE", "perplexity": perplexity}
    first = None
    if min(values.shape) > PCA_FIRST:
        values, first = principal(values, PCA_FIRST, seed)
        used["pca"] = PCA_FIRST
    if has_open_tsne() and perplexity <= (len(values) - 1) / 3:  # above, openTSNE lowers it silently
        used["library"] = f"openTSNE {version('openTSNE')}"
        return Embedded(open_tsne(values, dimensions, perplexity, seed), used, first)
    from sklearn.manifold import TSNE

    print(f"t-SNE of {len(values):,} rows ...", flush=True)
    algorithm = TSNE(dimensions, perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    used["library"] = f"scikit-learn {version('scikit-learn')}"
    return Embedded(algorithm.fit_transform(values), used, first)


def open_tsne(
    values: Float32[np.ndarray, "n features"], dimensions: int, perplexity: float, seed: int
) -> Float[np.ndarray, "n dimensions"]:
    """Run t-SNE by openTSNE with progress lines."""
    from openTSNE import TSNE

    ticks = with_progress(range(ITERATIONS // REPORT_EVERY), ITERATIONS, "t-SNE", each=REPORT_EVERY)

    def report(iteration: int, error: float, embedding: np.ndarray) -> None:  # a returned value would stop t-SNE
        next(ticks, None)

    interpolated = dimensions == 2 and len(values) >= INTERPOLATE_FROM
    algorithm = TSNE(
        dimensions, perplexity=perplexity, random_state=seed, n_jobs=torch.get_num_threads(),
        negative_gradient_method="fft" if interpolated else "bh", callbacks=report, callbacks_every_iters=REPORT_EVERY,
    )  # fmt: skip
    coordinates = np.asarray(algorithm.fit(values))
    next(ticks, None)  # the last line is printed on the step after it
    return coordinates


def umap_class() -> Any:
    """Import umap-learn's class.

    Raises:
        UserError: umap-learn is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # about missing TensorFlow
            from umap import UMAP
    except ImportError as error:
        raise UserError(f"Expected the package umap-learn for method=umap, got none: {INSTALL}") from error
    return UMAP


def umap(
    values: Float32[np.ndarray, "n features"], dimensions: int, neighbours: int, metric: str, seed: int
) -> Embedded:
    """Run UMAP by umap-learn."""
    kind = umap_class()
    print(f"UMAP of {len(values):,} rows ...", flush=True)
    # umap-learn warns where a seed comes with more than one thread.
    algorithm = kind(n_components=dimensions, n_neighbors=neighbours, metric=metric, random_state=seed, n_jobs=1)
    threads = torch.get_num_threads()
    coordinates = algorithm.fit_transform(values)
    torch.set_num_threads(threads)  # numba changes it, and sums depend on the number of threads
    library = f"umap-learn {version('umap-learn')}"
    return Embedded(coordinates, {"method": "UMAP", "neighbours": neighbours, "library": library})


def distinct(values: Float32[np.ndarray, "n features"]) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " n"]]:
    """Return the numbers of the first of every equal rows, and which of them each row equals.

    >>> [numbers.tolist() for numbers in distinct(np.array([[2.0], [1.0], [2.0]], np.float32))]
    [[0, 1], [0, 1, 0]]
    """
    rows = np.ascontiguousarray(values + np.float32(0))  # −0 becomes 0
    kind = np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))
    _, first, number = np.unique(rows.view(kind)[:, 0], return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[number.ravel()]


def check_map(values: np.ndarray, method: str, dimensions: int, perplexity: float, neighbours: int) -> None:
    """Raise UserError where these rows cannot be projected with these settings."""
    n, width = values.shape
    if n < FEWEST_ROWS:
        raise UserError(f"Expected at least {FEWEST_ROWS} rows for a map, got {n}: use more.")
    if width < dimensions:
        raise UserError(
            f"Expected vectors of at least {dimensions} numbers for a map in {dimensions} dimensions, got {width}: "
            "plot them as they are."
        )
    if (values == values[:1]).all():
        raise UserError(f"Expected vectors that differ, got {n} equal ones: check their encoder.")
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
    """Project the vectors, or a random sample of `most` of them, to two or three dimensions.

    Without `most`, t-SNE by scikit-learn or in three dimensions takes 10,000 rows, all other methods take all rows.
    `perplexity` applies to t-SNE, `neighbours` to UMAP. With the cosine metric, vectors are scaled to unit length. A
    seed repeats a map only on the same machine, so store the coordinates. Equal rows have one place: t-SNE and UMAP,
    which would spread them, receive each once.

    Raises:
        UserError: an unknown method, metric or number of dimensions; vectors that are not finite, of length 0, all
            equal, or too few for the perplexity or the neighbours; umap-learn is not installed.
    """
    check_choice("method", method, METHODS)
    if dimensions not in (2, 3):
        raise UserError(f"Expected dimensions to be 2 or 3, got {dimensions}.")
    n = len(vectors)
    limit, reason = tsne_limit(dimensions) if method == "tsne" and most is None else (most, "the limit that was set")
    rows = draw_rows(n, limit, seed)
    shown = checked(vectors[rows] if len(rows) < n else vectors, metric)
    check_map(shown, method, dimensions, perplexity, neighbours)
    different, place_of = distinct(shown)
    count, copies = len(different), len(shown) - len(different)
    if copies and method != "pca":
        print(f"{copies:,} of {len(shown):,} rows are copies of others: each has the place of its copy.")
        perplexity = perplexity if perplexity <= count - 1 else max(1.0, (count - 1) / 3)
        neighbours = max(2, min(neighbours, count - 1))
    once = method != "pca" and count >= FEWEST_ROWS
    fitted = shown[different] if once else shown
    if method == "tsne":
        coordinates, used, first = tsne(fitted, dimensions, perplexity, seed)
    elif method == "umap":
        coordinates, used, first = umap(fitted, dimensions, neighbours, metric, seed)
    else:
        coordinates, first = principal(fitted, dimensions, seed)
        used = {"method": "PCA", "library": f"scikit-learn {version('scikit-learn')}"}
    coordinates = (coordinates if once else coordinates[different])[place_of]
    used |= {"metric": metric, "dimensions": dimensions, "seed": seed, "rows": len(rows), "of_rows": n}
    if len(rows) < n:
        used["sample"] = f"a random sample of {len(rows):,} of {n:,} rows: {reason}"
    return Projection(np.asarray(coordinates, np.float32), rows, used, first)
