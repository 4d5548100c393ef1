"""Synthetic drawn faces with known factors: the data set that needs no download.

Every image is a function of 20 numbers, see `render`, so it can be drawn again with one factor changed and everything
else equal: this is the exact counterfactual that edits are compared with.

The visible part of an image determines what an edit uncovers: the hat has the shirt's colour, the beard the hair's,
lenses are clear, and hair always shows beside the face.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from datamodules.cache import cache_errors, fingerprint, write_whole
from datamodules.face_shapes import ellipse, hsv, palette, segment
from datamodules.factors import FactorTable, ImageData
from datamodules.progress import with_progress
from datamodules.splits import TEST, TRAIN, VALIDATION
from models import Count, Seed, UserError
from models.labels import Factor

__all__ = ["FACTORS", "FaceParameters", "faces", "render", "sample_parameters"]

VERSION = 1  # of the drawing; part of the cache's key

FACTORS = (
    Factor("glasses", "binary", ("without", "with")),
    Factor("sex", "binary", ("female", "male")),
    Factor("smile", "binary", ("neutral", "smiling")),
    Factor("hat", "binary", ("without", "with")),
    Factor("beard", "binary", ("without", "with")),
    Factor("skin", "continuous", ("light", "dark")),
)
NUISANCES = (
    "x", "y", "scale", "roll", "yaw", "aspect", "gaze", "hair_hue", "hair_length",
    "shirt_hue", "background_hue", "background_value", "background_slope", "eye_hue",
)  # fmt: skip


class FaceParameters(NamedTuple):
    """Factors and nuisance variables of scenes. Binary factors are 0 or 1, all others are in [0, 1]."""

    factors: Float[Tensor, "batch 6"]
    nuisances: Float[Tensor, "batch 14"]

    def set(self, factor: str, value: float | Tensor) -> "FaceParameters":
        """Return the same scenes with one factor changed."""
        factors = self.factors.clone()
        factors[:, [f.name for f in FACTORS].index(factor)] = value
        return FaceParameters(factors, self.nuisances)

    def rows(self, rows: Tensor | slice) -> "FaceParameters":
        return FaceParameters(self.factors[rows], self.nuisances[rows])


def sample_parameters(n: int, seed: int, correlate: Mapping[str, Mapping[str, float]] | None = None) -> FaceParameters:
    """Sample the parameters of n scenes.

    With `correlate={"glasses": {"hat": .9}}` the second factor equals the first in that share of the scenes, and is its
    opposite in the others (both factors are binary). All other factors and nuisance variables stay independent.

    >>> sample_parameters(4, seed=0, correlate={"glasses": {"hat": 1.0}}).factors[:, [0, 3]].diff(dim=1).unique()
    tensor([0.])
    """
    generator = torch.Generator().manual_seed(seed)
    factors = torch.rand(n, len(FACTORS), generator=generator)
    names = [f.name for f in FACTORS]
    for i, factor in enumerate(FACTORS):
        if factor.kind == "binary":
            factors[:, i] = (factors[:, i] < 0.5).float()
    for first, others in (correlate or {}).items():
        for second, share in others.items():
            same, leader = torch.rand(n, generator=generator) < share, factors[:, names.index(first)]
            factors[:, names.index(second)] = torch.where(same, leader, 1 - leader)
    return FaceParameters(factors, torch.rand(n, len(NUISANCES), generator=generator))


class Scene(NamedTuple):
    """Quantities that the parts of an image are drawn from: numbers are (batch, 1, 1, 1), colours (batch, 3, 1, 1).

    `u` to the right and `v` down are the head's own coordinates, in which it is about 1 wide; `f` is u relative to the
    face, which is shifted by `turn` when the head turns. `pixel` is the side of a pixel in the same unit. `down` is the
    image's vertical coordinate, from −1 at the top to 1. `wide` is half the head's width, `head` the signed distance to
    its outline.
    """

    factors: dict[str, Float[Tensor, "batch 1 1 1"]]
    nuisances: dict[str, Float[Tensor, "batch 1 1 1"]]
    down: Float[Tensor, "1 1 size 1"]
    u: Float[Tensor, "batch 1 size size"]
    v: Float[Tensor, "batch 1 size size"]
    f: Float[Tensor, "batch 1 size size"]
    turn: Float[Tensor, "batch 1 1 1"]
    pixel: Float[Tensor, "batch 1 1 1"]
    wide: Float[Tensor, "batch 1 1 1"]
    head: Float[Tensor, "batch 1 size size"]
    skin: Float[Tensor, "batch 3 1 1"]
    hair: Float[Tensor, "batch 3 1 1"]
    shirt: Float[Tensor, "batch 3 1 1"]


def scene_of(parameters: FaceParameters, size: int) -> Scene:
    """Compute the scenes on a grid of size × size pixels: the head's coordinates, outline and colours."""
    factors = {f.name: c[:, None, None, None] for f, c in zip(FACTORS, parameters.factors.unbind(1), strict=True)}
    n = {name: c[:, None, None, None] for name, c in zip(NUISANCES, parameters.nuisances.unbind(1), strict=True)}
    axis = (torch.arange(size, device=parameters.factors.device) + 0.5) * (2 / size) - 1
    down, right = axis[None, None, :, None], axis[None, None, None, :]
    # The head's own coordinates: undo its position, roll and scale.
    scale, roll = 0.92 + 0.16 * n["scale"], (n["roll"] - 0.5) * 0.3
    x, y = right - (n["x"] - 0.5) * 0.2, down - (n["y"] - 0.5) * 0.16 - 0.03
    u = (x * roll.cos() + y * roll.sin()) / scale
    v = (y * roll.cos() - x * roll.sin()) / scale
    turn = (n["yaw"] - 0.5) * 0.22
    male, wide = factors["sex"], 0.46 + 0.07 * n["aspect"]
    jaw = torch.where(v > 0, wide * (0.93 + 0.13 * male), wide)  # a man's jaw is wider and squarer
    power = torch.where(v > 0, 1.85 + 1.15 * male, torch.full_like(male, 2.1))
    skin = palette(factors["skin"].flatten(), [(1.0, 0.86, 0.75), (0.87, 0.64, 0.47), (0.5, 0.3, 0.18)])
    hair = palette(
        n["hair_hue"].flatten(), [(0.08, 0.06, 0.07), (0.26, 0.13, 0.06), (0.7, 0.24, 0.06), (0.96, 0.82, 0.4)]
    )
    shirt = hsv(n["shirt_hue"].flatten(), 0.75, 0.85)
    head = ellipse(u, v, jaw, 0.62, power)
    return Scene(factors, n, down, u, v, u - turn, turn, 2 / size / scale, wide, head, skin, hair, shirt)


