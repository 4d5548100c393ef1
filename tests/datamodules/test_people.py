"""Who is in which image: numbers, splits, and halves with nobody in both."""

import pandas as pd
import pytest
import torch

from datamodules.people import check_people, disjoint_halves, people_numbers, split_names
from models import UserError


def test_numbers_stand_and_names_are_hashed() -> None:
    ids = ["a", "b", "c", "d"]
    numbers = people_numbers(pd.Series([12, 12.0, None, 3]), ids)
    assert numbers[[0, 1, 3]].tolist() == [12, 12, 3] and numbers[2] < 0
    names = people_numbers(pd.Series(["Ann", " Ann", "Bob", None]), ids)
    assert names[0] == names[1] != names[2] and names[:3].min() > 20 and names[3] < 0
    assert people_numbers(pd.Series(["Bob"]), ["z"])[0] == names[2]  # whoever else is there
    assert split_names(numbers, ids) == ["12", "12", "c", "3"] and split_names(None, ids) == ids


def test_a_person_in_two_splits_is_refused() -> None:
    people, ids = torch.tensor([1, 1, 2, 2, 3]), list("abcde")
    check_people(people, torch.tensor([0, 0, 1, 1, 2], dtype=torch.uint8), ids)
    check_people(None, torch.tensor([0], dtype=torch.uint8), ids[:1])
    with pytest.raises(UserError, match=r"got 1 people in several \(one of them in d, training, and c, validation\)"):
        check_people(people, torch.tensor([0, 0, 1, 0, 2], dtype=torch.uint8), ids)


def test_halves_share_nobody_and_are_even() -> None:
    people = torch.randint(40, (500,), generator=torch.Generator().manual_seed(0))
    rows = torch.arange(0, 500, 2)
    first, second = disjoint_halves(people, rows)
    assert torch.equal(torch.cat([first, second]).sort().values, rows)
    assert not set(people[first].tolist()) & set(people[second].tolist())
    assert abs(len(first) - len(second)) < 30
    again = disjoint_halves(people, rows)
    assert torch.equal(first, again[0]) and torch.equal(second, again[1])


def test_halves_of_images_and_of_very_few() -> None:
    first, second = disjoint_halves([f"{i}.jpg" for i in range(100)], torch.arange(100))
    assert len(first) == len(second) == 50 and not torch.equal(first, torch.arange(50))
    first, second = disjoint_halves(torch.tensor([5, 5, 5, 9]), torch.arange(4))
    assert {len(first), len(second)} == {1, 3}
    with pytest.raises(UserError, match="at least two people, .* got 1: add images"):
        disjoint_halves(torch.tensor([5, 5, 5]), torch.arange(3))
