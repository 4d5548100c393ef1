"""Correlations and the modality gap on numbers whose answer is known."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from datamodules.factors import FactorTable
from evaluation.embeddings.ideal_words import mean_cosine
from evaluation.semantics.correlation import (
    attributes,
    chance_level,
    correlations,
    cosine_table,
    modality_gap,
    top_components,
)
from models import UserError
from models.labels import Factor


def planted(n: int = 3000) -> tuple[np.ndarray, pd.DataFrame]:
    """Component 2 has r = .8 with a number; component 0 is a monotone function of a class plus little noise."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(n, 5))
    number = 0.8 * values[:, 2] + 0.6 * rng.normal(size=n)
    side = (rng.random(n) < 0.3).astype(float)
    values[:, 0] = np.exp(4 * side) + 0.1 * rng.normal(size=n)
    return values, pd.DataFrame({"number": number, "side": side})


def test_they_are_those_of_scipy() -> None:
    values, scores = planted(200)
    scores.loc[:9, "number"] = np.nan
    for measure, reference in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        table = correlations(values, scores, measure)
        assert table.shape == (5, 2) and table.index.name == "component"
        for component in range(5):
            expected = reference(values[10:, component], scores["number"][10:]).statistic
            assert table["number"][component] == pytest.approx(expected)
            assert table["side"][component] == pytest.approx(reference(values[:, component], scores["side"]).statistic)


def test_planted_components_are_found() -> None:
    values, scores = planted()
    table = correlations(values, scores)
    assert table["number"][2] == pytest.approx(0.8, abs=0.03)
    assert table["number"].drop(2).abs().max() < chance_level(3000, 10) < 0.06
    top = top_components(values, scores, table, k=2)
    assert list(top.columns) == ["attribute", "component", "pearson", "spearman", "mutual_information"]
    assert top["component"][0] == 2 and top["component"][2] == 0 and len(top) == 4
    # Of two normals with correlation r it is −½ ln(1 − r²), of a class that is told without error its entropy.
    assert top["mutual_information"][0] == pytest.approx(-0.5 * math.log(1 - 0.64), abs=0.06)
    share = scores["side"].mean()
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert top["mutual_information"][2] == pytest.approx(entropy, abs=0.05)
    assert correlations(values[:500], scores[:500], "mutual_information")["number"].idxmax() == 2


def test_chance_is_what_noise_reaches() -> None:
    """At the level of one cell, one of twenty correlations of noise lies above."""
    rng = np.random.default_rng(0)
    table = correlations(rng.normal(size=(100, 2000)), pd.DataFrame({"noise": rng.normal(size=100)}))
    assert (table["noise"].abs() > chance_level(100, 1)).mean() == pytest.approx(0.05, abs=0.015)
    assert table["noise"].abs().max() < chance_level(100, 2000, 0.01)


def test_attributes_of_every_kind() -> None:
    factors = (Factor("hat", "binary", ("no", "yes")), Factor("hue", "categorical", ("a", "b", "c")))
    table = attributes(FactorTable(factors, torch.tensor([[1.0, 0], [0, 2], [math.nan, math.nan]])))
    assert list(table) == ["hat", "hue=a", "hue=b", "hue=c"]
    assert table.iloc[1].tolist() == [0, 0, 0, 1] and table.iloc[2].isna().all()


def test_a_cosine_table() -> None:
    table = cosine_table(
        np.array([[2.0, 0], [1, 1]]), np.array([[0, 3.0], [5, 0], [1, 1]]), ["x", "xy"], ["b", "a", "c"]
    )
    assert table.loc["x"].tolist() == pytest.approx([0, 1, math.sqrt(0.5)])
    assert table.loc["xy", "c"] == pytest.approx(1)


def test_the_gap_of_two_planted_cones() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(50, 8))
    images, texts = np.c_[shared, np.full(50, 3.0)], np.c_[shared, np.full(50, -3.0)]
    found = modality_gap(images, 7 * texts, np.arange(50))
    lengths = np.sqrt(np.square(shared).sum(1) + 9)
    assert found["gap"] == pytest.approx(np.mean(6 / lengths)), "only the last axis separates the means"
    assert found["separated"] == 1
    assert found["matched"] == pytest.approx(((np.square(shared).sum(1) - 9) / lengths**2).mean())
    u = images / lengths[:, None]
    between = u @ u.T
    assert found["image_image"] == pytest.approx(between[~np.eye(50, dtype=bool)].mean())
    same = modality_gap(images, images)
    assert same["gap"] == pytest.approx(0, abs=1e-9) and "matched" not in same
    assert math.isnan(mean_cosine(u[:1]))


def test_what_cannot_be_correlated() -> None:
    values, scores = planted(20)
    with pytest.raises(UserError, match="Expected 5 or more rows with different values of side, got one value only"):
        correlations(values, scores.assign(side=1.0))
    with pytest.raises(UserError, match="values of number, got 2"):
        correlations(values, scores.assign(number=[1.0, 2.0] + [np.nan] * 18))
    with pytest.raises(UserError, match="Expected scores of the 20 rows, got 19"):
        correlations(values, scores[1:])
    with pytest.raises(UserError, match="Expected measure.* pearson, .*got"):
        correlations(values, scores, "kendall")
    with pytest.raises(UserError, match="Expected finite components, got NaN"):
        correlations(np.full((20, 2), np.nan), scores)
    with pytest.raises(UserError, match="Expected k, the components to list, to be at least 1, got 0"):
        top_components(values, scores, correlations(values, scores), 0)
    with pytest.raises(UserError, match="Expected embeddings with a direction"):
        cosine_table(np.zeros((1, 2)), np.ones((1, 2)), ["a"], ["b"])
