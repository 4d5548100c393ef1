import pytest
import torch

from models import UserError
from models.labels import Factor, LabelEmbedding, dependent_factor, factor_value, simplex

FACTORS = [
    ("glasses", "binary", ["without", "with"]),
    ("race", "categorical", ["a", "b", "c"]),
    ("age", "continuous", ["young", "old"]),
]


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_simplex_corners_are_equally_far_apart(classes: int) -> None:
    corners = simplex(classes)
    distances = torch.cdist(corners, corners)
    torch.testing.assert_close(distances, 2 * (1 - torch.eye(classes)), atol=1e-3, rtol=0)
    torch.testing.assert_close(corners.mean(0), torch.zeros(classes - 1), atol=1e-6, rtol=0)


def test_embedding_and_missing_labels() -> None:
    labels = LabelEmbedding(FACTORS)
    values = torch.tensor([[0.0, 2.0, 10.0], [1.0, 0.0, 30.0], [torch.nan, torch.nan, torch.nan]])
    labels.fit(values)
    embedded = labels(values)
    assert embedded.shape == (3, 4)
    assert embedded[:2, 0].tolist() == [-1, 1]
    assert embedded[0, 3].item() == pytest.approx(-(0.5**0.5))
    assert embedded[2].tolist() == [0, 0, 0, 0]
    assert labels.known(values).tolist() == [[1] * 4, [1] * 4, [0] * 4]


def test_change_gives_another_value_of_that_factor_alone() -> None:
    labels = LabelEmbedding(FACTORS)
    values = torch.stack([torch.randint(2, (600,)), torch.randint(3, (600,)), torch.randint(50, (600,))], 1).float()
    labels.fit(values)
    factor = torch.arange(600) % 3
    changed = labels.change(values, factor)
    kept = torch.arange(3)[None] != factor[:, None]
    assert (changed == values)[kept].all()
    binary, categorical, continuous = (torch.nonzero(factor == f).flatten() for f in range(3))
    assert (changed[binary, 0] == 1 - values[binary, 0]).all()
    assert (changed[categorical, 1] != values[categorical, 1]).all()
    assert set(changed[categorical, 1].tolist()) == {0.0, 1.0, 2.0}
    assert 0 <= changed[continuous, 2].min() < 10 and 40 < changed[continuous, 2].max() <= 50


def test_balanced_weights_make_every_class_weigh_the_same() -> None:
    labels = LabelEmbedding([("glasses", "binary", ["without", "with"]), ("age", "continuous", ["young", "old"]),
                             ("race", "categorical", ["a", "b", "c"])])  # fmt: skip
    values = torch.tensor([[0.0, 3, 0]] * 6 + [[1.0, 5, 1]] * 2 + [[torch.nan, 4, 2]] * 4)
    labels.fit(values)
    weighed = labels.balanced(values)
    assert weighed.shape == (12, labels.dim)
    totals = [weighed[values[:, 0] == value, 0].sum().item() for value in (0, 1)]
    assert totals[0] == pytest.approx(totals[1]) == pytest.approx(4)
    assert weighed[8:, 0].abs().max() == 0 and (weighed[:, 1] == 1).all()
    assert torch.equal(weighed[:, 2], weighed[:, 3])


def binary(name: str) -> Factor:
    return Factor(name, "binary", ("no", "yes"))


def classes(name: str, count: int) -> Factor:
    return Factor(name, "categorical", tuple(map(str, range(count))))


def test_factors_that_follow_from_others_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(2, (2, 500), generator=generator).float()
    race, age = torch.randint(3, (500,), generator=generator).float(), torch.randn(500, generator=generator)
    one_hot = [(race == number).float() for number in range(3)]
    years = Factor("years", "continuous", ("low", "high"))
    cases = [
        (([binary("a"), binary("b"), binary("not a")], [a, b, 1 - a]), ("not a", ["a"])),
        (([binary("x"), binary("a"), binary("y"), binary("z")], [one_hot[0], a, *one_hot[1:]]), ("z", ["x", "y"])),
        (([classes("race", 3), binary("a"), binary("x")], [race, a, one_hot[1]]), ("x", ["race"])),
        (([binary("x"), binary("a"), classes("race", 3)], [one_hot[1], a, race]), ("race", ["x"])),
        (([years, years._replace(name="days")], [age, 365 * age]), ("days", ["years"])),
    ]
    for (factors, columns), found in cases:
        assert dependent_factor(factors, torch.stack(columns, 1)) == found


def test_factors_that_vary_separately_are_none() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(2, (2, 500), generator=generator).float()
    nearly = torch.where(torch.arange(500) == 0, 1 - a, a)
    race = torch.randint(3, (500,), generator=generator).float()
    for factors, columns in (
        ([binary("a"), binary("b")], [a, b]),
        ([binary("a"), binary("nearly a")], [a, nearly]),
        ([classes("race", 4), binary("b")], [race, b]),  # no image of the fourth class
        ([binary("a")], [a]),
    ):
        assert dependent_factor(factors, torch.stack(columns, 1)) is None
    assert dependent_factor([], torch.zeros(5, 0)) is None


def test_a_value_is_named_as_it_is_spelled_before_it_is_a_number() -> None:
    sizes, codes = Factor("size", "binary", ("5", "7")), Factor("code", "categorical", ("1", "01", "A", "a"))
    assert [factor_value(sizes, value, {}) for value in ("5", "7", 7, 5)] == [0, 1, 1, 0]
    assert [factor_value(codes, value, {}) for value in ("1", "01", "A", "a", 1)] == [0, 1, 2, 3, 0]
    assert factor_value(binary("hat"), "YES", {}) == factor_value(binary("hat"), "true", {}) == 1
    assert factor_value(Factor("café", "binary", ("the\u0301", "lait")), "th\u00e9", {}) == 0  # one e with an accent
    with pytest.raises(UserError, match="Expected a value of code"):
        factor_value(codes, "2.5", {})
