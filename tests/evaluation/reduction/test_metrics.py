"""Ranks, votes, McNemar's test and the bootstrap by hand."""

import numpy as np
import pytest
import torch

from evaluation.reduction.metrics import bootstrap, hits, mcnemar, overlap, ranks, votes


def test_ranks_and_their_shares_by_hand() -> None:
    """Three images on a line, five captions: at what rank the first caption of an image is found, and the reverse."""
    images, texts = torch.tensor([[0.0], [10.0], [20.0]]), torch.tensor([[1.0], [9.0], [11.0], [2.0], [21.0]])
    of_texts, of_images = torch.tensor([0, 0, 1, 2, 2]), torch.arange(3)
    found = ranks(texts, images, of_texts, of_images, "euclidean")
    assert found.tolist() == [1, 2, 1, 3, 1]
    assert hits(found, (1, 2, 3)).mean(0).tolist() == pytest.approx([0.6, 0.8, 1.0])
    back = ranks(images, texts, of_images, of_texts, "euclidean")
    assert back.tolist() == [1, 2, 1]  # 10 is as far from 9, of another image, as from its own 11


def test_ties_count_against_a_query() -> None:
    rows = torch.ones(4, 2)
    assert ranks(rows, rows, torch.arange(4), torch.arange(4), "cosine").tolist() == [4, 4, 4, 4]


def test_overlap_by_hand() -> None:
    first, second = torch.tensor([[1, 2, 3]]), torch.tensor([[2, 1, 9]])
    assert overlap(first, second, (1, 2, 3)).tolist() == [[0.0, 1.0, pytest.approx(2 / 3)]]


def test_votes_by_hand() -> None:
    labels = torch.tensor([[0, 1, 1, 2], [2, 1, 0, 0], [0, 1, 2, 3]])
    found = votes(labels, torch.tensor([1, 0, 0]), (1, 2, 3, 4))
    assert found.tolist() == [[0, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]]


def test_mcnemar_by_hand() -> None:
    """One is right alone once, the other five times: 2 (C(6,0) + C(6,1)) / 2⁶."""
    one = np.array([True] * 4 + [True] + [False] * 5 + [False] * 3)
    other = np.array([True] * 4 + [False] + [True] * 5 + [False] * 3)
    alone = np.arange(13)
    assert mcnemar(one, other, alone) == mcnemar(other, one, alone) == pytest.approx(14 / 64)
    assert mcnemar(one, one, alone) == 1


def test_captions_of_an_image_are_one_query_of_mcnemars_test() -> None:
    """Five captions each of six images: one image is for the first method, four for the other, one for neither."""
    one = np.array([[1, 1, 1, 1, 0], *[[0, 0, 0, 1, 0]] * 4, [1, 0, 0, 0, 0]], bool).ravel()
    other = np.array([[0, 0, 0, 1, 1], *[[1, 1, 1, 0, 1]] * 4, [0, 1, 0, 0, 0]], bool).ravel()
    assert mcnemar(one, other, np.repeat(np.arange(6), 5)) == pytest.approx(12 / 32)
    assert mcnemar(one, other, np.arange(30)) < 0.1


def test_captions_of_an_image_are_drawn_together() -> None:
    generator = np.random.default_rng(0)
    of_images = generator.integers(2, size=100).astype(float)
    right = np.repeat(of_images, 5)[:, None]
    groups = np.repeat(np.arange(100), 5)
    together, alone = bootstrap(right, groups, 500, 0).std(), bootstrap(right, np.arange(500), 500, 0).std()
    assert together == pytest.approx(0.05, rel=0.15)  # √(p (1 − p) / 100)
    assert alone == pytest.approx(0.05 / 5**0.5, rel=0.15)
    columns = np.concatenate([right, right], 1)
    same = bootstrap(columns, groups, 20, 0)
    assert np.array_equal(same[:, 0], same[:, 1])  # paired
