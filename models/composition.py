"""Compose the change of a decoded edit into the photograph, so that the rest of the photograph is not reconstructed.

An auto-encoder loses details of a photograph x, and so does D(z'), the decoded edit. The edit changed D(z') − D(z), z
the unedited latents; added to x, this change keeps everything that the edit did not touch. But the lost details
x − D(z) belong to the unedited content: where the edit replaced something (removed glasses), its outlines remain. So
where the change is strong, the decoded edit replaces the photograph.
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
DEFAULT = "blend"  # for flat latents; see `default_composition`
KNEE = 0.04  # of the soft threshold, in [0, 1]: smaller changes come from the decoder, not from the edit
REPLACED = {"blend": 0.2, "replace": 0.05}  # mean change over channels from which on the photograph is replaced
NEAR = 1 / 64  # standard deviation of the blur that joins neighbouring changes, as a share of the picture's side


def compose(
    photograph: Float[Tensor, "n 3 height width"],
    reconstruction: Float[Tensor, "n 3 size size"],
    edited: Float[Tensor, "n 3 size size"],
    how: str = DEFAULT,
) -> Float[Tensor, "n 3 height width"]:
    """Compose the change from `reconstruction` D(z) to `edited` D(z') into the photographs x; all are in [0, 1].

    `none`: D(z') itself, at the photograph's resolution. `add`: x + D(z') − D(z). `threshold`: the same with every
    change d of a channel shrunk to sign(d) · max(|d| − .04, 0). `blend`: (1 − m) (x + shrunken d) + m D(z'), where m
    rises from 0 to 1 as the change nearby goes from 0 to .2 (see `replaced`). `replace`: the same, up to .05. Decoded
    pictures are resized to the photograph's resolution bilinearly. Where D(z') = D(z), the result equals x exactly.

    Raises:
        UserError: the composition is unknown.

    >>> compose(torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)).unique()
    tensor([1.])
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
    """Return the best composition for latents of this shape: `replace` for spatial latents, `blend` for flat ones.

    A flat code changes the whole picture a little, whatever is edited, so a small change need not be the edit.

    >>> default_composition((4, 8, 8)), default_composition((64,))
    ('replace', 'blend')
    """
    return "replace" if len(latent_shape) == 3 else DEFAULT


def replaced(change: Float[Tensor, "n 3 size size"], most: float) -> Float[Tensor, "n 1 size size"]:
    """Return m = 3 t² − 2 t³, t the blurred change divided by `most` and clamped to [0, 1].

    m is 0 where nothing changed nearby, and 1 where the change is `most` or more.
    """
    deviation = NEAR * change.shape[-1]
    reach = min(math.ceil(2 * deviation), change.shape[-1] - 1)
    offsets = torch.arange(-reach, reach + 1, device=change.device)
    taps = torch.exp(-0.5 * (offsets / deviation).square()).to(change.dtype)
    taps = taps / taps.sum()
    near = functional.pad(change.abs().mean(1, keepdim=True), (reach,) * 4, mode="reflect")
    near = functional.conv2d(functional.conv2d(near, taps[None, None, None]), taps[None, None, :, None])
    t = (near / most).clamp(0, 1)
    return t * t * (3 - 2 * t)


def resized(images: Float[Tensor, "n channels _ _"], size: torch.Size) -> Float[Tensor, "n channels height width"]:
    if images.shape[-2:] == size:
        return images
    return functional.interpolate(images, tuple(size), mode="bilinear", align_corners=False, antialias=True)
