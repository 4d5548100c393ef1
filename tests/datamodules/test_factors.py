"""Kinds of factors, factor tables and splits against hand-made columns."""

import pandas as pd
import pytest
import torch

from datamodules.factors import (
    check_training,
    confidence_notes,
    factor_table,
    missing_notes,
    named_columns,
)
from datamodules.label_kinds import infer_labels
from datamodules.splits import complete_split, hash_split, split_numbers
from models import UserError, near_names

nan = float("nan")


def equal(found: torch.Tensor, expected: list) -> bool:
    return torch.equal(found.nan_to_num(-99.0), torch.tensor(expected).nan_to_num(-99.0))


@pytest.mark.parametrize(
    ("column", "kind", "values", "numbers"),
    [
        ([-1, 1, 1], "binary", ("no", "yes"), [0.0, 1.0, 1.0]),
        ([0, 1, None], "binary", ("no", "yes"), [0.0, 1.0, nan]),
        ([True, False, True], "binary", ("no", "yes"), [1.0, 0.0, 1.0]),
        ([True, None, False], "binary", ("no", "yes"), [1.0, nan, 0.0]),
        (["Yes", "no", " "], "binary", ("no", "yes"), [1.0, 0.0, nan]),
        (["TRUE", "false", "true"], "binary", ("no", "yes"), [1.0, 0.0, 1.0]),
        ([2, 5, 2], "binary", ("2", "5"), [0.0, 1.0, 0.0]),
        (["round", "oval", "round"], "binary", ("oval", "round"), [1.0, 0.0, 1.0]),
        (["white", " asian", "black", None], "categorical", ("asian", "black", "white"), [2.0, 0.0, 1.0, nan]),
        ([20, 31.5, 40], "continuous", ("low", "high"), [20.0, 31.5, 40.0]),
        (["20", "31.5", "40", None], "continuous", ("low", "high"), [20.0, 31.5, 40.0, nan]),
        ([1.0, float("inf"), 2.0, 3.0], "continuous", ("low", "high"), [1.0, nan, 2.0, 3.0]),
        ([7, 7, 7], "binary", ("7",), [0.0, 0.0, 0.0]),
        ([None, None], "binary", (), [nan, nan]),
    ],
)
def test_kind_of_a_column(column: list, kind: str, values: tuple[str, ...], numbers: list[float]) -> None:
    labels = infer_labels(pd.Series(column))
    assert (labels.kind, labels.values) == (kind, values)
    assert equal(labels.numbers, numbers)


def test_factor_table_renames_and_keeps_the_source() -> None:
    attributes = pd.DataFrame(
        {"Eyeglasses": [-1, 1, 1, 1], "age": [20.0, 30.0, None, 41.0], "hair": ["red", "black", "red", "red"]}
    )
    table = factor_table(
        attributes, {"glasses": "Eyeglasses", "age": "age", "hair": "hair"}, {"Eyeglasses": "Eyeglasses of x.csv"}
    )
    assert [factor.name for factor in table.factors] == ["glasses", "age", "hair"]
    assert table.factors[0].values == ("not Eyeglasses", "Eyeglasses")
    assert table.factors[0].source == "Eyeglasses of x.csv"
    assert table.factors[2].values == ("black", "red")
    assert equal(table.values, [[0.0, 20.0, 1.0], [1.0, 30.0, 0.0], [1.0, nan, 1.0], [1.0, 41.0, 1.0]])
    assert missing_notes(table) == ["age: 1 of 4 images have no label."]


def test_a_list_names_factors_after_attributes() -> None:
    assert named_columns(["Male", "Young"]) == {"Male": "Male", "Young": "Young"}
    assert factor_table(pd.DataFrame({"Male": [0, 1]}), ["Male"]).factors[0].values == ("no", "yes")


def test_no_factors_make_an_empty_table() -> None:
    table = factor_table(pd.DataFrame(index=["a", "b"]), {})
    assert table.factors == () and table.values.shape == (2, 0)


def test_unknown_attribute_suggests_near_names_whatever_the_case() -> None:
    attributes = pd.DataFrame({"Eyeglasses": [0, 1], "Male": [0, 1]})
    with pytest.raises(UserError, match=r"factor 'glasses'.*got 'eyeglases'\. Did you mean Eyeglasses\?"):
        factor_table(attributes, {"glasses": "eyeglases"})
    with pytest.raises(UserError, match=r"got 'xyz'\. There are: Eyeglasses, Male\."):
        factor_table(attributes, {"x": "xyz"})
    assert near_names("MALE", ["Male", "Young"]) == " Did you mean Male?"


@pytest.mark.parametrize("dtype", [float, object])
@pytest.mark.parametrize(("values", "got"), [([-1, -1, None], "only '-1'"), ([None, None, None], "no value at all")])
def test_constant_attribute_is_no_factor(values: list, got: str, dtype: type) -> None:
    attributes = pd.DataFrame({"Bald": pd.Series(values, dtype=dtype)})
    with pytest.raises(UserError, match=f"'bald'.*'Bald'.*vary over the 3 images, got {got}") as caught:
        factor_table(attributes, {"bald": "Bald"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "got"),
    [
        ([0, 0, 0, 1, 1], "only 'no'"),
        ([1, None, 1, 0, 0], "only 'yes'"),
        ([None, None, None, 0, 1], "no value at all"),
        (["red", "red", None, "black", "white"], "only 'red'"),
        ([2.5, 2.5, 2.5, 3.0, 4.0], "only '2.5'"),
    ],
)
def test_a_factor_has_to_vary_over_the_training_images(values: list, got: str) -> None:
    split = torch.tensor([0, 0, 0, 1, 2], dtype=torch.uint8)
    table = factor_table(pd.DataFrame({"other": [0, 1, 0, 0, 0], "it": values}), ["other", "it"])
    with pytest.raises(UserError, match=f"factor 'it' to vary over the 3 training images, got {got}: ") as caught:
        check_training(table, split)
    assert "\n" not in str(caught.value)
    check_training(table, torch.zeros_like(split))


