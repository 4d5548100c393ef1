"""Maps of vectors: what they keep, that seeds repeat them, and what they say of themselves."""

import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from evaluation.maps import projection
from evaluation.maps.projection import project, reduced
from evaluation.maps.quality import map_quality
from models import UserError

OPEN_TSNE = find_spec("openTSNE") is not None
BACKENDS = [
    pytest.param("openTSNE", marks=pytest.mark.skipif(not OPEN_TSNE, reason="openTSNE (extra viz) is not installed")),
    "scikit-learn",
]


def blobs(n: int = 90, width: int = 60, spread: float = 8.0) -> np.ndarray:
    """Three clusters; row i is of cluster i mod 3."""
    rng = np.random.default_rng(0)
    centres = spread * rng.normal(size=(3, width)) / np.sqrt(width)
    return (centres[np.arange(n) % 3] + rng.normal(size=(n, width)) / np.sqrt(width)).astype(np.float32)


def purity(coordinates: np.ndarray) -> float:
    """How often the nearest point on the map is of the same cluster."""
    distances = np.linalg.norm(coordinates[:, None] - coordinates[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return float((distances.argmin(1) % 3 == np.arange(len(coordinates)) % 3).mean())


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "scikit-learn":
        monkeypatch.setitem(sys.modules, "openTSNE", None)
    return request.param


def test_tsne_keeps_clusters_apart_and_repeats(backend: str) -> None:
    made, again = (project(blobs(), perplexity=10.0, seed=3) for _ in range(2))
    assert (made.coordinates == again.coordinates).all() and made.coordinates.dtype == np.float32
    assert made.coordinates.shape == (90, 2) and (made.rows == np.arange(90)).all()
    assert purity(made.coordinates) > 0.98
    assert map_quality(blobs(), made.coordinates, k=10)["trustworthiness"] > 0.8
    assert made.settings["pca"] == 50 and str(made.settings["library"]).startswith(f"{backend} ")
    assert (
        made.caption
        == f"t-SNE ({made.settings['library']}), euclidean distance, perplexity 10, after PCA to 50, seed 3"
    )


def test_a_perplexity_that_few_rows_hardly_allow_is_kept() -> None:
    """Nine words at perplexity 5, as a published map has it: openTSNE would take 2.67."""
    made = project(blobs(9), perplexity=5.0, dimensions=3)
    assert made.settings["perplexity"] == 5 and str(made.settings["library"]).startswith("scikit-learn ")
    assert made.coordinates.shape == (9, 3)


def test_tsne_in_three_dimensions(backend: str) -> None:
    made = project(torch.tensor(blobs(45, 8)), dimensions=3, perplexity=8.0)
    assert made.coordinates.shape == (45, 3) and "pca" not in made.settings
    assert purity(made.coordinates) > 0.9


def test_openTSNE_interpolates_where_there_are_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: N802
    module = pytest.importorskip("openTSNE", reason="openTSNE (extra viz) is not installed")
    asked = []

    class Recorded(module.TSNE):  # type: ignore[name-defined]
        def __init__(self, *args: object, **settings: object) -> None:
            asked.append(settings["negative_gradient_method"])
            super().__init__(*args, **settings, n_iter=1, early_exaggeration_iter=1)

    monkeypatch.setattr(module, "TSNE", Recorded)
    monkeypatch.setattr(projection, "INTERPOLATE_FROM", 60)
    for rows, dimensions in ((60, 2), (59, 2), (60, 3)):
        assert np.isfinite(project(blobs(rows), dimensions=dimensions, perplexity=5.0).coordinates).all()
    assert asked == ["fft", "bh", "bh"]


def test_pca_is_the_best_plane() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32) * np.array([1, 9, 3, 1], np.float32)
    made = project(vectors, "pca")
    centred = vectors - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    assert np.abs(made.coordinates) == pytest.approx(np.abs(centred @ axes[:2].T), abs=1e-4)
    assert project(vectors, "pca", 3).coordinates.shape == (50, 3)
    assert made.caption.startswith("PCA (scikit-learn ") and "perplexity" not in made.caption


def test_cosine_forgets_the_lengths() -> None:
    vectors = blobs()
    stretched = vectors * np.linspace(1, 50, len(vectors), dtype=np.float32)[:, None]
    first, second = (project(rows, "pca", metric="cosine").coordinates for rows in (vectors, stretched))
    assert first == pytest.approx(second, abs=1e-5)
    assert project(stretched, "pca").coordinates != pytest.approx(second, abs=1)


def test_a_sample_is_drawn_and_said() -> None:
    made, again, other = (project(blobs(), "pca", most=40, seed=seed) for seed in (0, 0, 1))
    assert (made.rows == again.rows).all() and (made.rows != other.rows).any()
    assert made.coordinates.shape == (40, 2) and (np.diff(made.rows) > 0).all()
    assert (made.coordinates == reduced(blobs()[made.rows], 2, 0)).all()
    assert made.settings["rows"] == 40 and made.settings["of_rows"] == 90
    assert made.caption.endswith("; a random sample of 40 of 90 rows: the limit that was set")
    assert "sample" not in project(blobs(), "pca", most=90).settings


def test_what_would_be_slow_is_sampled(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "MOST_ROWS", 30)
    flat, deep = project(blobs(36), perplexity=5.0), project(blobs(36), dimensions=3, perplexity=5.0)
    if backend == "openTSNE":
        assert len(flat.rows) == 36 and "sample" not in flat.settings
        assert deep.settings["sample"] == "a random sample of 30 of 36 rows: t-SNE in three dimensions is slow on more"
    else:
        assert str(flat.settings["sample"]).startswith("a random sample of 30 of 36 rows: scikit-learn's t-SNE is slow")
        assert "pip install -e '.[viz]'" in str(flat.settings["sample"])
    assert len(project(blobs(36), perplexity=5.0, most=33).rows) == 33, "what was asked for goes before"


def test_maps_that_cannot_be_made_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="perplexity from 1 to less than the 9 rows, got 30: choose perplexity=2"):
        project(blobs(9))
    with pytest.raises(UserError, match="perplexity from 1 to less than the 20 rows, got 30"):
        project(blobs(), most=20)
    with pytest.raises(UserError, match="got 0.5: choose perplexity=29"):
        project(blobs(), perplexity=0.5)
    with pytest.raises(UserError, match="Expected at least 5 rows for a map, got 4"):
        project(blobs(4), "pca")
    with pytest.raises(UserError, match="at least 3 numbers for a map in 3 dimensions, got 2"):
        project(blobs(20, 2), "pca", 3)
    with pytest.raises(UserError, match="Expected dimensions to be 2 or 3, got 4"):
        project(blobs(), "pca", 4)
    with pytest.raises(UserError, match="method to be one of tsne, pca, umap, got mds"):
        project(blobs(), "mds")
    with pytest.raises(UserError, match="Expected vectors that differ, got 20 equal ones"):
        project(np.ones((20, 3), np.float32))
    with pytest.raises(UserError, match="NaN or infinity in 1 of 90"):
        project(np.where(np.arange(90)[:, None] == 7, np.float32(np.nan), blobs()))
    with pytest.raises(UserError, match="1 of length 0"):
        project(np.where(np.arange(90)[:, None] == 7, np.float32(0), blobs()), metric="cosine")
    with pytest.raises(UserError, match="neighbours from 2 to less than the 9 rows, got 15: choose neighbours=4"):
        project(blobs(9), "umap")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(UserError, match=r"umap-learn for method=umap, got none: pip install -e '.\[viz\]'"):
        project(blobs(), "umap")


