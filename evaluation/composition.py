"""The picture that a user gets: the photograph with the decoded change composed into it, not its reconstruction.

An auto-encoder loses part of a photograph x, and D(z'), the decoded edit, loses it with it. What the edit changed is
D(z') − D(z), z the unedited latents; put into x it keeps everything that the edit did not touch. What the auto-encoder
lost, x − D(z), belongs to what was there before: where the edit replaced something (took glasses off), adding the
change leaves its outlines. So where the change is strong the decoded edit takes the photograph's place.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from models import check_choice

__all__ = ["COMPOSITIONS", "DEFAULT", "compose", "default_composition"]

COMPOSITIONS = ("blend", "replace", "threshold", "add", "none")
DEFAULT = "blend"  # of latents without places; see `default_composition`
KNEE = 0.04  # of the soft threshold, in [0, 1]: smaller changes are of the decoder, not of the edit
REPLACED = {"blend": 0.2, "replace": 0.05}  # mean change of the channels from which on the photograph is replaced
NEAR = 1 / 64  # of the picture's side: the deviation of the blur that joins neighbouring changes


def compose(
    photograph: Float[Tensor, "n 3 height width"],
    reconstruction: Float[Tensor, "n 3 size size"],
    edited: Float[Tensor, "n 3 size size"],
    how: str = DEFAULT,
) -> Float[Tensor, "n 3 height width"]:
    """The photographs with the change from `reconstruction` D(z) to `edited` D(z') put into them, all in [0, 1].

    `none`: D(z') itself, at the photograph's resolution. `add`: x + D(z') − D(z). `threshold`: the same with every
    change d of a channel shrunk to sign(d) · max(|d| − .04, 0). `blend`: (1 − m) (x + shrunken d) + m D(z'), m from 0
    to 1 as the change nearby goes from 0 to .2 (see `replaced`); `replace`: the same to .05. Decoded pictures are
    brought to the photograph's resolution bilinearly. Where the two are equal, the photograph comes back bit for bit.

    Raises:
        UserError: no such composition.
    """
    check_choice("compose", how, COMPOSITIONS)
    size = photograph.shape[-2:]
    if how == "none":
        return resized(edited, size).clamp(0, 1)
    change = edited - reconstruction
    if how != "add":
        change = functional.softshrink(change, KNEE)
    if how not in REPLACED:
        return (photograph + resized(change, size)).clamp(0, 1)
    share = replaced(edited - reconstruction, REPLACED[how])
    decoded = resized(share, size) * (resized(edited, size) - photograph)
    return (photograph + resized((1 - share) * change, size) + decoded).clamp(0, 1)


def default_composition(latent_shape: Sequence[int]) -> str:
    """What is best for latents of this shape: `replace` for those with places, else `blend`.

    A flat code moves the whole picture a little, whatever is edited, so that a small change says nothing.
    """
    return "replace" if len(latent_shape) == 3 else DEFAULT


def replaced(change: Float[Tensor, "n 3 size size"], most: float) -> Float[Tensor, "n 1 size size"]:
    """m: 0 where nothing changed nearby, 1 where the change is `most` or more; 3 t² − 2 t³ between, t their ratio."""
    deviation = NEAR * change.shape[-1]
    reach = min(math.ceil(2 * deviation), change.shape[-1] - 1)
    places = torch.arange(-reach, reach + 1, device=change.device)
    taps = torch.exp(-0.5 * (places / deviation).square())
    taps = taps / taps.sum()
    near = functional.pad(change.abs().mean(1, keepdim=True), (reach,) * 4, mode="reflect")
    near = functional.conv2d(functional.conv2d(near, taps[None, None, None]), taps[None, None, :, None])
    t = (near / most).clamp(0, 1)
    return t * t * (3 - 2 * t)


def resized(images: Float[Tensor, "n channels _ _"], size: torch.Size) -> Float[Tensor, "n channels height width"]:
    if images.shape[-2:] == size:
        return images
    return functional.interpolate(images, tuple(size), mode="bilinear", align_corners=False, antialias=True)
