"""Drawn faces whose every factor is known: the data set that needs no download.

Every picture is a function of 20 numbers, see `render`, so any picture can be drawn again with one
factor changed and all else equal: the exact counterfactual that an edit is measured against.

What an edit uncovers is determined by what can be seen: the hat has the shirt's colour, the beard the hair's,
lenses are clear, and hair always shows beside the face.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from datamodules.factors import TEST, TRAIN, VALIDATION, Factor, FactorTable, ImageData, fingerprint
from datamodules.images import cache_errors, with_progress, write_whole
from models import UserError

__all__ = ["FACTORS", "FaceParameters", "faces", "render", "sample_parameters"]

VERSION = 1  # of the drawing; a cache of another version is not used

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
    """What pictures are drawn from. Binary factors are 0 or 1, everything else lies in [0, 1]."""

    factors: Float[Tensor, "batch 6"]
    nuisances: Float[Tensor, "batch 14"]

    def set(self, factor: str, value: float | Tensor) -> "FaceParameters":
        """The same scene with one factor changed."""
        factors = self.factors.clone()
        factors[:, [f.name for f in FACTORS].index(factor)] = value
        return FaceParameters(factors, self.nuisances)

    def rows(self, rows: Tensor | slice) -> "FaceParameters":
        return FaceParameters(self.factors[rows], self.nuisances[rows])


def sample_parameters(n: int, seed: int, correlate: Mapping[str, Mapping[str, float]] | None = None) -> FaceParameters:
    """Draw n scenes.

    `correlate={"glasses": {"hat": .9}}` makes the second factor equal the first in that share of the scenes (both
    factors binary) and its opposite in the others; all other factors and nuisances stay independent.
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


def hsv(hue: Tensor, saturation: Tensor | float, value: Tensor | float) -> Float[Tensor, "batch 3 1 1"]:
    """Colours (batch,) in HSV, all in [0, 1], as RGB."""
    k = (torch.tensor([5.0, 3.0, 1.0], device=hue.device) + hue[:, None] * 6) % 6
    ramp = torch.minimum(k, 4 - k).clamp(0, 1)
    saturation, value = (torch.as_tensor(v, device=hue.device).expand(len(hue))[:, None] for v in (saturation, value))
    return (value * (1 - saturation * ramp))[:, :, None, None]


def palette(t: Tensor, stops: list[tuple[float, float, float]]) -> Float[Tensor, "batch 3 1 1"]:
    """Colours at t (batch,) in [0, 1] on the piecewise linear path through the stops."""
    stops_ = torch.tensor(stops, device=t.device)
    position = t.clamp(0, 1) * (len(stops) - 1)
    low = position.floor().long().clamp(max=len(stops) - 2)
    colour = torch.lerp(stops_[low], stops_[low + 1], (position - low)[:, None])
    return colour[:, :, None, None]


