"""Interpolate between two embeddings, linearly and spherically: nearest rows of each step, a map, and images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64
from omegaconf import MISSING
from torch import Tensor

from datamodules.progress import with_progress
from evaluation.command import option
from evaluation.drawing.figures import Column, strip
from evaluation.embeddings.search import compare
from evaluation.embeddings.source import Source
from evaluation.maps.neighbours import draw_rows
from evaluation.maps.placement import check_placing, fitted
from evaluation.maps.projection import project
from evaluation.maps.scatter import Map
from models import UserError, check_choice
from models.stable_diffusion import StableDiffusion

__all__ = [
    "INTERPOLATIONS",
    "LINES",
    "Options",
    "Interpolation",
    "decode_steps",
    "diffuse_steps",
    "draw_images",
    "interpolate",
    "map_interpolation",
    "step_table",
]

MOST_IMAGES = 10  # images of an interpolation in the strip
LINES = 11  # steps of an interpolation that are printed; steps.csv has all
PARALLEL = 1e-6  # 1 − |cos| of ends between which no arc is defined, or none is needed


@dataclass
class Options:
    """Options, given as key=value."""

    between: list[str] = option(MISSING, "the two ends: names of rows, image files, or texts, as [A,B]")
    n: int = option(48, "number of points between the ends")
    interpolations: list[str] = option(["linear", "spherical"], "interpolations to compute", former="ways")
    k: int = option(3, "nearest rows to list at each step, without those of the ends")
    metric: str = option("cosine", "distance of the nearest rows: cosine or euclidean")
    map: str | None = option(
        "pca", "method of the map on which the steps are placed: pca, umap, tsne, or null for none"
    )
    diffusion: str | None = option(
        None, "Stable Diffusion, a folder or a name on the hub, that draws interpolated token states of two texts"
    )
    images: int = option(8, "steps that diffusion= draws, both ends included")
    denoising: int = option(30, "denoising steps of diffusion=")
    guidance: float = option(7.5, "classifier-free guidance scale of diffusion=")
    rows: int = option(2000, "largest number of rows that the map is fitted on")
    perplexity: float = option(30.0, "perplexity of t-SNE")
    neighbours: int = option(15, "neighbours of UMAP")
    seed: int = option(0, "seed of the rows, of the map and of the noise of diffusion=")
    out: str | None = option(None, "folder for the files (default: figures of the run, or embeddings/interpolate)")
    json: bool = option(False, "print one JSON object: steps and files")


class Interpolation(NamedTuple):
    """Points from one end to the other, both included, by interpolation; `own` are the row numbers of the ends."""

    ends: tuple[str, str]
    points: dict[str, Float[Tensor, "steps features"]]
    own: list[int]


def linear(a: Float64[np.ndarray, " d"], b: Float64[np.ndarray, " d"], t: Float64[np.ndarray, " steps"]) -> np.ndarray:
    """Interpolate along the straight line: (1 − t) a + t b.

    >>> linear(np.zeros(1), np.ones(1), np.array([0.25])).tolist()
    [[0.25]]
    """
    return (1 - t)[:, None] * a + t[:, None] * b


def spherical(
    a: Float64[np.ndarray, " d"], b: Float64[np.ndarray, " d"], t: Float64[np.ndarray, " steps"]
) -> np.ndarray:
    """Interpolate along the arc: [sin((1 − t) Ω) â + sin(t Ω) b̂] / sin Ω times the norm (1 − t) |a| + t |b|.

    â and b̂ are the ends at unit length, Ω is the angle between them. Shoemake 1985,
    https://doi.org/10.1145/325334.325242.

    Raises:
        UserError: an end of length 0, or opposite ends, between which there is no single shortest arc.
    """
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    if min(lengths) == 0:
        raise UserError("Expected ends that have a direction for interpolations=[spherical], got one of length 0.")
    first, second = a / lengths[0], b / lengths[1]
    cosine = float(np.clip(first @ second, -1, 1))
    if cosine < PARALLEL - 1:
        raise UserError(
            "Expected ends with one shortest arc between them, got opposite ones: use interpolations=[linear]."
        )
    if cosine > 1 - PARALLEL:  # along one direction the arc is the straight line
        return linear(a, b, t)
    angle = np.arccos(cosine)
    arc = (np.sin((1 - t) * angle)[:, None] * first + np.sin(t * angle)[:, None] * second) / np.sin(angle)
    return arc * linear(np.array([lengths[0]]), np.array([lengths[1]]), t)


INTERPOLATIONS = {"linear": linear, "spherical": spherical}


def interpolate(
    source: Source, a: str, b: str, n: int = 48, interpolations: Sequence[str] = tuple(INTERPOLATIONS)
) -> Interpolation:
    """Compute n points between the embeddings of two names, texts or image files, beside the two.

    Raises:
        UserError: an unknown interpolation, or none; fewer than one point; ends that cannot be embedded or are equal.
    """
    if not interpolations:
        choices = ", ".join(INTERPOLATIONS)
        raise UserError(f"Expected interpolations= among {choices}, got none: leave it out for both.")
    for name in interpolations:
        check_choice("interpolations", name, tuple(INTERPOLATIONS))
    if n < 1:
        raise UserError(f"Expected n, the points between, to be at least 1, got {n}.")
    vectors, own = source.embed([a, b])
    first, second = vectors.double().numpy()
    if (first == second).all():
        raise UserError(f"Expected two ends that differ, got {a!r} and {b!r} with the same embedding.")
    t = np.linspace(0, 1, n + 2)
    rows = {name: INTERPOLATIONS[name](first, second, t) for name in interpolations}
    points = {name: torch.from_numpy(each.astype(np.float32)) for name, each in rows.items()}
    return Interpolation((a, b), points, [*own[0], *own[1]])


def step_table(source: Source, path: Interpolation, k: int = 3, metric: str = "cosine") -> pd.DataFrame:
    """Tabulate every step: way, step, t, norm, cosines with the two ends, and the nearest rows other than the ends.

    The column `way` is the name of the interpolation.

    Raises:
        UserError: k larger than the number of other rows; vectors that have no distance.
    """
    parts, names = [], source.names
    for name, points in path.points.items():
        steps = len(points)
        near = [found for found, _ in source.index.ends(points, k, metric, [path.own] * steps)]
        values = points.numpy()
        table = pd.DataFrame({
            "way": name, "step": np.arange(steps), "t": np.linspace(0, 1, steps),
            "norm": np.linalg.norm(values.astype(np.float64), axis=1),
            "to_first": compare(values, values[:1])[0], "to_second": compare(values, values[-1:])[0],
            "nearest": [names[found.rows[0]] for found in near],
            "cosine": [found.cosine[0] for found in near], "euclidean": [found.euclidean[0] for found in near],
        })  # fmt: skip
        others = {f"nearest_{i + 1}": [names[found.rows[i]] for found in near] for i in range(1, k)}
        parts.append(table.assign(**others))
    return pd.concat(parts, ignore_index=True)


def map_interpolation(
    source: Source, path: Interpolation, method: str = "pca", metric: str = "cosine", rows: int = 2000,
    perplexity: float = 30.0, neighbours: int = 15, seed: int = 0
) -> tuple[pd.DataFrame, Map]:  # fmt: skip
    """Fit a map on rows of the data and place the steps on it: the table of the points, and their map.

    Raises:
        UserError: see `project`.
    """
    check_placing(method)
    chosen = np.union1d(draw_rows(len(source.names), rows, seed), np.array(path.own, np.int64))
    values = source.index.values[chosen].astype(np.float32)
    projection = project(values, method, 2, seed, perplexity, metric, len(values), neighbours)
    names = [source.names[row] for row in chosen]
    reducer = fitted(values, projection, names)
    coordinates, ids, kinds = [projection.coordinates], list(names), ["row"] * len(names)
    t, labels, lines = [], [], []
    for name, points in path.points.items():
        steps = len(points)
        lines.append(list(range(len(ids), len(ids) + steps)))
        coordinates.append(reducer.transform(points.numpy()))
        labels += [path.ends[0], *[""] * (steps - 2), path.ends[1]]
        ids += [f"{name}, step {step}" for step in range(steps)]
        kinds += [name] * steps
        t += np.linspace(0, 1, steps).tolist()
    table = pd.DataFrame({"id": ids, "kind": kinds, "t": [np.nan] * len(names) + t})
    return table, Map(np.concatenate(coordinates), projection.caption, [""] * len(names) + labels, lines)


def decode_steps(
    source: Source, path: Interpolation
) -> tuple[list[float], dict[str, Float[Tensor, "steps 3 size size"]]]:
    """Decode at most ten steps of each interpolation, the ends among them; return their t and their images."""
    steps = len(next(iter(path.points.values())))
    chosen = np.unique(np.linspace(0, steps - 1, min(steps, MOST_IMAGES)).round().astype(int))
    with torch.inference_mode():
        images = {name: source.encoder.decode(points[chosen].to(source.device)).float().cpu()
                  for name, points in path.points.items()}  # fmt: skip
    return (chosen / (steps - 1)).tolist(), images


def diffuse_steps(
    model: StableDiffusion, ends: Sequence[str], interpolations: Sequence[str], n: int, seed: int = 0, steps: int = 30,
    guidance: float = 7.5
) -> tuple[list[float], dict[str, Float[Tensor, "n 3 height width"]]]:  # fmt: skip
    """Draw n steps between two texts, the ends among them, from the same noise; return their t and their images.

    The state of each token is interpolated from that of one text to that of the other, by itself.

    Raises:
        UserError: fewer than two images.
    """
    if n < 2:
        raise UserError(f"Expected images, with both ends, to be at least 2, got {n}.")
    first, second = model.states(ends).double().numpy()
    t, images = np.linspace(0, 1, n), {}
    for name in interpolations:
        tokens = [INTERPOLATIONS[name](a, b, t) for a, b in zip(first, second, strict=True)]
        states = torch.from_numpy(np.stack(tokens, axis=1).astype(np.float32))
        shown = with_progress(states, n, f"Drawing the {name} interpolation")
        images[name] = torch.stack([model.images(state, seed, steps, guidance) for state in shown])
    return t.tolist(), images


def draw_images(file: Path, t: Sequence[float], images: dict[str, Tensor]) -> None:
    """Draw a row of images for each interpolation."""
    columns = [Column(f"{at:.2f}", torch.stack([rows[i] for rows in images.values()])) for i, at in enumerate(t)]
    strip(file, columns, list(images))
