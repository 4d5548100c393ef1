"""The picture that a user gets: the photograph with the decoded change composed into it, not its reconstruction.

An auto-encoder loses part of a photograph x, and D(z'), the decoded edit, loses it with it. What the edit changed is
D(z') − D(z), z the unedited latents; put into x it keeps everything that the edit did not touch.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from models import check_choice

__all__ = ["COMPOSITIONS", "DEFAULT", "compose"]

COMPOSITIONS = ("threshold", "add", "none")
DEFAULT = "threshold"  # of run.edit and of python -m evaluation.edit
KNEE = 0.04  # of the soft threshold, in [0, 1]: smaller changes are of the decoder, not of the edit


def compose(
    photograph: Float[Tensor, "n 3 height width"],
    reconstruction: Float[Tensor, "n 3 size size"],
    edited: Float[Tensor, "n 3 size size"],
    how: str = DEFAULT,
) -> Float[Tensor, "n 3 height width"]:
    """The photographs with the change from `reconstruction` D(z) to `edited` D(z') put into them, all in [0, 1].

    `none`: D(z') itself, at the photograph's resolution. `add`: x + D(z') − D(z). `threshold`: the same with every
    change d of a channel shrunk to sign(d) · max(|d| − .04, 0). The change is brought to the photograph's resolution
    bilinearly. Where the two decoded pictures are equal, the photograph comes back bit for bit.

    Raises:
        UserError: no such composition.
    """
    check_choice("compose", how, COMPOSITIONS)
    size = photograph.shape[-2:]
    if how == "none":
        return resized(edited, size).clamp(0, 1)
    change = edited - reconstruction
    if how == "threshold":
        change = functional.softshrink(change, KNEE)
    return (photograph + resized(change, size)).clamp(0, 1)


def resized(images: Float[Tensor, "n 3 _ _"], size: torch.Size) -> Float[Tensor, "n 3 height width"]:
    if images.shape[-2:] == size:
        return images
    return functional.interpolate(images, tuple(size), mode="bilinear", align_corners=False, antialias=True)
