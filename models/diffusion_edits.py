"""Edits with a diffusion flow (`models/diffusion_flow.py`).

Latents that are read as the requested label with confidence stay as they are; others are edited with the smallest
guidance that suffices.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.diffusion_flow import DiffusionFlow

__all__ = ["SURE", "UNREAD_REACH", "encoded", "moved", "surely"]

SURE = 0.8  # share of the way to a label's embedding from which on a reading counts as that label with confidence
UNREAD_REACH = 3.0  # guidance of samples and of edits of single components, for which it is not searched
PART = 512  # rows that are encoded at a time


def encoded(flow: DiffusionFlow, latents: Float[Tensor, "batch d"]) -> Float[Tensor, "batch codes"]:
    """Compute codes T(z) in parts, because each image takes ten or more passes of a U-Net."""
    return torch.cat([flow(part) for part in latents.split(PART)])


def surely(read: Float[Tensor, "batch block"], goal: Float[Tensor, "batch block"]) -> Bool[Tensor, " batch"]:
    """Tell of each row whether a factor's components reach four fifths of the way to a label's embedding.

    >>> surely(torch.tensor([[0.9], [0.7]]), torch.tensor([[1.0], [1.0]]))
    tensor([ True, False])
    """
    return (read * goal).sum(1) >= SURE * goal.square().sum(1)


def moved(
    flow: DiffusionFlow,
    latents: Float[Tensor, "batch d"],
    factor: int,
    goal: Float[Tensor, "batch block"],
    strength: float,
) -> Float[Tensor, "batch d"]:
    """Edit a factor of latents to an embedding, with the smallest guidance that suffices (`DiffusionFlow.reach`).

    For a factor with classes, latents that are already read as the embedding's label (`surely`) stay as they are.
    """
    labels, edited = flow.guide.labels, latents.clone()
    block, continuous = labels.blocks[factor], labels.factors[factor].kind == "continuous"
    read = flow.read(latents)[:, block]
    rows = torch.ones_like(read[:, 0], dtype=torch.bool) if continuous else ~surely(read, goal)
    if rows.any():
        codes = encoded(flow, latents[rows])
        target = flow.reach(codes, factor, goal[rows])
        codes[:, block] = torch.lerp(codes[:, block], target, strength)
        edited[rows] = flow.inverse(codes)
    return edited