class Layer(NamedTuple):
    """A shape, as the signed distance to its outline (negative inside), with its colour and opacity."""

    distance: Float[Tensor, "batch 1 size size"]
    colour: Float[Tensor, "batch 3 1 1"] | tuple[float, float, float]
    opacity: Tensor | float = 1.0


def background(scene: Scene) -> Float[Tensor, "batch 3 size size"]:
    """Draw a wall of one colour that gets lighter towards the top or the bottom."""
    n, size = scene.nuisances, scene.u.shape[-1]
    ramp = (n["background_slope"] - 0.5) * 0.5 * scene.down
    wall = hsv(n["background_hue"].flatten(), 0.35, 0.45 + 0.5 * n["background_value"].flatten())
    return (wall + ramp).clamp(0, 1).expand(-1, 3, size, size)


def long_hair(scene: Scene) -> Iterator[Layer]:
    """Yield the layers of the hair behind the head, whose length varies."""
    u, v, wide = scene.u, scene.v, scene.wide
    length = 0.1 + 0.85 * scene.nuisances["hair_length"]
    yield Layer(torch.maximum(ellipse(u, v + 0.1, wide + 0.13, 0.66, 2.4), v - length), scene.hair)
    yield Layer(torch.maximum((u.abs() - wide - 0.13).maximum(-v - 0.1), v - length), scene.hair)


def neck_and_shirt(scene: Scene) -> Iterator[Layer]:
    """Yield the layers of the neck, which is shaded, and of the shoulders; both are wider for a man."""
    u, v, male = scene.u, scene.v, scene.factors["sex"]
    yield Layer((u.abs() - 0.2 - 0.1 * male).maximum(-v), scene.skin * 0.9)
    shoulders = ellipse(u, v - 1.15, 0.62 + 0.24 * male, 0.42, 2.6)
    yield Layer(shoulders.minimum((v - 1.15).neg().maximum(u.abs() - 0.62 - 0.24 * male)), scene.shirt)


def head_and_hair(scene: Scene) -> Iterator[Layer]:
    """Yield the layers of the head, of the cheeks, which are redder for a woman, and of the hair on it."""
    u, v, f = scene.u, scene.v, scene.f
    yield Layer(scene.head, scene.skin)
    blush = ((f.abs() - 0.27).square() + (v - 0.2).square()) / 0.012
    yield Layer(torch.full_like(u, -1.0), (0.95, 0.35, 0.4), (-blush).exp() * 0.45 * (1 - scene.factors["sex"]))
    crown = torch.maximum(ellipse(u, v, scene.wide + 0.05, 0.69, 2.2), -ellipse(f, v - 0.28, 0.43, 0.62, 2.2))
    yield Layer(torch.maximum(crown, v - 0.05), scene.hair)


