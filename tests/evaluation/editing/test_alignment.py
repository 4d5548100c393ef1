"""Squares of photographs: pure geometry with known answers."""

import math

import pytest
import torch
from torch import Tensor

from evaluation.editing.alignment import LARGEST, centred, changed_part, cut_out, side_of, similarity


def smooth(height: int, width: int) -> Tensor:
    """A picture without detail, which a warp keeps."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 3, width), indexing="ij")
    return (torch.stack([x.sin(), y.cos(), (x + y).sin()]) * 100 + 128).round().to(torch.uint8)


def turned(side: float, degrees: float, middle: tuple[float, float]) -> Tensor:
    """A square of that side around that place."""
    a, b = side * math.cos(math.radians(degrees)), side * math.sin(math.radians(degrees))
    turn = torch.tensor([[a, -b], [b, a]])
    return torch.cat([turn, (torch.tensor(middle) - turn @ torch.tensor([0.5, 0.5]))[:, None]], 1)


def test_a_similarity_is_found_again() -> None:
    wanted, points = turned(37.0, 25.0, (60.0, 41.0)), torch.rand(5, 2)
    there = torch.cat([points, torch.ones(5, 1)], 1) @ wanted.T
    torch.testing.assert_close(similarity(points, there), wanted)


def test_a_similarity_does_not_mirror() -> None:
    points = torch.tensor([[0.0, 0], [1, 0], [1, 2], [0, 1]])
    found = similarity(points, points * torch.tensor([-1.0, 1]))
    assert torch.linalg.det(found[:, :2]) > 0


@pytest.mark.parametrize(("height", "width", "share"), [(40, 30, 1.0), (31, 50, 0.7)])
def test_the_middle_comes_out_bit_for_bit(height: int, width: int, share: float) -> None:
    photograph = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    square = centred(height, width, share)
    side = side_of(square)
    top, left = (height - side) // 2, (width - side) // 2
    assert side == round(share * min(height, width))
    taken = (cut_out(photograph, square, side) * 255).round().to(torch.uint8)
    assert torch.equal(taken, photograph[:, top : top + side, left : left + side])


def test_there_and_back() -> None:
    """What is taken out of a turned square and put in as a change onto black is the picture again."""
    photograph = smooth(120, 150)
    square = turned(70.0, 20.0, (80.0, 60.0))
    content = cut_out(photograph, square, side_of(square))
    part = changed_part(content, square, 120, 150)
    height, width = part.change.shape[-2:]
    original = photograph[:, part.top : part.top + height, part.left : part.left + width] / 255
    y, x = torch.meshgrid(torch.arange(height) + part.top, torch.arange(width) + part.left, indexing="ij")
    inside = ((x - 80).square() + (y - 60).square()).sqrt() < 27
    torch.testing.assert_close(part.change[:, inside], original[:, inside], atol=0.01, rtol=0)
    assert part.change[:, 0, 0].abs().max() == 0, "a corner of the bounding box lies outside of the square"


def test_a_large_square_is_averaged_down_and_a_huge_one_not_resolved() -> None:
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255).to(torch.uint8).expand(3, 64, 64)
    torch.testing.assert_close(
        cut_out(board, centred(64, 64, 1.0), 16), torch.full((3, 16, 16), 0.5), atol=0.02, rtol=0
    )
    assert side_of(centred(5000, 4000, 1.0)) == LARGEST


def test_no_change_is_exactly_none() -> None:
    assert changed_part(torch.zeros(3, 9, 9), turned(20.3, 11.0, (15.0, 14.0)), 40, 30).change.abs().max() == 0


def test_a_change_fades_only_where_the_photograph_goes_on() -> None:
    part = changed_part(
        torch.ones(3, 30, 30), centred(40, 30, 1.0), 40, 30
    )  # its left and right edge are the picture's
    assert (part.top, part.left, *part.change.shape) == (5, 0, 3, 30, 30)
    assert part.change[0, 15, 0] == part.change[0, 15, 29] == part.change[0, 15, 15] == 1
    assert 0 < part.change[0, 0, 15] < 0.5 and 0 < part.change[0, 29, 15] < 0.5
    whole = changed_part(torch.ones(3, 30, 30), centred(30, 30, 1.0), 30, 30).change
    assert torch.equal(whole, torch.ones(3, 30, 30))


def test_a_square_that_reaches_beyond_the_photograph() -> None:
    photograph = smooth(50, 50)
    square = turned(40.0, 0.0, (0.0, 0.0))
    taken = cut_out(photograph, square, 40)
    torch.testing.assert_close(taken[:, 5, 5], photograph[:, 0, 0] / 255, atol=0.02, rtol=0)  # its edge goes on
    part = changed_part(torch.ones(3, 40, 40), square, 50, 50)
    assert (part.top, part.left, *part.change.shape[-2:]) == (0, 0, 20, 20) and part.change[0, 0, 0] == 1
