"""The ways between two embeddings, a line and an arc: the rows that they pass, a map of them, and images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64
from omegaconf import MISSING
from torch import Tensor

from datamodules.progress import with_progress
from evaluation.drawing.figures import Column, strip
from evaluation.embeddings.search import compare
from evaluation.embeddings.source import Source
from evaluation.maps.neighbours import draw_rows
from evaluation.maps.placement import check_placing, fitted
from evaluation.maps.projection import project
from evaluation.maps.scatter import Map
from models import UserError, check_choice
from models.stable_diffusion import StableDiffusion

__all__ = ["LINES", "Options", "Way", "decoded", "diffused", "draw_images", "interpolate", "map_ways", "way"]

WAYS = ("linear", "spherical")
MOST_IMAGES = 10  # of a way in the strip
LINES = 11  # of a way that are printed; steps.csv has all
PARALLEL = 1e-6  # 1 − |cos| of ends between which no arc is defined, or none is needed


@dataclass
class Options:
    """See the text of `evaluation.interpolate`."""

    between: list[str] = MISSING
    n: int = 48
    ways: list[str] = field(default_factory=lambda: list(WAYS))
    k: int = 3
    metric: str = "cosine"
    map: str | None = "pca"
    diffusion: str | None = None
    images: int = 8
    denoising: int = 30
    guidance: float = 7.5
    rows: int = 2000
    perplexity: float = 30.0
    neighbours: int = 15
    seed: int = 0
    out: str | None = None
    json: bool = False


class Way(NamedTuple):
    """Points from one end to the other, both included; `own` are the rows that the ends are."""

    ends: tuple[str, str]
    points: dict[str, Float[Tensor, "steps features"]]
    own: list[int]


def linear(a: Float64[np.ndarray, " d"], b: Float64[np.ndarray, " d"], t: Float64[np.ndarray, " steps"]) -> np.ndarray:
    """(1 − t) a + t b."""
    return (1 - t)[:, None] * a + t[:, None] * b


def spherical(
    a: Float64[np.ndarray, " d"], b: Float64[np.ndarray, " d"], t: Float64[np.ndarray, " steps"]
) -> np.ndarray:
    """[sin((1 − t) Ω) â + sin(t Ω) b̂] / sin Ω, Ω the angle between the ends, times the length between theirs.

    Shoemake 1985, https://doi.org/10.1145/325334.325242.

    Raises:
        UserError: an end of length 0, or ends that point away from each other, between which there is no one arc.
    """
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    if min(lengths) == 0:
        raise UserError("Expected ends that have a direction for ways=[spherical], got one of length 0.")
    first, second = a / lengths[0], b / lengths[1]
    cosine = float(np.clip(first @ second, -1, 1))
    if cosine < PARALLEL - 1:
        raise UserError("Expected ends with one shortest arc between them, got opposite ones: use ways=[linear].")
    if cosine > 1 - PARALLEL:  # along one direction the arc is the straight line
        return linear(a, b, t)
    angle = np.arccos(cosine)
    arc = (np.sin((1 - t) * angle)[:, None] * first + np.sin(t * angle)[:, None] * second) / np.sin(angle)
    return arc * linear(np.array([lengths[0]]), np.array([lengths[1]]), t)


BETWEEN = {"linear": linear, "spherical": spherical}


def way(source: Source, a: str, b: str, n: int = 48, ways: Sequence[str] = WAYS) -> Way:
    """n points between two names, texts or image files, and the two.

    Raises:
        UserError: an unknown way, or none; fewer than one point; ends that cannot be embedded or that are equal.
    """
    if not ways:
        raise UserError(f"Expected ways= among {', '.join(WAYS)}, got none: leave it out for both.")
    for name in ways:
        check_choice("ways", name, WAYS)
    if n < 1:
        raise UserError(f"Expected n, the points between, to be at least 1, got {n}.")
    vectors, own = source.embed([a, b])
    first, second = vectors.double().numpy()
    if (first == second).all():
        raise UserError(f"Expected two ends that differ, got {a!r} and {b!r} with the same embedding.")
    t = np.linspace(0, 1, n + 2)
    made = {name: BETWEEN[name](first, second, t) for name in ways}
    points = {name: torch.from_numpy(rows.astype(np.float32)) for name, rows in made.items()}
    return Way((a, b), points, [*own[0], *own[1]])


def interpolate(source: Source, found: Way, k: int = 3, metric: str = "cosine") -> pd.DataFrame:
    """Of every step: way, step, t, norm, cosines with the two ends, and the nearest rows that are no end.

    Raises:
        UserError: k larger than the number of other rows; vectors that have no distance.
    """
    parts, names = [], source.names
    for name, points in found.points.items():
        steps = len(points)
        near = [one for one, _ in source.index.ends(points, k, metric, [found.own] * steps)]
        values = points.numpy()
        table = pd.DataFrame({
            "way": name, "step": np.arange(steps), "t": np.linspace(0, 1, steps),
            "norm": np.linalg.norm(values.astype(np.float64), axis=1),
            "to_first": compare(values, values[:1])[0], "to_second": compare(values, values[-1:])[0],
            "nearest": [names[one.rows[0]] for one in near],
            "cosine": [one.cosine[0] for one in near], "euclidean": [one.euclidean[0] for one in near],
        })  # fmt: skip
        others = {f"nearest_{i + 1}": [names[one.rows[i]] for one in near] for i in range(1, k)}
        parts.append(table.assign(**others))
    return pd.concat(parts, ignore_index=True)


def map_ways(source: Source, found: Way, method: str = "pca", metric: str = "cosine", rows: int = 2000,
             perplexity: float = 30.0, neighbours: int = 15, seed: int = 0) -> tuple[pd.DataFrame, Map]:  # fmt: skip
    """The ways on a map that was fitted on rows of the data: a table of the points, and where they are.

    Raises:
        UserError: whatever `project` refuses.
    """
    check_placing(method)
    chosen = np.union1d(draw_rows(len(source.names), rows, seed), np.array(found.own, np.int64))
    values = source.index.values[chosen].astype(np.float32)
    made = project(values, method, 2, seed, perplexity, metric, len(values), neighbours)
    names = [source.names[row] for row in chosen]
    reducer = fitted(values, made, names)
    coordinates, ids, kinds, t, labels, lines = [made.coordinates], list(names), ["row"] * len(names), [], [], []
    for name, points in found.points.items():
        steps = len(points)
        lines.append(list(range(len(ids), len(ids) + steps)))
        coordinates.append(reducer.transform(points.numpy()))
        labels += [found.ends[0], *[""] * (steps - 2), found.ends[1]]
        ids += [f"{name}, step {step}" for step in range(steps)]
        kinds += [name] * steps
        t += np.linspace(0, 1, steps).tolist()
    table = pd.DataFrame({"id": ids, "kind": kinds, "t": [np.nan] * len(names) + t})
    return table, Map(np.concatenate(coordinates), made.caption, [""] * len(names) + labels, lines)


def decoded(source: Source, found: Way) -> tuple[list[float], dict[str, Float[Tensor, "steps 3 size size"]]]:
    """Images of at most ten steps of each way, the ends among them, and where between the ends they are."""
    steps = len(next(iter(found.points.values())))
    chosen = np.unique(np.linspace(0, steps - 1, min(steps, MOST_IMAGES)).round().astype(int))
    with torch.inference_mode():
        images = {name: source.encoder.decode(points[chosen].to(source.device)).float().cpu()
                  for name, points in found.points.items()}  # fmt: skip
    return (chosen / (steps - 1)).tolist(), images


def diffused(model: StableDiffusion, ends: Sequence[str], ways: Sequence[str], n: int, seed: int = 0, steps: int = 30,
             guidance: float = 7.5) -> tuple[list[float], dict[str, Float[Tensor, "n 3 height width"]]]:  # fmt: skip
    """Images of n steps of each way between two texts, the ends among them, all from the same noise.

    Each token's state goes from that of one text to that of the other; an arc is one for every token.

    Raises:
        UserError: fewer than two images.
    """
    if n < 2:
        raise UserError(f"Expected images, with both ends, to be at least 2, got {n}.")
    first, second = model.states(ends).double().numpy()
    t, found = np.linspace(0, 1, n), {}
    for name in ways:
        tokens = [BETWEEN[name](a, b, t) for a, b in zip(first, second, strict=True)]
        states = torch.from_numpy(np.stack(tokens, axis=1).astype(np.float32))
        shown = with_progress(states, n, f"Drawing the {name} way")
        found[name] = torch.stack([model.images(state, seed, steps, guidance) for state in shown])
    return t.tolist(), found


def draw_images(path: Path, at: Sequence[float], images: dict[str, Tensor]) -> None:
    """A row of images for each way."""
    columns = [Column(f"{t:.2f}", torch.stack([rows[i] for rows in images.values()])) for i, t in enumerate(at)]
    strip(path, columns, list(images))