def render(parameters: FaceParameters, size: int = 64) -> UInt8[Tensor, "batch 3 size size"]:
    """Draw the scenes, on the parameters' device.

    Shapes are signed distance fields, composited back to front with edges one pixel soft. Coordinates: u to the
    right, v down, the picture is [-1, 1]², the head about 1 wide.
    """
    glasses, sex, smile, hat, beard, skin = (c[:, None, None, None] for c in parameters.factors.unbind(1))
    n = {name: c[:, None, None, None] for name, c in zip(NUISANCES, parameters.nuisances.unbind(1), strict=True)}
    flat = dict(zip(NUISANCES, parameters.nuisances.unbind(1), strict=True))
    axis = (torch.arange(size, device=sex.device) + 0.5) * (2 / size) - 1
    v0, u0 = axis[None, None, :, None], axis[None, None, None, :]

    # The head's own coordinates: undo place, roll and scale.
    scale, roll = 0.92 + 0.16 * n["scale"], (n["roll"] - 0.5) * 0.3
    u1, v1 = u0 - (n["x"] - 0.5) * 0.2, v0 - (n["y"] - 0.5) * 0.16 - 0.03
    u = (u1 * roll.cos() + v1 * roll.sin()) / scale
    v = (v1 * roll.cos() - u1 * roll.sin()) / scale
    pixel = 2 / size / scale
    turn = (n["yaw"] - 0.5) * 0.22  # turning the head moves what is inside it
    f = u - turn

    def ellipse(x: Tensor, y: Tensor, rx: Tensor | float, ry: Tensor | float, power: Tensor | float = 2.0) -> Tensor:
        radius = ((x.abs() / rx).pow(power) + (y.abs() / ry).pow(power)).pow(1 / power)
        return (radius - 1) * torch.minimum(torch.as_tensor(rx), torch.as_tensor(ry))

    def segment(x: Tensor, y: Tensor, ax: Tensor | float, ay: Tensor | float, bx: Tensor | float,
                by: Tensor | float, width: Tensor | float) -> Tensor:  # fmt: skip
        dx, dy = torch.as_tensor(bx - ax), torch.as_tensor(by - ay)
        t = (((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
        return ((x - ax - t * dx).square() + (y - ay - t * dy).square()).sqrt() - width

    skin_colour = palette(skin.flatten(), [(1.0, 0.86, 0.75), (0.87, 0.64, 0.47), (0.5, 0.3, 0.18)])
    hair_colour = palette(
        flat["hair_hue"], [(0.08, 0.06, 0.07), (0.26, 0.13, 0.06), (0.7, 0.24, 0.06), (0.96, 0.82, 0.4)]
    )
    shirt_colour = hsv(flat["shirt_hue"], 0.75, 0.85)
    ramp = (n["background_slope"] - 0.5) * 0.5 * v0
    image = (hsv(flat["background_hue"], 0.35, 0.45 + 0.5 * flat["background_value"]) + ramp).clamp(0, 1)
    image = image.expand(-1, 3, size, size)

    def paint(distance: Tensor, colour: Tensor | tuple[float, float, float], opacity: Tensor | float = 1.0) -> None:
        nonlocal image
        if isinstance(colour, tuple):
            colour = torch.tensor(colour, device=u0.device)[None, :, None, None]
        image = torch.lerp(image, colour.expand_as(image), (0.5 - distance / pixel).clamp(0, 1) * opacity)

    male, female = sex, 1 - sex
    rx = 0.46 + 0.07 * n["aspect"]
    jaw = torch.where(v > 0, rx * (0.93 + 0.13 * male), rx)  # a man's jaw is wider and squarer
    power = torch.where(v > 0, 1.85 + 1.15 * male, torch.full_like(male, 2.1))
    head = ellipse(u, v, jaw, 0.62, power)

    # Behind the head: long hair, neck, shirt.
    length = 0.1 + 0.85 * n["hair_length"]
    paint(torch.maximum(ellipse(u, v + 0.1, rx + 0.13, 0.66, 2.4), v - length), hair_colour)
    paint(torch.maximum((u.abs() - rx - 0.13).maximum(-v - 0.1), v - length), hair_colour)
    paint((u.abs() - 0.2 - 0.1 * male).maximum(-v), skin_colour * 0.9)
    paint(
        ellipse(u, v - 1.15, 0.62 + 0.24 * male, 0.42, 2.6).minimum(
            (v - 1.15).neg().maximum(u.abs() - 0.62 - 0.24 * male)
        ),
        shirt_colour,
    )

    # The head and the hair on it.
    paint(head, skin_colour)
    blush = ((f.abs() - 0.27).square() + (v - 0.2).square()) / 0.012
    paint(torch.full_like(u, -1.0), (0.95, 0.35, 0.4), (-blush).exp() * 0.45 * female)
    crown = torch.maximum(ellipse(u, v, rx + 0.05, 0.69, 2.2), -ellipse(f, v - 0.28, 0.43, 0.62, 2.2))
    paint(torch.maximum(crown, v - 0.05), hair_colour)

    # The beard: the lower face, with a moustache, in the hair's colour.
    chin = torch.maximum(head + 0.005, -(ellipse(f, v + 0.12, 0.36, 0.42, 2.5)))
    paint(torch.maximum(chin, 0.12 - v), hair_colour * 0.6, beard)
    paint(ellipse(f, v - 0.235, 0.2, 0.055), hair_colour * 0.6, beard)

    # Mouth: red and full or thin and pale by sex; a smile is a wide open arc with teeth.
    lip = palette(sex.flatten(), [(0.86, 0.12, 0.22), (0.62, 0.3, 0.26)])
    neutral = ellipse(f, v - 0.355, 0.14, 0.058 - 0.02 * male)
    paint(neutral, lip, 1 - smile)
    arc = torch.maximum(ellipse(f, v - 0.3, 0.24, 0.17 - 0.02 * male), 0.3 - v)
    paint(arc, lip, smile)
    paint(torch.maximum(ellipse(f, v - 0.315, 0.185, 0.095), 0.315 - v), (1.0, 1.0, 1.0), smile)

    # Nose, eyes, brows.
    paint(segment(f - turn * 0.4, v, 0.0, 0.0, 0.0, 0.13, 0.035), skin_colour * 0.78)
    side = f.abs() - 0.205
    opening = 0.085 - 0.03 * smile  # cheeks rise with a smile
    eye = ellipse(side, v + 0.06, 0.115, opening)
    paint(torch.maximum(ellipse(side, v + 0.06, 0.15, opening + 0.05), v + 0.075), (0.05, 0.04, 0.05), female)
    paint(eye, (1.0, 1.0, 1.0))
    look = (n["gaze"] - 0.5) * 0.13
    iris = ((f.abs() - 0.205 - look * f.sign()).square() + (v + 0.06).square()).sqrt() - 0.062
    paint(torch.maximum(iris, eye), hsv(0.08 + 0.5 * flat["eye_hue"], 0.7, 0.45))
    paint(torch.maximum(iris + 0.034, eye), (0.03, 0.03, 0.03))
    tilt = 0.05 * female
    paint(segment(f.abs(), v, 0.1, -0.215 + tilt * 0.2, 0.31, -0.205 - tilt, 0.02 + 0.024 * male), hair_colour * 0.55)

    # Glasses: a dark frame around clear lenses.
    lens = ellipse(f.abs() - 0.215, v + 0.045, 0.17, 0.145, 2.8)
    frame = (lens.abs() - 0.034).minimum(segment(f.abs(), v, 0.0, -0.07, 0.06, -0.07, 0.026))
    temple = segment(u.abs(), v, 0.38, -0.08, rx + 0.0 * u, -0.08, 0.026)
    paint(torch.minimum(frame, temple), (0.04, 0.04, 0.07), glasses)

    # The hat: dome and brim in the shirt's colour.
    dome = torch.maximum(ellipse(u, v + 0.33, rx + 0.1, 0.52, 2.6), v + 0.36)
    paint(dome, shirt_colour, hat)
    paint(segment(u.abs(), v, 0.0, -0.36, rx + 0.13, -0.36, 0.07), shirt_colour * 0.72, hat)
    return image.clamp(0, 1).mul(255).round().to(torch.uint8)


def can_correlate(correlate: Any, names: list[str]) -> bool:
    """Whether these settings, as a user typed them, say how to correlate factors among the names."""
    return isinstance(correlate, Mapping) and all(
        isinstance(others, Mapping)
        and {first, *others} <= set(names)
        and first not in others
        and all(isinstance(share, int | float) and 0 <= share <= 1 for share in others.values())
        for first, others in correlate.items()
    )


def faces(
    n: int = 20_000,
    size: int = 64,
    seed: int = 0,
    correlate: Mapping[str, Any] | None = None,
    cache_dir: str | Path = "cache",
) -> ImageData:
    """n drawn faces: 90 % training, 5 % validation, 5 % test.

    `correlate` (see `sample_parameters`) holds in the training split alone: validation and test stay uncorrelated, so
    that they show what a model learnt from the correlation.

    Raises:
        UserError: fewer than 200 faces, a size that is no power of two, factors that cannot be correlated, or a cache
            folder that cannot be written.
    """
    if n < 200 or size < 16 or size & (size - 1):
        raise UserError(f"Expected n >= 200 faces of a side that is a power of two >= 16, got n={n} and size={size}.")
    names = [f.name for f in FACTORS if f.kind == "binary"]
    if correlate is not None and not can_correlate(correlate, names):
        raise UserError(
            f"Expected data.correlate={{A:{{B:share}}}} with A and B two among {', '.join(names)} and a share between "
            f"0 and 1, got {correlate}: mend it or leave it out."
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
    """`render` in parts that stay in the processor's cache."""
    n = len(parameters.factors)
    starts = range(0, n, 32)
    progress = with_progress(starts, n, label, each=32) if label else starts
    return torch.cat([render(parameters.rows(slice(i, i + 32)), size) for i in progress])


def cached(path: Path, make: Callable[[], Tensor]) -> UInt8[Tensor, "n 3 size size"]:
    """Drawn pictures from the cache, or drawn now and kept there."""
    images = restore(path) if path.exists() else None
    if images is None:
        images = make()
        with cache_errors(path.parent), write_whole(path) as temporary:
            save_file({"images": images}, temporary, {"sha256": fingerprint(images)})
    return images


def restore(path: Path) -> UInt8[Tensor, "n 3 size size"] | None:
    """Drawn pictures from the cache, or None where they are not what was written."""
    try:
        with safe_open(path, "pt") as file:
            images = file.get_tensor("images")
            if file.metadata()["sha256"] == fingerprint(images):
                return images
    except (OSError, SafetensorError, KeyError, TypeError):
        pass
    print(f"The cache {path} is damaged: drawing the faces again.", flush=True)
    return None