def beard(scene: Scene) -> Iterator[Layer]:
    """Yield the layers of the beard, which covers the lower face in the hair's colour, and of the moustache."""
    v, f, shown = scene.v, scene.f, scene.factors["beard"]
    chin = torch.maximum(scene.head + 0.005, -(ellipse(f, v + 0.12, 0.36, 0.42, 2.5)))
    yield Layer(torch.maximum(chin, 0.12 - v), scene.hair * 0.6, shown)
    yield Layer(ellipse(f, v - 0.235, 0.2, 0.055), scene.hair * 0.6, shown)


def mouth(scene: Scene) -> Iterator[Layer]:
    """Yield the layers of the mouth: red and full or thin and pale by sex; a smile is a wide open arc with teeth."""
    v, f, male, smile = scene.v, scene.f, scene.factors["sex"], scene.factors["smile"]
    lip = palette(male.flatten(), [(0.86, 0.12, 0.22), (0.62, 0.3, 0.26)])
    yield Layer(ellipse(f, v - 0.355, 0.14, 0.058 - 0.02 * male), lip, 1 - smile)
    yield Layer(torch.maximum(ellipse(f, v - 0.3, 0.24, 0.17 - 0.02 * male), 0.3 - v), lip, smile)
    yield Layer(torch.maximum(ellipse(f, v - 0.315, 0.185, 0.095), 0.315 - v), (1.0, 1.0, 1.0), smile)


def nose(scene: Scene) -> Iterator[Layer]:
    """Yield the layer of the nose, which moves further than the face when the head turns."""
    across = scene.f - scene.turn * 0.4
    yield Layer(segment(across, scene.v, (0.0, 0.0), (0.0, 0.13), 0.035), scene.skin * 0.78)


def eyes(scene: Scene) -> Iterator[Layer]:
    """Yield the layers of the eyes: lashes for a woman, the white, the iris in the direction of the gaze, the pupil."""
    v, f, n = scene.v, scene.f, scene.nuisances
    side = f.abs() - 0.205
    opening = 0.085 - 0.03 * scene.factors["smile"]  # cheeks rise with a smile
    eye = ellipse(side, v + 0.06, 0.115, opening)
    lashes = torch.maximum(ellipse(side, v + 0.06, 0.15, opening + 0.05), v + 0.075)
    yield Layer(lashes, (0.05, 0.04, 0.05), 1 - scene.factors["sex"])
    yield Layer(eye, (1.0, 1.0, 1.0))
    look = (n["gaze"] - 0.5) * 0.13
    iris = ((f.abs() - 0.205 - look * f.sign()).square() + (v + 0.06).square()).sqrt() - 0.062
    yield Layer(torch.maximum(iris, eye), hsv(0.08 + 0.5 * n["eye_hue"].flatten(), 0.7, 0.45))
    yield Layer(torch.maximum(iris + 0.034, eye), (0.03, 0.03, 0.03))


def brows(scene: Scene) -> Iterator[Layer]:
    """Yield the layer of the brows: thin and rising to the sides for a woman, thick and level for a man."""
    male = scene.factors["sex"]
    tilt = 0.05 * (1 - male)
    brow = segment(scene.f.abs(), scene.v, (0.1, -0.215 + tilt * 0.2), (0.31, -0.205 - tilt), 0.02 + 0.024 * male)
    yield Layer(brow, scene.hair * 0.55)


def glasses(scene: Scene) -> Iterator[Layer]:
    """Yield the layer of the glasses: a dark frame around clear lenses."""
    u, v, f, wide = scene.u, scene.v, scene.f, scene.wide
    lens = ellipse(f.abs() - 0.215, v + 0.045, 0.17, 0.145, 2.8)
    frame = (lens.abs() - 0.034).minimum(segment(f.abs(), v, (0.0, -0.07), (0.06, -0.07), 0.026))
    temple = segment(u.abs(), v, (0.38, -0.08), (wide + 0.0 * u, -0.08), 0.026)
    yield Layer(torch.minimum(frame, temple), (0.04, 0.04, 0.07), scene.factors["glasses"])


def hat(scene: Scene) -> Iterator[Layer]:
    """Yield the layers of the hat: dome and brim in the shirt's colour."""
    u, v, wide, shown = scene.u, scene.v, scene.wide, scene.factors["hat"]
    yield Layer(torch.maximum(ellipse(u, v + 0.33, wide + 0.1, 0.52, 2.6), v + 0.36), scene.shirt, shown)
    yield Layer(segment(u.abs(), v, (0.0, -0.36), (wide + 0.13, -0.36), 0.07), scene.shirt * 0.72, shown)


PARTS = (long_hair, neck_and_shirt, head_and_hair, beard, mouth, nose, eyes, brows, glasses, hat)  # back to front


