import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics

from evaluation.clustering.scores import (
    accuracy,
    contingency,
    occupancy,
    prediction_strength,
    scores,
    silhouette,
    stability,
    used_clusters,
)
from models import UserError

TRUE = [0, 0, 0, 1, 1, 1]
FOUND = [1, 1, 0, 0, 0, 0]


def blobs(k: int = 3, each: int = 100, spread: float = 0.1, d: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    centers = torch.randn(k, d, generator=torch.Generator().manual_seed(1)) * 3
    labels = torch.arange(k).repeat_interleave(each)
    return centers[labels] + spread * torch.randn(k * each, d, generator=torch.Generator().manual_seed(2)), labels


def test_a_hand_made_table() -> None:
    assert contingency(TRUE, FOUND).tolist() == [[1, 2], [3, 0]]
    assert accuracy(TRUE, FOUND) == pytest.approx(5 / 6)  # cluster 1 is class 0, cluster 0 is class 1
    found = scores(TRUE, FOUND)
    # 15 pairs: 6 together in TRUE, 7 in FOUND, 4 in both
    assert found["fmi"] == pytest.approx(4 / np.sqrt(6 * 7))
    assert found["ari"] == pytest.approx((4 - 6 * 7 / 15) / ((6 + 7) / 2 - 6 * 7 / 15))


def test_scores_are_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    true, found = torch.randint(7, (500,), generator=generator), torch.randint(9, (500,), generator=generator)
    result = scores(true, found)
    assert result.keys() == {"ami", "ari", "fmi", "nmi", "accuracy"}
    assert result["ami"] == metrics.adjusted_mutual_info_score(true, found)
    assert result["nmi"] == metrics.normalized_mutual_info_score(true, found)
    assert abs(result["ari"]) < 0.02 and abs(result["ami"]) < 0.02 and result["accuracy"] < 0.25


def test_other_names_of_the_same_partition_score_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    true, found = torch.randint(5, (300,), generator=generator), torch.randint(5, (300,), generator=generator)
    renamed = torch.tensor([3, 0, 4, 1, 2])[found]
    assert scores(true, found) == pytest.approx(scores(true, renamed))
    assert scores(true, (true + 2) % 5) == pytest.approx(dict.fromkeys(("ami", "ari", "fmi", "nmi", "accuracy"), 1))


def test_more_clusters_than_classes_and_one_cluster() -> None:
    assert accuracy([0, 0, 0, 0], [0, 1, 2, 3]) == 0.25
    assert accuracy([0, 1, 2, 3], [0, 0, 0, 0]) == 0.25
    one = scores([0, 0, 1, 1], [0, 0, 0, 0])
    assert one["ami"] == one["ari"] == one["nmi"] == 0 and one["accuracy"] == 0.5
    assert scores([1, 1], [0, 0])["nmi"] == 1


def test_unknown_labels_are_left_out_and_words_are_labels() -> None:
    with_unknown = torch.tensor([0.0, 0, 0, 1, 1, 1, float("nan")])
    assert scores(with_unknown, [*FOUND, 5]) == scores(TRUE, FOUND)
    assert scores(["a", "a", "a", "b", "b", "b"], FOUND) == scores(TRUE, FOUND)


@pytest.mark.parametrize("unknown", [None, float("nan")], ids=str)
def test_an_unknown_label_among_words_is_no_class(unknown: float | None) -> None:
    words = ["a", "a", "a", "b", "b", "b"]
    for labels in ([unknown, *words], pd.Series([unknown, *words]), np.array([unknown, *words], dtype=object)):
        assert scores(labels, [5, *FOUND]) == scores(TRUE, FOUND)
        assert contingency(labels, [5, *FOUND]).tolist() == [[1, 2], [3, 0]]


def test_bad_labels_are_one_line() -> None:
    with pytest.raises(
        UserError, match="Expected as many predicted as true labels, one each, got shapes .2,. and .3,."
    ):
        scores([0, 1, 2], [0, 1])
    with pytest.raises(UserError, match="at least one row with a label, got none"):
        scores(torch.tensor([float("nan")] * 2), [0, 1])


def test_on_balanced_labels_fmi_follows_from_ari() -> None:
    """FMI = ARI (1 - 1/K) + 1/K for balanced partitions, up to chance."""
    generator = torch.Generator().manual_seed(0)
    true = torch.arange(10).repeat(500)
    found = torch.where(
        torch.rand(5000, generator=generator) < 0.2, torch.randint(10, (5000,), generator=generator), true
    )
    result = scores(true, found)
    assert result["fmi"] == pytest.approx(result["ari"] * 0.9 + 0.1, abs=0.002)


def test_occupancy_names_unused_clusters() -> None:
    assert occupancy(torch.tensor([0, 0, 2, 2]), 4).tolist() == [0.5, 0, 0.5, 0]


def test_a_cluster_is_used_from_a_hundredth_of_an_equal_share_on() -> None:
    counts = torch.tensor([398.0, 1, 1])  # an equal share is 133 rows
    assert used_clusters(counts / counts.sum()) == 1
    assert used_clusters(torch.tensor([0.5, 0, 0.495, 0.005])) == 3


def test_stability_is_the_mean_over_pairs() -> None:
    same = [torch.tensor(TRUE)] * 3
    assert stability(same) == 1 and stability(same[:1]) is None
    expected = (1 + 2 * metrics.adjusted_rand_score(TRUE, FOUND)) / 3
    assert stability([TRUE, TRUE, FOUND]) == pytest.approx(expected)


def test_silhouette_of_planted_and_of_random_groups() -> None:
    values, labels = blobs()
    assert silhouette(values, labels) == pytest.approx(float(metrics.silhouette_score(values, labels)), abs=1e-5)
    assert silhouette(values, labels[torch.randperm(300)]) < 0.1  # type: ignore[operator]
    assert silhouette(values, torch.zeros(300, dtype=torch.long)) is None


def test_prediction_strength_falls_above_the_number_of_planted_groups() -> None:
    values, _ = blobs(3)
    strength = {k: prediction_strength(values, k) for k in (2, 3, 4, 6)}
    assert strength[3] > 0.99 and strength[4] < 0.8 and strength[6] < 0.8
    assert prediction_strength(values, 3) == strength[3]
