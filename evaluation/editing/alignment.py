"""Where a run's square lies in a photograph of another size, and how it is taken out of it and put back.

A square is a matrix (2, 3) that maps places in the run's images, (x, y) as shares of their side, to pixels of the
photograph; pixels have their centres at .5. All functions are pure; where faces are is found by `models.dlib_faces`.
"""

from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

__all__ = ["Part", "Square", "centred", "changed_part", "cut_out", "side_of", "similarity"]

Square: TypeAlias = Float[Tensor, "2 3"]
BORDER = 0.06  # of the square's side: over so much a change fades out where the photograph goes on
LARGEST = 1024  # pixels: a change never has more detail than an encoder's images, so squares beyond are not resolved


class Part(NamedTuple):
    """A change of a part of a photograph, in [-1, 1], and the pixels where that begins."""

    change: Float[Tensor, "3 height width"]
    top: int
    left: int


def similarity(source: Float[Tensor, "n 2"], target: Float[Tensor, "n 2"]) -> Square:
    """The turn, scale and shift, without mirroring, that bring `source` nearest to `target` (least squares).

    Umeyama (1991) in two dimensions, where a turn with a scale is one complex number.
    """
    source, target = source.double(), target.double()
    middle, aim = source.mean(0), target.mean(0)
    (x, y), (u, v) = (source - middle).unbind(1), (target - aim).unbind(1)
    size = (x.square() + y.square()).sum()
    a, b = (x * u + y * v).sum() / size, (x * v - y * u).sum() / size
    turn = torch.stack([torch.stack([a, -b]), torch.stack([b, a])])
    return torch.cat([turn, (aim - turn @ middle)[:, None]], 1).float()


def centred(height: int, width: int, share: float) -> Square:
    """The square in the middle whose side is that share of the shorter side, as images are decoded."""
    side = max(1, round(share * min(height, width)))
    return torch.tensor([[side, 0.0, (width - side) // 2], [0.0, side, (height - side) // 2]])


def side_of(square: Square) -> int:
    """The side at which a square is worked on: that in the photograph, at most 1,024."""
    return max(1, min(LARGEST, round(float(square[:, 0].norm()))))


def centres(side: int) -> Float[Tensor, " side"]:
    return (torch.arange(side) + 0.5) / side


def cut_out(photograph: UInt8[Tensor, "3 height width"], square: Square, side: int) -> Float[Tensor, "3 side side"]:
    """The square's content in [0, 1]; beyond the photograph its edge goes on.

    A square larger than `side` is taken out at about its own size and averaged down, without aliasing.
    """
    height, width = photograph.shape[-2:]
    left, top, right, bottom = bounds(square, height, width, margin=3)  # bicubic reads two pixels around
    region = photograph[:, top:bottom, left:right].float() / 255
    finer = side * max(1, round(float(square[:, 0].norm()) / side))
    y, x = torch.meshgrid(centres(finer), centres(finer), indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], -1) @ square.T - torch.tensor([left, top])
    grid = places * 2 / torch.tensor([right - left, bottom - top]) - 1
    taken = functional.grid_sample(region[None], grid[None], "bicubic", "border", align_corners=False)
    return functional.interpolate(taken, (side, side), mode="area")[0].clamp(0, 1)


def bounds(square: Square, height: int, width: int, margin: int = 0) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the photograph's part that holds the square, at least one pixel of it."""
    shown = corners(square)
    low, high = shown.min(0).values.floor().long() - margin, shown.max(0).values.ceil().long() + margin
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return left, top, max(min(right, width), left + 1), max(min(bottom, height), top + 1)


def inverse(square: Square) -> Square:
    turn = torch.linalg.inv(square[:, :2])
    return torch.cat([turn, -turn @ square[:, 2:]], 1)


def corners(square: Square) -> Float[Tensor, "4 2"]:
    """Upper left, upper right, lower right, lower left, in pixels of the photograph."""
    return torch.tensor([[0.0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]]) @ square.T


def edges_inside(square: Square, height: int, width: int) -> list[bool]:
    """Tell at which of its edges, left, top, right and bottom, the square lies inside the photograph."""
    shown = corners(square)
    low, high = torch.tensor([0.5, 0.5]), torch.tensor([width - 0.5, height - 0.5])  # half a pixel decides nothing
    pairs = [shown[[0, 3]], shown[[0, 1]], shown[[1, 2]], shown[[2, 3]]]
    beyond = [((pair <= low).all(0) | (pair >= high).all(0)).any() for pair in pairs]
    return [not bool(outside) for outside in beyond]


def softness(places: Float[Tensor, "height width 2"], fading: list[bool]) -> Float[Tensor, "height width"]:
    """1 inside of the square, falling smoothly to 0 at each edge that fades; 0 outside."""
    x, y = places.unbind(-1)
    weight = ((x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)).float()
    for distance, fades in zip((x, y, 1 - x, 1 - y), fading, strict=True):
        if fades:
            t = (distance / BORDER).clamp(0, 1)
            weight = weight * t * t * (3 - 2 * t)
    return weight


def changed_part(change: Float[Tensor, "3 side side"], square: Square, height: int, width: int) -> Part:
    """Map a change of the square's content to a photograph of that size.

    It fades out towards the square's edges unless they are the photograph's own. Where it is 0 it stays exactly 0.
    """
    left, top, right, bottom = bounds(square, height, width)
    y, x = torch.meshgrid(torch.arange(top, bottom) + 0.5, torch.arange(left, right) + 0.5, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], -1) @ inverse(square).T  # as shares of the square's side
    spread = functional.grid_sample(change[None], (places * 2 - 1)[None], "bilinear", "border", align_corners=False)
    return Part(spread[0] * softness(places, edges_inside(square, height, width)), top, left)
