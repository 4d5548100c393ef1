"""Measure composition and reversibility: null edits, and edits that are reversed, should leave photographs unchanged.

The two axioms are those of Monteiro et al., ICLR 2023 (https://arxiv.org/abs/2303.01274). Users get 8-bit pictures, so
every round starts from the 8-bit picture of the round before.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from datamodules.features import as_read
from evaluation.editing.counterfactual_metrics import mean_absolute_difference
from evaluation.editing.final_pictures import as_pictures, final_pictures
from models.interfaces import Editor, ImageEncoder, ReadingEditor

__all__ = ["measure_null_edits", "measure_reversibility"]

ROUNDS = {1: "composition/null_edit", 10: "composition/ten_null_edits"}


def latents_of(
    pictures: UInt8[Tensor, "n channels height width"], encoder: ImageEncoder, device: torch.device
) -> Float[Tensor, "n d"]:
    """Encode pictures of any size into posterior means."""
    return encoder.encode(as_read(pictures, encoder.size).to(device))[0]


def composed(
    pictures: UInt8[Tensor, "n 3 height width"],
    latents: Float[Tensor, "n d"],
    edited: Float[Tensor, "n d"],
    encoder: ImageEncoder,
    how: str,
) -> UInt8[Tensor, "n 3 height width"]:
    """Compose edited latents into their pictures, as 8-bit pictures."""
    before, after = encoder.decode(latents).cpu(), encoder.decode(edited).cpu()
    return (final_pictures(as_pictures(pictures), before, after, how) * 255).round().to(torch.uint8)


def values_of(
    editor: Editor, latents: Float[Tensor, "n d"], labels: Float[Tensor, "n factors"]
) -> Float[Tensor, "n factors"]:
    """Read the values of the factors from latents by the editor itself; the label where it cannot read or is unsure."""
    labels = labels.to(latents.device)
    read = editor.read(latents) if isinstance(editor, ReadingEditor) else labels
    return torch.where(read.isnan(), labels, read)


def null_edit(
    editor: Editor, latents: Float[Tensor, "n d"], labels: Float[Tensor, "n factors"]
) -> Float[Tensor, "n d"]:
    """Set every factor of latents to the value that it already has, one after the other; unknown values are left."""
    edited = latents.clone()
    for i, values in enumerate(values_of(editor, latents, labels).unbind(1)):
        known = ~values.isnan()
        if known.any():
            edited[known] = editor.edit(edited[known], i, values[known])
    return edited


@torch.inference_mode()
def measure_null_edits(
    editor: Editor,
    images: UInt8[Tensor, "n channels height width"],
    labels: Float[Tensor, "n factors"],
    encoder: ImageEncoder,
    how: str,
    device: torch.device,
) -> dict[str, float]:
    """Measure `composition/{null_edit,ten_null_edits}`: mean |picture − photograph| after one and ten null edits."""
    originals = images.expand(-1, 3, -1, -1)
    pictures, numbers = originals, {}
    for done in range(1, max(ROUNDS) + 1):
        latents = latents_of(pictures, encoder, device)
        pictures = composed(pictures, latents, null_edit(editor, latents, labels), encoder, how)
        if done in ROUNDS:
            numbers[ROUNDS[done]] = mean_absolute_difference(pictures, originals)
    return numbers


@torch.inference_mode()
def measure_reversibility(
    editor: Editor,
    images: UInt8[Tensor, "n channels height width"],
    labels: Float[Tensor, "n factors"],
    targets: Float[Tensor, "n factors"],
    names: Sequence[str],
    encoder: ImageEncoder,
    how: str,
    device: torch.device,
) -> dict[str, float]:
    """Measure `reversibility/<factor>`: mean |picture − photograph| after an edit to the target and one back.

    The edit back is to the value that a null edit would have set on the photograph. Photographs that already have the
    target value are left out.
    """
    originals, numbers = images.expand(-1, 3, -1, -1), {}
    latents = latents_of(originals, encoder, device)
    values = values_of(editor, latents, labels).cpu()
    for i, name in enumerate(names):
        known = ~(targets[:, i].isnan() | values[:, i].isnan()) & (targets[:, i] != values[:, i])
        if not known.any():
            continue
        z, target, value = latents[known.to(device)], targets[known, i].to(device), values[known, i].to(device)
        pictures = composed(originals[known], z, editor.edit(z, i, target), encoder, how)
        z = latents_of(pictures, encoder, device)
        pictures = composed(pictures, z, editor.edit(z, i, value), encoder, how)
        numbers[f"reversibility/{name}"] = mean_absolute_difference(pictures, originals[known])
    return numbers
