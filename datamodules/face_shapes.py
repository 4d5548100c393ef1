"""Shapes of drawn faces, as signed distances to their outlines, and their colours."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["ellipse", "hsv", "palette", "segment"]

Point = tuple[Tensor | float, Tensor | float]


def ellipse(
    x: Tensor, y: Tensor, rx: Tensor | float, ry: Tensor | float, power: Tensor | float = 2.0
) -> Float[Tensor, "batch 1 size size"]:
    """Return the approximate signed distance to an ellipse around the origin; a power above 2 makes it more angular.

    >>> ellipse(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), 2.0, 3.0).item()
    -2.0
    """
    radius = ((x.abs() / rx).pow(power) + (y.abs() / ry).pow(power)).pow(1 / power)
    return (radius - 1) * torch.minimum(torch.as_tensor(rx), torch.as_tensor(ry))


def segment(
    x: Tensor, y: Tensor, start: Point, end: Point, width: Tensor | float
) -> Float[Tensor, "batch 1 size size"]:
    """Return the signed distance to a line between two points with round ends, `width` wide on each side.

    >>> point = torch.zeros(1, 1, 1, 1)
    >>> segment(point, point + 3.0, (-1.0, 0.0), (1.0, 0.0), 0.5).item()
    2.5
    """
    (ax, ay), (bx, by) = start, end
    dx, dy = torch.as_tensor(bx - ax), torch.as_tensor(by - ay)
    t = (((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
    return ((x - ax - t * dx).square() + (y - ay - t * dy).square()).sqrt() - width


def hsv(hue: Tensor, saturation: Tensor | float, value: Tensor | float) -> Float[Tensor, "batch 3 1 1"]:
    """Convert colours (batch,) from HSV to RGB, all in [0, 1].

    >>> hsv(torch.zeros(1), 1.0, 1.0).flatten()
    tensor([1., 0., 0.])
    """
    k = (torch.tensor([5.0, 3.0, 1.0], device=hue.device) + hue[:, None] * 6) % 6
    ramp = torch.minimum(k, 4 - k).clamp(0, 1)
    saturation, value = (torch.as_tensor(v, device=hue.device).expand(len(hue))[:, None] for v in (saturation, value))
    return (value * (1 - saturation * ramp))[:, :, None, None]


def palette(t: Tensor, stops: list[tuple[float, float, float]]) -> Float[Tensor, "batch 3 1 1"]:
    """Interpolate colours at t (batch,) in [0, 1] on the piecewise linear path through the stops.

    >>> palette(torch.tensor([0.5]), [(0.0, 0.0, 0.0), (1.0, 0.5, 0.0)]).flatten()
    tensor([0.5000, 0.2500, 0.0000])
    """
    stops_ = torch.tensor(stops, device=t.device)
    position = t.clamp(0, 1) * (len(stops) - 1)
    low = position.floor().long().clamp(max=len(stops) - 2)
    colour = torch.lerp(stops_[low], stops_[low + 1], (position - low)[:, None])
    return colour[:, :, None, None]
