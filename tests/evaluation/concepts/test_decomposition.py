"""Numbers and tables of a decomposition, by hand."""

import math

import pytest
import torch

from datamodules.factors import FactorTable
from datamodules.features import FeatureData
from evaluation.concepts.decomposition import (
    Decomposition,
    concept_table,
    nearest_texts,
    of_sae,
    of_texts,
    report_card,
    row_table,
)
from models.sae import SAE, Codes, combination

CODES = Codes(torch.tensor([[2.0, 1.0], [3.0, 0.0], [1.0, 0.5]]), torch.tensor([[0, 2], [0, 0], [2, 0]]))


class Sums:
    """Codes and directions that are given."""

    directions = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])

    def encode(self, rows: torch.Tensor) -> Codes:
        return Codes(*(part[: len(rows)] for part in CODES))

    def decode(self, codes: Codes) -> torch.Tensor:
        return combination(codes, self.directions)


def data(values: torch.Tensor, split: list[int]) -> FeatureData:
    n = len(values)
    ids = [f"row{i}" for i in range(n)]
    table = FactorTable((), torch.empty(n, 0))
    return FeatureData("made", values, ids, table, torch.tensor(split, dtype=torch.uint8), "made")


def test_report_card_by_hand() -> None:
    rows = torch.tensor([[2.0, 1.0], [3.0, 0.0], [1.0, 1.0]])
    decoded = torch.tensor([[2.0, 1.0], [3.0, 0.0], [1.0, 0.0]])
    card = report_card(rows, decoded, CODES)
    assert card["l0"] == pytest.approx(5 / 3)
    assert card["cosine"] == pytest.approx((2 + 1 / math.sqrt(2)) / 3)
    # Around the mean (2, 2/3) the rows spread by 0 + 1/9, 1 + 4/9, 1 + 1/9; the last one's error is 1.
    assert card["explained_variance"] == pytest.approx(1 - 1 / (2 + 6 / 9))
    mean = rows.mean(0).expand(3, 2)
    assert report_card(rows, mean, CODES)["explained_variance"] == pytest.approx(0, abs=1e-6)


def test_concept_table_by_hand() -> None:
    table = concept_table(CODES, ["wide", "low", "high"], ["a", "b", "c"], k=2)
    assert table["name"].tolist() == ["wide", "high", "low"]
    assert table["concept"].tolist() == [0, 2, 1]
    assert table["share"].tolist() == pytest.approx([1.0, 2 / 3, 0.0])
    assert table["value"].tolist()[:2] == pytest.approx([5.5 / 3, 1.0])
    assert table["rows"].tolist() == [["b", "a"], ["a", "c"], []]


def test_row_table_by_hand() -> None:
    table = row_table(CODES, ["a", "b", "c"], ["wide", "low", "high"])
    assert table["features"][0] == [{"feature": "wide", "value": 2.0}, {"feature": "high", "value": 1.0}]
    assert table["features"][1] == [{"feature": "wide", "value": 3.0}]


def test_nearest_texts_are_so_around_their_own_mean() -> None:
    """All texts share a large part, which would make every cosine near 1."""
    texts = torch.tensor([[10.0, 1.0, 0.0], [10.0, 0.0, 1.0], [10.0, -1.0, -1.0]])
    cosines, numbers = nearest_texts(torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 0.2]]), texts, 9)
    assert numbers[:, 0].tolist() == [0, 1]
    assert numbers.shape == (2, 3)
    assert bool((cosines[:, 0] > 0.8).all())
    assert bool((cosines[:, 1] < 0.1).all())


def test_numbers_are_of_both_parts_and_dead_concepts_are_counted() -> None:
    values = torch.tensor([[2.0, 1.0], [3.0, 0.0], [0.5, 1.0], [9.0, 9.0]])
    parts = Decomposition("sae", Sums(), ["wide", "low", "high"])
    numbers = parts.numbers(data(values[:3], [0, 0, 1]), CODES)
    assert numbers["sae/dead"] == 1
    assert numbers["sae/dead_share"] == pytest.approx(1 / 3)
    assert numbers["sae/explained_variance"] == pytest.approx(1, abs=1e-6)
    assert not any(key.startswith("heldout/") for key in numbers)
    more = Codes(*(torch.cat([part, part[:1]]) for part in CODES)).first(1)
    again = parts.numbers(data(values[[0, 1, 2, 0]], [0, 0, 2, 2]), more)
    assert again["heldout/sae/l0"] == 1
    # Between two known rows there is one principal component, and all of their spread lies along it.
    assert again["pca/explained_variance"] == pytest.approx(1, abs=1e-6)
    assert again["heldout/pca/explained_variance"] < 1


def test_units_are_called_by_texts_or_by_numbers() -> None:
    sae = SAE(3, expansion=1, active=1)
    with torch.no_grad():
        sae.decoder.copy_(torch.eye(3))
    texts = torch.eye(3)[[1, 0, 2]]
    parts = of_sae(sae, (["one", "zero", "two"], texts), k=1)
    assert parts.titles == ["zero", "one", "two"]
    assert list(parts.cosines) == pytest.approx([math.sqrt(2 / 3)] * 3)
    assert of_sae(sae).titles == ["unit 0", "unit 1", "unit 2"]
    assert of_sae(sae, active=2).encode(torch.randn(4, 3)).values.shape == (4, 2)


def test_splice_sees_directions_and_finds_a_penalty() -> None:
    torch.manual_seed(0)
    texts = torch.nn.functional.normalize(torch.randn(60, 32), dim=1)
    support = torch.rand(50, 60).argsort(1)[:, :3]
    rows = combination(Codes(1 + torch.rand(50, 3), support), texts)
    made = data(7 * rows, [0] * 40 + [2] * 10)
    parts = of_texts(made, ([f"text {i}" for i in range(60)], texts), active=3)
    codes = parts.encode(made.values)
    numbers = parts.numbers(made, codes)
    assert 2.5 <= numbers["splice/l0"] <= 3.5
    assert numbers["splice/cosine"] > 0.9
    assert numbers["splice/explained_variance"] > numbers["pca/explained_variance"]
    assert of_texts(made, (["a"] * 60, texts), penalty=0.2).model.penalty == 0.2