def test_too_many_classes_are_no_factor() -> None:
    with pytest.raises(UserError, match="at most 20 classes, got 21"):
        factor_table(pd.DataFrame({"person": [f"p{i}" for i in range(21)]}), ["person"])


def test_split_words_and_numbers() -> None:
    assert equal(split_numbers(pd.Series(["train", "Valid", "validation", "test", None])), [0.0, 1.0, 1.0, 2.0, nan])
    assert equal(split_numbers(pd.Series([0, 1, 2])), [0.0, 1.0, 2.0])
    assert equal(split_numbers(pd.Series([0, 1, "test"], dtype=object)), [0.0, 1.0, 2.0])
    with pytest.raises(UserError, match="column 'part', got 'holdout'"):
        split_numbers(pd.Series(["train", "holdout"], name="part"))
    with pytest.raises(UserError, match="got '3'"):
        split_numbers(pd.Series([0, 3]))


def test_hash_split_is_stable_and_has_its_shares() -> None:
    ids = [f"{i:06d}.jpg" for i in range(5000)]
    split = hash_split(ids)
    shares = torch.bincount(split.long(), minlength=3) / len(ids)
    assert torch.allclose(shares, torch.tensor([0.8, 0.1, 0.1]), atol=0.015)
    assert torch.equal(hash_split(ids[1000:])[:500], split[1000:1500])
    assert not torch.equal(hash_split(ids, seed=1), split)
    # Known values: a change would move images between the parts of every data set in use.
    assert hash_split(["a", "b", "c", "d", "e", "f", "g", "h"]).tolist() == [1, 0, 0, 0, 0, 0, 0, 2]


def test_empty_parts_are_filled_from_training() -> None:
    ids = [str(i) for i in range(1000)]
    split, notes = complete_split(torch.zeros(1000, dtype=torch.uint8), ids)
    assert torch.equal(split, hash_split(ids)) and len(notes) == 2
    kept = torch.tensor([0] * 990 + [1] * 5 + [2] * 5, dtype=torch.uint8)
    assert torch.equal(complete_split(kept, ids)[0], kept) and complete_split(kept, ids)[1] == []
    tests_only, notes = complete_split(torch.full((1000,), 2, dtype=torch.uint8), ids)
    assert torch.equal(tests_only, hash_split(ids)) and "No training images" in notes[0]


def raced(**columns: list) -> pd.DataFrame:
    return pd.DataFrame({"race": ["white", "black", "asian", "white", None, "black"], **columns})


@pytest.mark.parametrize("scale", [1, 100], ids=["probabilities", "percent"])
def test_labels_that_are_not_sure_are_left_out_and_the_others_weighted(scale: int) -> None:
    sure = [0.9, 0.59, 0.6, 1.0, 0.8, None]
    attributes = raced(race_probability=[p if p is None else p * scale for p in sure], hat=[0, 1] * 3)
    table = factor_table(attributes, {"race": "race", "hat": "hat"})
    assert table.factors[0].values == ("asian", "white") and table.factors[0].kind == "binary"
    assert equal(table.values[:, 0], [1.0, nan, 0.0, 1.0, nan, nan])
    assert table.confidence is not None and torch.equal(table.confidence[:, 1], torch.ones(6))
    torch.testing.assert_close(table.confidence[[0, 2, 3], 0], torch.tensor([0.9, 0.6, 1.0]))
    assert torch.equal(table[2:4].confidence, table.confidence[2:4])  # type: ignore[arg-type]
    (note,) = confidence_notes(attributes, ["race", "hat"])
    assert note.startswith("race: 2 of 5 labels are left out, as race_probability is below 60% for them")


def test_without_probabilities_there_is_no_confidence() -> None:
    assert factor_table(raced(), ["race"]).confidence is None
    assert factor_table(raced(race_probability=[1.0] * 6), ["race"]).confidence is None
    assert confidence_notes(raced(), ["race"]) == []


@pytest.mark.parametrize(
    ("values", "got"), [([0.9, -0.1] * 3, "-0.1"), ([101, 99] * 3, "101"), (["sure", "0.9"] * 3, "sure")]
)
def test_what_is_no_probability(values: list, got: str) -> None:
    with pytest.raises(UserError, match=f"from 0 to 1 or from 0 to 100 % in column 'race_probability', got {got}"):
        factor_table(raced(race_probability=values), ["race"])


def test_a_factor_of_which_one_value_alone_is_sure() -> None:
    with pytest.raises(UserError, match="'race'.* to vary over the 6 images, got only 'white'"):
        factor_table(raced(race_probability=[0.9, 0.1, 0.1, 0.9, 0.1, 0.1]), ["race"])