def render(parameters: FaceParameters, size: int = 64) -> UInt8[Tensor, "batch 3 size size"]:
    """Draw the scenes, on the parameters' device.

    Shapes are signed distance fields, which are composited back to front with edges that are one pixel wide.

    >>> render(sample_parameters(2, seed=0), size=16).shape
    torch.Size([2, 3, 16, 16])
    """
    scene = scene_of(parameters, size)
    image = background(scene)
    for distance, paint, opacity in (layer for part in PARTS for layer in part(scene)):
        colour = torch.tensor(paint, device=image.device)[None, :, None, None] if isinstance(paint, tuple) else paint
        image = torch.lerp(image, colour.expand_as(image), (0.5 - distance / scene.pixel).clamp(0, 1) * opacity)
    return image.clamp(0, 1).mul(255).round().to(torch.uint8)


def can_correlate(correlate: Any, names: list[str]) -> bool:
    """Return whether a setting of the user is a valid correlation of factors among the names."""
    return isinstance(correlate, Mapping) and all(
        isinstance(others, Mapping)
        and {first, *others} <= set(names)
        and first not in others
        and all(isinstance(share, int | float) and 0 <= share <= 1 for share in others.values())
        for first, others in correlate.items()
    )


def faces(
    n: Count = 20_000,
    size: Count = 64,
    seed: Seed = 0,
    correlate: Mapping[str, Any] | None = None,
    cache_dir: str | Path = "cache",
) -> ImageData:
    """Draw n faces: 90 % for training, 5 % for validation, 5 % for testing.

    `correlate` (see `sample_parameters`) applies to the training split only: validation and test stay uncorrelated, so
    that they show what a model has learnt from the correlation.

    Raises:
        UserError: there are fewer than 200 faces, the size is not a power of two of at least 16, the factors cannot be
            correlated, or the cache folder cannot be written.
    """
    if n < 200 or size < 16 or size & (size - 1):
        raise UserError(f"Expected n >= 200 faces of a side that is a power of two >= 16, got n={n} and size={size}.")
    names = [f.name for f in FACTORS if f.kind == "binary"]
    if correlate is not None and not can_correlate(correlate, names):
        raise UserError(
            f"Expected data.correlate={{A:{{B:share}}}} with A and B two among {', '.join(names)} and a share between "
            f"0 and 1, got {correlate}: correct it or leave it out."
        )
    held_out = n // 10
    train = sample_parameters(n - held_out, seed, correlate)
    test = sample_parameters(held_out, seed + 1_000_003)
    parameters = FaceParameters(*(torch.cat(part) for part in zip(train, test, strict=True)))
    split = torch.full((n,), TRAIN, dtype=torch.uint8)
    split[-held_out:], split[-(held_out // 2) :] = VALIDATION, TEST

    def counterfactual(rows: Tensor, factor: str, values: Tensor) -> Tensor:
        return draw(parameters.rows(rows).set(factor, values), size)

    identity = fingerprint("faces", VERSION, *parameters, size)
    path = Path(cache_dir).expanduser() / "faces" / f"{identity}.safetensors"
    return ImageData(
        name="faces",
        images=cached(path, lambda: draw(parameters, size, "Drawing faces")),
        ids=[f"face{i:06d}" for i in range(n)],
        factors=FactorTable(FACTORS, parameters.factors),
        split=split,
        fingerprint=identity,
        notes=["The factor skin is the drawn skin tone; it stands in for what other data call race."],
        counterfactual=counterfactual,
    )


def draw(parameters: FaceParameters, size: int, label: str = "") -> UInt8[Tensor, "n 3 size size"]:
    """Render scenes in parts that fit into the processor's cache."""
    n = len(parameters.factors)
    starts = range(0, n, 32)
    progress = with_progress(starts, n, label, each=32) if label else starts
    return torch.cat([render(parameters.rows(slice(i, i + 32)), size) for i in progress])


def cached(path: Path, make: Callable[[], Tensor]) -> UInt8[Tensor, "n 3 size size"]:
    """Return images from the cache, or draw them and cache them."""
    images = restore(path) if path.exists() else None
    if images is None:
        images = make()
        with cache_errors(path.parent), write_whole(path) as temporary:
            save_file({"images": images}, temporary, {"sha256": fingerprint(images)})
    return images


def restore(path: Path) -> UInt8[Tensor, "n 3 size size"] | None:
    """Load images from the cache, or return None if the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            images = file.get_tensor("images")
            if file.metadata()["sha256"] == fingerprint(images):
                return images
    except (OSError, SafetensorError, KeyError, TypeError):
        pass
    print(f"The cache {path} is damaged: drawing the faces again.", flush=True)
    return None
