"""Crop the square that a run sees out of a photograph of another size, and put a change of it back.

A square is a matrix (2, 3) that maps points of the run's images, (x, y) as shares of their side, to pixels of the
photograph; pixels have their centres at .5. All functions are pure; faces are detected by `models.dlib_faces`.
"""

from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

__all__ = ["Part", "Square", "centred", "changed_part", "cut_out", "side_of", "similarity"]

Square: TypeAlias = Float[Tensor, "2 3"]
BORDER = 0.06  # share of the square's side over which a change fades out where the photograph continues
LARGEST = 1024  # pixels: a change never has more detail than the encoder's images, so larger squares are resized


class Part(NamedTuple):
    """A change of a part of a photograph, in [-1, 1], and the first row and column of that part."""

    change: Float[Tensor, "3 height width"]
    top: int
    left: int


def similarity(source: Float[Tensor, "n 2"], target: Float[Tensor, "n 2"]) -> Square:
    """Fit the similarity transform, without reflection, that maps `source` to `target` in least squares.

    Umeyama (1991) in two dimensions, where a rotation with a scale is one complex number.

    >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> similarity(points, 2 * points + 3).round(decimals=4).abs().tolist()
    [[2.0, 0.0, 3.0], [0.0, 2.0, 3.0]]
    """
    source, target = source.double(), target.double()
    centre, aim = source.mean(0), target.mean(0)
    (x, y), (u, v) = (source - centre).unbind(1), (target - aim).unbind(1)
    size = (x.square() + y.square()).sum()
    a, b = (x * u + y * v).sum() / size, (x * v - y * u).sum() / size
    rotation = torch.stack([torch.stack([a, -b]), torch.stack([b, a])])
    return torch.cat([rotation, (aim - rotation @ centre)[:, None]], 1).float()


def centred(height: int, width: int, share: float) -> Square:
    """Return the square in the middle whose side is a share of the shorter side, as data sets are cropped.

    >>> centred(100, 200, 1.0).tolist()
    [[100.0, 0.0, 50.0], [0.0, 100.0, 0.0]]
    """
    side = max(1, round(share * min(height, width)))
    return torch.tensor([[side, 0.0, (width - side) // 2], [0.0, side, (height - side) // 2]])


def side_of(square: Square) -> int:
    """Return the side in pixels at which a square is edited: that in the photograph, at most 1,024."""
    return max(1, min(LARGEST, round(float(square[:, 0].norm()))))


def centres(side: int) -> Float[Tensor, " side"]:
    """Return the centres of pixels as shares of the side."""
    return (torch.arange(side) + 0.5) / side


def cut_out(photograph: UInt8[Tensor, "3 height width"], square: Square, side: int) -> Float[Tensor, "3 side side"]:
    """Crop the content of a square, in [0, 1]; beyond the photograph its edge pixels are repeated.

    A square larger than `side` is sampled at about its own size and averaged down, which avoids aliasing.
    """
    height, width = photograph.shape[-2:]
    left, top, right, bottom = bounds(square, height, width, margin=3)  # bicubic reads two pixels around
    region = photograph[:, top:bottom, left:right].float() / 255
    finer = side * max(1, round(float(square[:, 0].norm()) / side))
    y, x = torch.meshgrid(centres(finer), centres(finer), indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], -1) @ square.T - torch.tensor([left, top])
    grid = places * 2 / torch.tensor([right - left, bottom - top]) - 1
    content = functional.grid_sample(region[None], grid[None], "bicubic", "border", align_corners=False)
    return functional.interpolate(content, (side, side), mode="area")[0].clamp(0, 1)


def bounds(square: Square, height: int, width: int, margin: int = 0) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the part of the photograph that holds the square, at least one pixel."""
    shown = corners(square)
    low, high = shown.min(0).values.floor().long() - margin, shown.max(0).values.ceil().long() + margin
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return left, top, max(min(right, width), left + 1), max(min(bottom, height), top + 1)


def inverse(square: Square) -> Square:
    """Invert the affine map of a square."""
    linear = torch.linalg.inv(square[:, :2])
    return torch.cat([linear, -linear @ square[:, 2:]], 1)


def corners(square: Square) -> Float[Tensor, "4 2"]:
    """Return the upper left, upper right, lower right and lower left corner, in pixels of the photograph."""
    return torch.tensor([[0.0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]]) @ square.T


def edges_inside(square: Square, height: int, width: int) -> list[bool]:
    """Tell at which of its edges, left, top, right and bottom, the square lies inside the photograph."""
    shown = corners(square)
    low, high = torch.tensor([0.5, 0.5]), torch.tensor([width - 0.5, height - 0.5])  # half a pixel decides nothing
    pairs = [shown[[0, 3]], shown[[0, 1]], shown[[1, 2]], shown[[2, 3]]]
    beyond = [((pair <= low).all(0) | (pair >= high).all(0)).any() for pair in pairs]
    return [not bool(outside) for outside in beyond]


def softness(places: Float[Tensor, "height width 2"], fading: list[bool]) -> Float[Tensor, "height width"]:
    """Weight pixels: 1 inside of the square, falling smoothly to 0 at each edge that fades, and 0 outside."""
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