@pytest.mark.skipif(find_spec("umap") is None, reason="umap-learn (extra viz) is not installed")
def test_umap_keeps_clusters_apart_and_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one: after numba has set the number of OpenMP's threads, scikit-learn is slow on a busy machine."""
    with warnings.catch_warnings(action="ignore"):
        from umap import umap_
    monkeypatch.delitem(sys.modules, "umap")  # `project` is to import it, and to keep its warning to itself
    for name in ("fast_knn_indices", "smooth_knn_dist"):  # of 90 rows they are quick as Python; compiling them is not
        monkeypatch.setattr(umap_, name, getattr(umap_, name).py_func)
    threads = torch.get_num_threads()
    made, again = (project(blobs(), "umap", seed=1, neighbours=9, metric="cosine") for _ in range(2))
    assert (made.coordinates == again.coordinates).all() and made.coordinates.shape == (90, 2)
    assert purity(made.coordinates) > 0.98
    assert made.settings["neighbours"] == 9 and str(made.settings["library"]).startswith("umap-learn ")
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("method", ["tsne", "umap", "pca"])
def test_equal_rows_have_one_place(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("umap" if method == "umap" else "sklearn")
    rows = np.concatenate([blobs(30), np.repeat(blobs(31)[30:], 300, axis=0)])
    found = project(rows, method).coordinates
    assert (found[30:] == found[30]).all() and len(np.unique(found, axis=0)) == 31
    assert method == "pca" or "299 of 330 rows are copies of others" in capsys.readouterr().out
    few = project(np.repeat(blobs(3), 100, axis=0), method, perplexity=5.0).coordinates
    assert len(np.unique(few, axis=0)) == 3
