"""Nearest neighbours and their preservation on maps: against scikit-learn, and where the answer is known."""

import numpy as np
import pytest
import torch
from sklearn.manifold import trustworthiness as reference
from sklearn.neighbors import NearestNeighbors

from evaluation.maps import neighbours, quality
from evaluation.maps.neighbours import checked, draw_rows, nearest_rows
from evaluation.maps.quality import knn_recall, map_quality, trustworthiness
from models import UserError
from models import neighbours as search


def blobs(n: int = 120, width: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = 5 * rng.normal(size=(4, width))
    return (centres[np.arange(n) % 4] + rng.normal(size=(n, width))).astype(np.float32)


def noise(n: int = 120, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 2)).astype(np.float32)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 7, 40])
def test_trustworthiness_is_scikit_learns(k: int, metric: str) -> None:
    vectors = blobs()
    for coordinates in (vectors[:, :2], noise()):
        expected = reference(vectors.astype(float), coordinates.astype(float), n_neighbors=k, metric=metric)
        assert trustworthiness(vectors, coordinates, k, metric) == pytest.approx(expected, abs=1e-6)


def test_recall_is_the_share_of_neighbours_kept() -> None:
    vectors, coordinates, k = blobs(), blobs()[:, :2], 7
    before = NearestNeighbors(n_neighbors=k).fit(vectors).kneighbors(return_distance=False)
    after = NearestNeighbors(n_neighbors=k).fit(coordinates).kneighbors(return_distance=False)
    expected = np.mean([len({*a} & {*b}) / k for a, b in zip(before, after, strict=True)])
    assert 0.05 < expected < 0.95
    assert knn_recall(vectors, coordinates, k) == pytest.approx(expected)


def test_the_same_vectors_keep_everything() -> None:
    vectors = blobs()
    turned, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))
    for coordinates in (vectors, 3 * vectors @ turned.astype(np.float32) + 100):
        assert map_quality(vectors, coordinates) == {"trustworthiness": 1.0, "knn_recall": 1.0}


def test_a_map_without_relation_keeps_what_chance_keeps() -> None:
    vectors = np.random.default_rng(0).normal(size=(400, 12)).astype(np.float32)
    quality = map_quality(vectors, noise(400), k=15)
    assert quality["knn_recall"] == pytest.approx(15 / 399, abs=0.01)
    assert quality["trustworthiness"] == pytest.approx(0.5, abs=0.03)


def test_chunks_and_tensors_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, coordinates = blobs(), noise()
    whole, found = map_quality(vectors, coordinates), nearest_rows(vectors, 5)
    for module in (neighbours, search):
        monkeypatch.setattr(module, "CHUNK", 7 * len(vectors))
    assert map_quality(torch.tensor(vectors), torch.tensor(coordinates)) == pytest.approx(whole)
    assert (nearest_rows(torch.tensor(vectors), 5).rows == found.rows).all()


def test_a_sample_of_rows_estimates_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = blobs(600)
    coordinates = vectors[:, :2]
    whole = map_quality(vectors, coordinates)
    monkeypatch.setattr(quality, "QUERIES", 300)
    first, again, other = (map_quality(vectors, coordinates, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert first != whole and first == pytest.approx(whole, abs=0.02)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_nearest_rows_are_scikit_learns(metric: str) -> None:
    vectors = blobs() + 100  # far from the origin, where float32 has few digits left
    distances, rows = NearestNeighbors(n_neighbors=6, metric=metric).fit(vectors).kneighbors()
    found = nearest_rows(vectors, 6, metric)
    assert found.distances == pytest.approx(distances, rel=1e-3, abs=1e-6)
    assert (found.rows == rows).mean() > (0.999 if metric == "euclidean" else 0.97)


def test_copies_of_a_row_are_its_neighbours_and_it_is_not() -> None:
    vectors = np.repeat(blobs(10), 3, axis=0)
    found = nearest_rows(vectors, 2)
    assert (np.sort(found.rows, 1) == [[3 * (i // 3) + j for j in range(3) if j != i % 3] for i in range(30)]).all()
    assert found.distances.max() < 1e-2


def test_memory_maps_and_halves_are_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("vectors") / "v.npy"
    np.save(file, blobs().astype(np.float16))
    mapped = np.load(file, mmap_mode="r")
    assert map_quality(mapped, mapped) == {"trustworthiness": 1.0, "knn_recall": 1.0}


def test_draw_rows() -> None:
    assert (draw_rows(5, None, 0) == np.arange(5)).all() and (draw_rows(5, 9, 0) == np.arange(5)).all()
    drawn = draw_rows(1000, 100, 0)
    assert len(set(drawn)) == 100 and (np.diff(drawn) > 0).all() and drawn.max() > 900 and drawn.min() < 100
    assert (drawn == draw_rows(1000, 100, 0)).all() and (drawn != draw_rows(1000, 100, 1)).any()


def test_vectors_that_have_no_neighbours_are_refused() -> None:
    broken = blobs()
    broken[3, 1], broken[9] = np.nan, np.inf
    with pytest.raises(UserError, match=r"NaN or infinity in 2 of 120 \(the first is row 3\): leave these rows out"):
        checked(broken, "euclidean")
    silent = blobs()
    silent[5] = 0
    with pytest.raises(UserError, match=r"got 1 of length 0 \(the first is row 5\).*metric=euclidean"):
        checked(silent, "cosine")
    assert (checked(silent, "euclidean") == silent).all()
    with pytest.raises(UserError, match="metric to be one of euclidean, cosine, got l1"):
        checked(blobs(), "l1")
    with pytest.raises(UserError, match="Expected k from 1 to less than the 120 rows, got 120"):
        nearest_rows(blobs(), 120)
    with pytest.raises(UserError, match="less than half of the 120 rows, got 60: choose k=39"):
        trustworthiness(blobs(), noise(), k=60)
    with pytest.raises(UserError, match="from 1 to less than half"):
        knn_recall(blobs(), noise(), k=0)


def places() -> np.ndarray:
    """Places within 500 m of each other in a national grid of metres, which float32 holds to 0.25 or 0.5 m."""
    return (np.random.default_rng(0).random((1500, 2)) * 500 + [3.5e6, 5.8e6]).astype(np.float32)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_quality_and_distances_are_right_far_from_the_origin(metric: str) -> None:
    far = places() if metric == "euclidean" else blobs(400) + np.float32(1e4)
    wide = far.astype(np.longdouble)
    if metric == "cosine":
        wide = wide / np.sqrt((wide**2).sum(1, keepdims=True))
    wide = (wide - wide.mean(0)).astype(float)  # the Euclidean order of unit rows is that of their cosines
    distances, _ = NearestNeighbors(n_neighbors=6).fit(wide).kneighbors()
    wanted = distances if metric == "euclidean" else distances**2 / 2
    assert nearest_rows(far, 6, metric).distances == pytest.approx(wanted, rel=1e-5)
    coordinates = wide + np.random.default_rng(1).normal(size=wide.shape) * distances[:, 5:].mean()
    for k in (5, 15):
        expected = reference(wide, coordinates, n_neighbors=k)
        assert trustworthiness(far, coordinates, k, metric) == pytest.approx(expected, abs=2e-5)
    assert map_quality(far, wide, 5, metric)["knn_recall"] > 0.98  # equal distances are in either order
