"""Every public measure gives the same of arrays, tensors and lists, in their precision, and changes none of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from evaluation.clustering import scores
from evaluation.concepts import decomposition
from evaluation.editing import counterfactual_metrics, metrics
from evaluation.embeddings import search, similarity
from evaluation.maps import neighbours, quality
from evaluation.reduction import metrics as retrieval
from evaluation.semantics import correlation
from models import factor_classifier, iin_losses
from models.arrays import as_array, as_tensor
from models.labels import Factor
from models.sae import Codes

HAT, AGE = Factor("hat", "binary", ("without", "with")), Factor("age", "continuous", ("young", "old"))
MODULES = (scores, metrics, counterfactual_metrics, retrieval, quality, similarity, correlation)
NO_ARRAYS = {  # of numbers, tables and results of other measures
    "attributes", "chance_level", "class_matrix", "counterfactual_from_errors", "frechet_distance", "leakage_at",
    "mean_known", "measured",
}  # fmt: skip
CODES = Codes(torch.tensor([[1.0, 0.5]] * 30), torch.tensor([[0, 1]] * 30))
FRAME = pd.DataFrame({"wide": np.linspace(0, 1, 30), "half": [0.0, 1.0] * 15})
LABELS = pd.Series(["a", "b", "c"] * 10)


def rows(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape or (30, 5))


def classes(seed: int, *shape: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(count, size=shape or (30,))


def bits(seed: int, *shape: int) -> np.ndarray:
    return classes(seed, *shape, count=2).astype(np.float64)


def shares() -> np.ndarray:
    return np.array([0.5, 0.499, 0.001])


A, B, C = rows(0), rows(1), rows(2)
GROUPS, OTHERS = classes(3), classes(4)
IMAGES = tuple(rows(seed, 4, 3, 6, 6) for seed in (5, 6, 7))
OWN = np.arange(30)
NAMES = [str(number) for number in OWN]
PAIRED = np.random.default_rng(8).random((30, 30)) < 0.5

# Of a measure its function, and its arguments as NumPy has them.
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "accuracy": (scores.accuracy, (GROUPS, OTHERS)),
    "contingency": (scores.contingency, (GROUPS, OTHERS)),
    "occupancy": (partial(scores.occupancy, k=4), (GROUPS,)),
    "prediction_strength": (partial(scores.prediction_strength, k=2), (A,)),
    "scores": (scores.scores, (GROUPS, OTHERS)),
    "silhouette": (scores.silhouette, (A, GROUPS)),
    "stability": (lambda *given: scores.stability(given), (GROUPS, OTHERS, classes(9))),
    "used_clusters": (scores.used_clusters, (shares(),)),
    "absolute_error": (metrics.absolute_error, IMAGES[:2]),
    "counterfactual": (metrics.counterfactual, IMAGES),
    "cycle_error": (metrics.cycle_error, (A, B)),
    "flipped": (partial(metrics.flipped, factor=AGE, deviation=1.0), (rows(10, 30), rows(11, 30))),
    "identity": (metrics.identity, (A, B)),
    "leakage": (lambda before, after, deviations: metrics.leakage(before, after, 0, [HAT, AGE, AGE], deviations),
                (rows(10, 30, 3), rows(11, 30, 3), np.array([1.0, 0.5, 2.0]))),
    "success": (partial(metrics.success, factor=HAT, median=0.5), (bits(12), bits(13))),
    "counterfactual_image": (counterfactual_metrics.counterfactual_image, IMAGES),
    "effectiveness": (partial(counterfactual_metrics.effectiveness, factor=HAT, median=0.5),
                      (bits(14, 2, 30), bits(15, 2, 30), bits(16), bits(17))),
    "identity_distance": (counterfactual_metrics.identity_distance, (A, B)),
    "mean_absolute_difference": (counterfactual_metrics.mean_absolute_difference, IMAGES[:2]),
    "minimality": (counterfactual_metrics.minimality, (A, B, C, PAIRED, ~PAIRED)),
    "moments": (counterfactual_metrics.moments, (A, np.abs(rows(18, 30)))),
    "moments, equal weights": (counterfactual_metrics.moments, (A,)),
    "read_as_labelled": (partial(counterfactual_metrics.read_as_labelled, factor=HAT, median=0.5),
                         (bits(12), bits(13), bits(14))),
    "value_weights": (counterfactual_metrics.value_weights, (bits(12), bits(13))),
    "bootstrap": (partial(retrieval.bootstrap, draws=5, seed=0), (bits(14, 30, 2), GROUPS)),
    "hits": (partial(retrieval.hits, ks=(1, 2)), (1 + GROUPS,)),
    "mcnemar": (retrieval.mcnemar, (PAIRED[0], PAIRED[1], OWN)),
    "overlap": (partial(retrieval.overlap, ks=(1, 3)), (classes(19, 30, 3), classes(20, 30, 3))),
    "ranks": (partial(retrieval.ranks, metric="cosine"), (A, B, OWN, OWN)),
    "votes": (partial(retrieval.votes, ks=(1, 3)), (classes(19, 30, 3), GROUPS)),
    "knn_recall": (partial(quality.knn_recall, k=4), (A, B[:, :2])),
    "map_quality": (partial(quality.map_quality, k=4, metric="cosine"), (A, B[:, :2])),
    "trustworthiness": (partial(quality.trustworthiness, k=4), (A, B[:, :2])),
    "class_similarity": (lambda given: similarity.class_similarity(given, LABELS), (A,)),
    "neighbour_graph": (lambda given: similarity.neighbour_graph(given, NAMES), (A,)),
    "similarity_matrix": (lambda given: similarity.similarity_matrix(given, NAMES), (A,)),
    "similarity_matrix, euclidean": (lambda given: similarity.similarity_matrix(given, NAMES, "euclidean"), (A,)),
    "correlations": (lambda given: correlation.correlations(given, FRAME), (A,)),
    "cosine_table": (lambda texts, images: correlation.cosine_table(texts, images, NAMES, NAMES), (A, B)),
    "modality_gap": (correlation.modality_gap, (A, B, OWN)),
    "top_components": (lambda given: correlation.top_components(given, FRAME, correlation.correlations(A, FRAME), 2),
                       (A,)),
    "compare": (search.compare, (A, B)),
    "nearest_rows": (partial(neighbours.nearest_rows, k=3), (A,)),
    "explained_variance": (decomposition.explained_variance, (A, B)),
    "report_card": (partial(decomposition.report_card, codes=CODES), (A, B)),
    "reached": (partial(factor_classifier.reached, factor=AGE, median=0.0), (rows(10, 30), rows(11, 30))),
    "class_recalls": (factor_classifier.class_recalls, (PAIRED[0], GROUPS)),
    "bits_per_dim": (iin_losses.bits_per_dim, (A, rows(10, 30))),
}  # fmt: skip
COUNTING = {  # whole numbers decide, which rounding hardly changes
    "accuracy", "bootstrap", "class_recalls", "contingency", "effectiveness", "flipped", "hits", "knn_recall",
    "leakage", "map_quality", "mcnemar", "minimality", "occupancy", "overlap", "prediction_strength", "ranks",
    "reached", "read_as_labelled", "scores", "stability", "success", "trustworthiness", "used_clusters",
    "value_weights", "votes",
}  # fmt: skip


def numbers(result: Any) -> np.ndarray:
    """All numbers of a result, one after the other."""
    if isinstance(result, dict):
        result = tuple(result.values())
    if isinstance(result, pd.DataFrame):
        return result.select_dtypes("number").to_numpy(float).ravel()
    if isinstance(result, tuple | list):
        return np.concatenate([numbers(part) for part in result])
    return np.atleast_1d(np.asarray(result, float)).ravel()


@pytest.mark.parametrize("name", CASES)
def test_arrays_tensors_and_lists_give_the_same(name: str) -> None:
    function, given = CASES[name]
    kept = [part.copy() for part in given]
    tensors = [torch.tensor(part) for part in given]
    found = numbers(function(*given))
    np.testing.assert_array_equal(numbers(function(*tensors)), found)
    np.testing.assert_array_equal(numbers(function(given[0], *tensors[1:])), found)  # of both kinds
    if all(part.ndim == 1 for part in given) and name != "mcnemar":
        np.testing.assert_array_equal(numbers(function(*[part.tolist() for part in given])), found)
    for before, array, tensor in zip(kept, given, tensors, strict=True):
        np.testing.assert_array_equal(array, before)
        np.testing.assert_array_equal(tensor.numpy(), before)


@pytest.mark.parametrize("name", CASES)
def test_arrays_that_cannot_be_written_and_tensors_with_gradients_are_read(name: str) -> None:
    function, given = CASES[name]
    views = [part[::-1].copy()[::-1] for part in given]  # of negative strides
    for view in views:
        view.flags.writeable = False
    tensors = [torch.tensor(part, requires_grad=part.dtype == np.float64) for part in given]
    found = numbers(function(*given))
    np.testing.assert_allclose(numbers(function(*views)), found, rtol=1e-12)
    with torch.no_grad():
        np.testing.assert_array_equal(numbers(function(*tensors)), found)


@pytest.mark.parametrize("name", sorted(CASES.keys() - COUNTING))
def test_float64_is_computed_in_float64(name: str) -> None:
    """Of what is computed in float32, numbers that float32 cannot tell apart would give the same."""
    function, given = CASES[name]
    rounded = [part.astype(np.float32).astype(part.dtype) if part.dtype == np.float64 else part for part in given]
    exact, near = numbers(function(*given)), numbers(function(*rounded))
    assert (exact != near).any()
    np.testing.assert_allclose(near, exact, rtol=1e-4, atol=1e-6)


def test_neighbours_that_float32_cannot_tell_apart() -> None:
    near = 1 + 1e-9 * A
    assert (neighbours.nearest_rows(near, 3).rows == neighbours.nearest_rows(A, 3).rows).all()
    assert quality.map_quality(near, A, 4) == {"trustworthiness": 1.0, "knn_recall": 1.0}


def test_every_public_measure_is_here() -> None:
    public = {name for module in MODULES for name in module.__all__ if name.islower()}
    assert public - NO_ARRAYS == {name for name in CASES if name in public}


def test_a_memory_map_is_shared_where_it_can_be(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("arrays") / "rows.npy"
    np.save(file, A)
    assert as_tensor(np.load(file, mmap_mode="r")).equal(torch.from_numpy(A))
    tensor = as_tensor(A)
    assert tensor.data_ptr() == A.ctypes.data and isinstance(tensor, Tensor)
    assert as_array(torch.ones(2, dtype=torch.bfloat16)).dtype == np.float32
