"""Draw the figures of a run on held-out images: edits, components, samples and reconstructions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from datamodules.factors import ImageData
from datamodules.features import as_read
from datamodules.splits import TEST, TRAIN
from evaluation.drawing.figures import (
    COMPONENT_VALUES,
    component_strip,
    edit_strips,
    factor_grid,
    reconstructions,
    samples,
)
from evaluation.editing.final_pictures import as_pictures, final_pictures
from evaluation.editing.measure import edit_targets
from evaluation.report.tables import editor_title
from models.composition import DEFAULT, compose
from models.interfaces import Editor, ImageEncoder
from models.labels import Factor, Statistics, factor_statistics
from training.files import file_name

__all__ = ["draw_edits", "draw_flow", "draw_reconstructions"]

PER_BLOCK = 2  # the first components of each block get a strip
SAMPLES = 8


def shuffled(rows: Int64[Tensor, " n"], seed: int) -> Int64[Tensor, " n"]:
    """Shuffle row numbers."""
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]


def encoded(
    encoder: ImageEncoder, images: UInt8[Tensor, "n 3 size size"], device: torch.device | str
) -> Float[Tensor, "n d"]:
    """Encode images of any size into posterior means."""
    return encoder.encode(as_read(images, encoder.size).to(device))[0]


def both_directions(targets: Float[Tensor, " n"], rows: int) -> Int64[Tensor, " rows"]:
    """Choose the positions of the first targets, half of them upward if there are as many, the upward ones first."""
    known = (~targets.isnan()).nonzero().flatten()
    if not len(known):
        return known
    upward = targets[known] > (targets[known].min() + targets[known].max()) / 2
    up, down = known[upward], known[~upward]
    half = max(rows - rows // 2, rows - len(down))
    return torch.cat([up[:half], down[: rows - min(half, len(up))]])


def target_name(factor: Factor, target: float, statistics: Statistics, i: int) -> str:
    """Name a target value; of a continuous factor by the end that it lies at."""
    if factor.kind != "continuous":
        return factor.values[round(target)]
    return factor.values[int(target > statistics.median[i].item())]


@torch.inference_mode()
def draw_edits(
    folder: Path,
    data: ImageData,
    encoder: ImageEncoder,
    editors: Mapping[str, Editor],
    device: torch.device | str = "cpu",
    rows: int = 4,
    seed: int = 0,
    how: str = DEFAULT,
) -> None:
    """Draw `edit_<factor>.png`, both directions of each factor by every editor, and `factor_grid.png` by the first.

    The first editor is the run's own. Edits are composed into their images by the composition `how`, as a user gets
    them; where scenes can be drawn again, the ground-truth counterfactual is shown, too.
    """
    train, held = data.factors[data.rows(TRAIN)], shuffled(data.rows(TEST), seed)
    statistics = factor_statistics(train.values)
    targets = edit_targets(data.factors[held], train, statistics, torch.Generator().manual_seed(seed))
    for i, factor in enumerate(data.factors.factors):
        places = both_directions(targets[:, i], rows)
        if not len(places):
            continue
        chosen, values = held[places], targets[places, i]
        images = rgb(data.images[chosen])
        latents = encoded(encoder, images, device)
        reconstruction = encoder.decode(latents).cpu()
        edited = {
            editor_title(name): final(images, reconstruction, editor.edit(latents, i, values.to(device)), encoder, how)
            for name, editor in editors.items()
        }
        truth = None if data.counterfactual is None else rgb(data.counterfactual(chosen, factor.name, values))
        labels = [f"→ {target_name(factor, target, statistics, i)}" for target in values.tolist()]
        file = folder / f"edit_{file_name(factor.name)}.png"
        shown = shown_reconstruction(reconstruction, images)
        edit_strips(file, factor.name, labels, images, shown, edited, truth)
    draw_grid(folder, data, encoder, next(iter(editors.values())), device, held[:rows], targets[:rows], how)


def rgb(images: UInt8[Tensor, "n channels size size"]) -> UInt8[Tensor, "n 3 size size"]:
    """Convert grey images to RGB."""
    return images.expand(-1, 3, -1, -1)


def final(
    images: UInt8[Tensor, "n 3 size size"],
    reconstruction: Float[Tensor, "n 3 side side"],
    edited: Float[Tensor, "n d"],
    encoder: ImageEncoder,
    how: str,
) -> Float[Tensor, "n 3 size size"]:
    """Decode edited latents and compose them into their images."""
    return final_pictures(as_pictures(images), reconstruction, encoder.decode(edited).cpu(), how)


def shown_reconstruction(
    reconstruction: Float[Tensor, "n 3 side side"], images: UInt8[Tensor, "n 3 size size"]
) -> Float[Tensor, "n 3 size size"]:
    """Resize a reconstruction to the size of the images beside it."""
    return compose(as_pictures(images), reconstruction, reconstruction, "none")


def draw_grid(
    folder: Path,
    data: ImageData,
    encoder: ImageEncoder,
    editor: Editor,
    device: torch.device | str,
    rows: Int64[Tensor, " rows"],
    targets: Float[Tensor, "rows factors"],
    how: str,
) -> None:
    """Draw every factor of the same images edited to its target, or unedited where no target is known.

    Where scenes can be drawn again, the ground truth stands below each edit.
    """
    images = rgb(data.images[rows])
    latents = encoded(encoder, images, device)
    edited, truth, reconstruction = {}, {}, encoder.decode(latents).cpu()
    for i, factor in enumerate(data.factors.factors):
        known = ~targets[:, i].isnan()
        changed = latents.clone()
        if known.any():
            changed[known] = editor.edit(latents[known], i, targets[known, i].to(latents.device))
            edited[factor.name] = final(images, reconstruction, changed, encoder, how)
            if data.counterfactual is not None:
                truth[factor.name] = images.clone()
                truth[factor.name][known] = rgb(data.counterfactual(rows[known], factor.name, targets[known, i]))
    if edited:
        shown = shown_reconstruction(reconstruction, images)
        factor_grid(folder / "factor_grid.png", images, shown, edited, truth or None)


@torch.inference_mode()
def draw_flow(
    folder: Path,
    data: ImageData,
    encoder: ImageEncoder,
    iin: Any,
    device: torch.device | str = "cpu",
    rows: int = 4,
    seed: int = 0,
    how: str = DEFAULT,
) -> None:
    """Draw `component_<number>.png` of the first components of each block and of the residual, and `samples.png`.

    The changes are composed into the images as in `draw_edits`. Each row of samples is drawn from the same noise, with
    one factor at one of its values.
    """
    images = data.images[shuffled(data.rows(TEST), seed)[:rows]]
    latents = encoded(encoder, images, device)
    reconstruction = encoder.decode(latents).cpu()
    blocks = {factor.name: block for factor, block in zip(iin.factors, iin.blocks, strict=True)}
    first = max((block.stop for block in blocks.values()), default=0)
    for name, block in {**blocks, "residual": slice(first, latents.shape[1])}.items():
        for component in range(block.start, min(block.stop, block.start + PER_BLOCK)):
            edited = [
                final(rgb(images), reconstruction, iin.set_component(latents, component, value), encoder, how)
                for value in COMPONENT_VALUES
            ]
            title = f"component {component} ({name})"
            component_strip(folder / f"component_{component}.png", title, images, COMPONENT_VALUES, edited)
    drawn: dict[str, Tensor] = {"any": sampled(encoder, iin, {}, seed)}
    for i, factor in enumerate(iin.factors):
        statistics = factor_statistics(data.factors[data.rows(TRAIN)].values)
        ends = (statistics.low[i].item(), statistics.high[i].item())
        values = ends if factor.kind == "continuous" else tuple(map(float, range(len(factor.values))))
        for value in values:
            word = target_name(factor, value, statistics, i)
            drawn[f"{factor.name}: {word}"] = sampled(encoder, iin, {i: value}, seed)
    samples(folder / "samples.png", drawn)


def sampled(encoder: ImageEncoder, iin: Any, values: dict[int, float], seed: int) -> Float[Tensor, "n 3 size size"]:
    """Decode samples of the flow with factors set to values."""
    return encoder.decode(iin.sample(SAMPLES, values, torch.Generator().manual_seed(seed)))


@torch.inference_mode()
def draw_reconstructions(
    folder: Path, data: ImageData, encoder: ImageEncoder, device: torch.device | str = "cpu", n: int = 16, seed: int = 0
) -> None:
    """Draw `reconstructions.png`: test images above their reconstructions."""
    images = data.images[shuffled(data.rows(TEST), seed)[:n]]
    reconstructions(folder / "reconstructions.png", images, encoder.decode(encoded(encoder, images, device)))
