"""Out-of-sample placement: a map that is fitted on reference rows, saved, loaded, and extended by new rows.

A saved map is an .npz of numbers and names: the input of the method, the coordinates, and the settings. It contains no
code and depends on no library version: t-SNE and UMAP are rebuilt around the saved coordinates, which costs a
neighbour search and no iteration. New rows are placed one by one, and the reference rows do not move.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from evaluation.maps.neighbours import Vectors, checked
from evaluation.maps.projection import INSTALL, Linear, Projection, Settings, distinct, has_open_tsne, umap_class
from models import UserError
from models.archives import check_zip
from training.files import write_file

__all__ = ["Reducer", "check_placing", "fitted", "load_reducer"]

PERPLEXITY, MEDIAN_OF = 5.0, 25  # of a new row on a t-SNE map: perplexity, and neighbours whose median it starts at


@dataclass(frozen=True)
class Reducer:
    """A fitted map that places new rows.

    Attributes:
        names: names of the reference rows.
        coordinates: their coordinates on the map.
        reference: their vectors as the method receives them; empty for PCA, which needs none.
        first: linear map that is applied to all rows first; for PCA it is the whole method.
    """

    settings: Settings
    names: list[str]
    coordinates: Float32[np.ndarray, "n dimensions"]
    reference: Float32[np.ndarray, "m width"]
    first: Linear | None

    def transform(self, vectors: Vectors) -> Float32[np.ndarray, "rows dimensions"]:
        """Place new rows on the map; equal rows have one place, also where they equal a reference row.

        Raises:
            UserError: rows of another width or that are not finite; the method's package is not installed.
        """
        width = len(self.first.mean) if self.first else self.reference.shape[1]
        if vectors.shape[1] != width:
            raise UserError(
                f"Expected rows of {width} numbers, as the map was fitted on, got {vectors.shape[1]}: use the encoder "
                "that embedded those."
            )
        values = checked(vectors, str(self.settings["metric"]))
        if self.first is not None:
            values = self.first(values)
        if self.settings["method"] == "PCA":
            return values
        both = np.concatenate([self.reference, values]).astype(np.float32, copy=False)
        different, place_of = distinct(both)
        n = len(self.reference)
        new = different[different >= n]
        places = np.empty((len(different), self.coordinates.shape[1]), np.float32)
        places[different < n] = self.coordinates[different[different < n]]
        if len(new):
            place = place_by_tsne if self.settings["method"] == "t-SNE" else place_by_umap
            places[different >= n] = place(self, both[new])
        return places[place_of[n:]]

    def save(self, path: Path) -> None:
        """Save as one .npz.

        Raises:
            UserError: the folder cannot be written.
        """
        first = self.first or Linear(np.empty(0, np.float32), np.empty((0, 0), np.float32))
        words = json.dumps({"settings": self.settings, "names": self.names}).encode()
        file = io.BytesIO()
        np.savez(
            file, words=np.frombuffer(words, np.uint8), coordinates=self.coordinates, reference=self.reference,
            mean=first.mean, axes=first.axes,
        )  # fmt: skip
        write_file(path, file.getvalue())


def check_placing(method: str) -> None:
    """Raise UserError where new rows could not be placed on a map by this method."""
    if method == "tsne" and not has_open_tsne():
        raise UserError(
            "Expected the package openTSNE to place new rows on a t-SNE map, got none: "
            f"{INSTALL}, or choose method=pca."
        )


def fitted(vectors: Vectors, projection: Projection, names: list[str]) -> Reducer:
    """Return the reducer of a map that `project` fitted to these vectors; `names` has one name per vector."""
    rows = projection.rows
    shown = checked(vectors[rows] if isinstance(vectors, np.ndarray) else vectors[torch.from_numpy(rows)],
                    str(projection.settings["metric"]))  # fmt: skip
    seen = shown if projection.first is None else projection.first(shown)
    reference = seen[:0] if projection.settings["method"] == "PCA" else seen
    chosen = [names[row] for row in rows.tolist()]
    return Reducer(projection.settings, chosen, projection.coordinates, reference, projection.first)


def load_reducer(path: str | Path) -> Reducer:
    """Load a saved map.

    Raises:
        UserError: no such file, or one that is no map.
    """
    file = Path(path).expanduser()
    try:
        check_zip(file)
        with np.load(file, allow_pickle=False) as saved:
            first = Linear(saved["mean"], saved["axes"]) if len(saved["mean"]) else None
            words = json.loads(saved["words"].tobytes())
            return Reducer(words["settings"], words["names"], saved["coordinates"], saved["reference"], first)
    except Exception as error:  # NumPy, zipfile and json each raise their own kind for a file of another content
        got = "no such file" if isinstance(error, FileNotFoundError) else "another or a damaged one"
        raise UserError(
            f"Expected a saved map at {file}, got {got}: give the reducer.npz that evaluation.project wrote."
        ) from error


def place_by_tsne(reducer: Reducer, values: Float32[np.ndarray, "rows width"]) -> np.ndarray:
    """Place rows by openTSNE (Poličar et al. 2023, https://doi.org/10.1007/s10994-021-06043-1)."""
    check_placing("tsne")
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PerplexityBasedNN

    settings, n = reducer.settings, len(reducer.reference)
    affinities = PerplexityBasedNN(
        reducer.reference,
        float(settings["perplexity"]),
        n_jobs=torch.get_num_threads(),
        random_state=int(settings["seed"]),
    )
    # The Barnes-Hut tree: the grid of the interpolation would depend on the batch of rows.
    embedding = TSNEEmbedding(
        reducer.coordinates, affinities, negative_gradient_method="bh", n_jobs=torch.get_num_threads()
    )
    middle = (reducer.coordinates.max(0) + reducer.coordinates.min(0)) / 2  # openTSNE moves the map's to 0
    placed = embedding.transform(values, perplexity=min(PERPLEXITY, (n - 1) / 3), k=min(MEDIAN_OF, n - 1))
    return np.asarray(placed) + middle


def place_by_umap(reducer: Reducer, values: Float32[np.ndarray, "rows width"]) -> np.ndarray:
    """Place rows by umap-learn, refitted from the saved coordinates with no epoch."""
    settings, threads = reducer.settings, torch.get_num_threads()
    algorithm = umap_class()(
        n_components=reducer.coordinates.shape[1], n_neighbors=int(settings["neighbours"]), metric=settings["metric"],
        random_state=int(settings["seed"]), n_jobs=1, init=reducer.coordinates, n_epochs=0,
    )  # fmt: skip
    algorithm.fit(reducer.reference)
    algorithm.embedding_, algorithm.n_epochs = reducer.coordinates, None
    placed = algorithm.transform(values)
    torch.set_num_threads(threads)
    return placed
