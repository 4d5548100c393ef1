"""Maps that new rows are placed on: beside what they are like, and the same after they were saved."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from evaluation.maps.placement import Reducer, check_placing, fitted, load_reducer
from evaluation.maps.projection import project
from models import UserError

METHODS = [
    "pca",
    pytest.param("tsne", marks=pytest.mark.skipif(find_spec("openTSNE") is None, reason="no openTSNE (extra viz)")),
    pytest.param("umap", marks=pytest.mark.skipif(find_spec("umap") is None, reason="no umap-learn (extra viz)")),
]


def blobs(n: int = 90, width: int = 60, seed: int = 1) -> np.ndarray:
    """Three clusters, the same for every seed; row i is of cluster i mod 3."""
    centres = 8 * np.random.default_rng(0).normal(size=(3, width)) / np.sqrt(width)
    noise = np.random.default_rng(seed).normal(size=(n, width)) / np.sqrt(width)
    return (centres[np.arange(n) % 3] + noise).astype(np.float32)


def reducer(method: str, dimensions: int = 2, metric: str = "euclidean", width: int = 60) -> Reducer:
    vectors = blobs(width=width)
    made = project(vectors, method, dimensions, 0, 8.0, metric, neighbours=8)
    return fitted(vectors, made, [f"row {i}" for i in range(len(vectors))])


@pytest.mark.skipif(find_spec("openTSNE") is None, reason="no openTSNE (extra viz)")
@pytest.mark.parametrize("width", [8, 60])
def test_tsne_places_in_three_dimensions_too(width: int) -> None:
    """With and without the principal components that wide vectors go through first."""
    made = reducer("tsne", 3, width=width)
    assert (made.first is None) == (width == 8)
    placed = made.transform(blobs(n=9, width=width, seed=2))
    nearest = np.linalg.norm(placed[:, None] - made.coordinates, axis=2).argmin(1)
    assert (nearest % 3 == np.arange(9) % 3).all()


def test_rows_of_the_reference_are_placed_where_they_are() -> None:
    made = reducer("pca", 3)
    assert made.transform(blobs()) == pytest.approx(made.coordinates, abs=1e-4)
    assert len(made.reference) == 0, "PCA needs no rows to be kept"


def test_a_sample_is_the_reference(tmp_path: Path) -> None:
    vectors = blobs()
    made = fitted(vectors, project(vectors, "pca", most=30), [str(i) for i in range(90)])
    assert len(made.names) == len(made.coordinates) == 30
    assert made.transform(vectors[[int(name) for name in made.names]]) == pytest.approx(made.coordinates, abs=1e-4)


def test_cosine_forgets_the_length_of_new_rows() -> None:
    made = reducer("pca", metric="cosine")
    assert made.transform(7 * blobs(5)) == pytest.approx(made.transform(blobs(5)), abs=1e-5)


def test_what_cannot_be_placed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = reducer("pca", metric="cosine")
    with pytest.raises(UserError, match="Expected rows of 60 numbers, as the map was fitted on, got 8"):
        made.transform(blobs(width=8))
    with pytest.raises(UserError, match="1 of length 0"):
        made.transform(np.zeros((1, 60), np.float32))
    with pytest.raises(UserError, match="Expected a saved map at .*none.npz, got no such file"):
        load_reducer(tmp_path / "none.npz")
    (tmp_path / "other.npz").write_text("no map")
    with pytest.raises(UserError, match="got another or a damaged one: give the reducer.npz"):
        load_reducer(tmp_path / "other.npz")
    np.savez(tmp_path / "arrays.npz", a=np.arange(3))
    with pytest.raises(UserError, match="got another or a damaged one"):
        load_reducer(tmp_path / "arrays.npz")
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    with pytest.raises(UserError, match="Expected the package openTSNE to place new rows on a t-SNE map, got none"):
        check_placing("tsne")
    check_placing("umap")


def test_a_map_without_a_folder_to_write_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Expected to write .*reducer.npz"):
        reducer("pca").save(tmp_path / "file" / "reducer.npz")


@pytest.mark.parametrize("method", METHODS)
def test_new_rows_are_placed_in_their_cluster_and_the_same_from_a_file(method: str, tmp_path: Path) -> None:
    made = reducer(method, metric="cosine")
    before = made.coordinates.copy()
    new = blobs(n=12, seed=2)
    placed = made.transform(new)
    assert placed.shape == (12, 2) and placed.dtype == np.float32
    distances = np.linalg.norm(placed[:, None] - made.coordinates, axis=2)
    assert (distances.argmin(1) % 3 == np.arange(12) % 3).all()
    assert distances.min(1).max() < np.ptp(made.coordinates, axis=0).max() / 4
    assert (made.coordinates == before).all(), "the reference stays where it is"
    made.save(tmp_path / "reducer.npz")
    read = load_reducer(tmp_path / "reducer.npz")
    assert (read.transform(new) == placed).all() and (read.coordinates == before).all()
    assert read.names[:2] == ["row 0", "row 1"] and read.settings == made.settings
