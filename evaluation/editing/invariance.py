"""Measure null edits and edits there and back, which should leave photographs as they were.

Monteiro et al., ICLR 2023 (https://arxiv.org/abs/2303.01274) call the two axioms composition and reversibility. A user
gets 8-bit pictures, so every round starts from the picture of the round before in whole numbers of 1/255.
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
    return encoder.encode(as_read(pictures, encoder.size).to(device))[0]


def composed(
    pictures: UInt8[Tensor, "n 3 height width"],
    latents: Float[Tensor, "n d"],
    edited: Float[Tensor, "n d"],
    encoder: ImageEncoder,
    how: str,
) -> UInt8[Tensor, "n 3 height width"]:
    """The final pictures of edited latents, as a file has them."""
    before, after = encoder.decode(latents).cpu(), encoder.decode(edited).cpu()
    return (final_pictures(as_pictures(pictures), before, after, how) * 255).round().to(torch.uint8)


def values_of(
    editor: Editor, latents: Float[Tensor, "n d"], labels: Float[Tensor, "n factors"]
) -> Float[Tensor, "n factors"]:
    """Read the factor's values from latents by the editor itself; the label where it cannot read or is not sure."""
    labels = labels.to(latents.device)
    read = editor.read(latents) if isinstance(editor, ReadingEditor) else labels
    return torch.where(read.isnan(), labels, read)


def null_edit(
    editor: Editor, latents: Float[Tensor, "n d"], labels: Float[Tensor, "n factors"]
) -> Float[Tensor, "n d"]:
    """Latents with every factor set to the value that it has already, one after the other; unknown labels are left."""
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
    """`composition/{null_edit,ten_null_edits}`: mean |picture − photograph| after one and after ten null edits."""
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
    """`reversibility/<factor>`: mean |picture − photograph| after an edit to the target and one back.

    Back is the value that a null edit would have set on the photograph. Those that have the target are left out.
    """
    originals, numbers = images.expand(-1, 3, -1, -1), {}
    latents = latents_of(originals, encoder, device)
    values = values_of(editor, latents, labels).cpu()
    for i, name in enumerate(names):
        known = ~(targets[:, i].isnan() | values[:, i].isnan()) & (targets[:, i] != values[:, i])
        if not known.any():
            continue
        z, there, back = latents[known.to(device)], targets[known, i].to(device), values[known, i].to(device)
        pictures = composed(originals[known], z, editor.edit(z, i, there), encoder, how)
        z = latents_of(pictures, encoder, device)
        pictures = composed(pictures, z, editor.edit(z, i, back), encoder, how)
        numbers[f"reversibility/{name}"] = mean_absolute_difference(pictures, originals[known])
    return numbers
