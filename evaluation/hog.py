"""Histograms of oriented gradients: Dalal and Triggs (2005), https://doi.org/10.1109/CVPR.2005.177.

The same numbers as `skimage.feature.hog` with its defaults of L2-Hys and 2 × 2 cells a block, for a batch of images at
once: scikit-image takes them one by one, some 5 ms each, and tens of thousands of edited images are to be read.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["hog"]

TINY, MOST = 1e-5, 0.2  # scikit-image's epsilon, and Lowe's largest share of one histogram bin


def hog(images: Float[Tensor, "n high wide"], orientations: int = 9, cell: int = 8) -> Float[Tensor, "n features"]:
    """Of grey images: shares of unsigned gradient orientations in cells, normalised over overlapping 2 × 2 cells."""
    down, across = torch.zeros_like(images), torch.zeros_like(images)
    down[:, 1:-1] = images[:, 2:] - images[:, :-2]
    across[:, :, 1:-1] = images[:, :, 2:] - images[:, :, :-2]
    turn = torch.atan2(down, across).remainder_(math.pi)
    # A tiny negative angle's remainder rounds up to π itself, which is the last bin's.
    bins = (turn * (orientations / math.pi)).long().clamp_(max=orientations - 1)
    magnitude = torch.hypot(down, across)
    spread = [torch.where(bins == i, magnitude, 0.0) for i in range(orientations)]
    cells = functional.avg_pool2d(torch.stack(spread, dim=1), cell)
    blocks = cells.unfold(2, 2, 1).unfold(3, 2, 1)  # n, orientations, rows, columns, 2, 2
    blocks = blocks.permute(0, 2, 3, 4, 5, 1).flatten(3)
    blocks = (blocks / (blocks.square().sum(-1, keepdim=True) + TINY**2).sqrt()).clamp_(max=MOST)
    return (blocks / (blocks.square().sum(-1, keepdim=True) + TINY**2).sqrt()).flatten(1)
