"""Small convolutional and dense networks that several algorithms share."""

import math
from typing import cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

__all__ = ["Decoder", "Encoder", "damp", "mlp", "squeeze_of", "to_signed"]


def to_signed(images: Shaped[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 3 size size"]:
    """Convert images to floats in [−1, 1], channels last in memory: uint8 pixels, or floats in [0, 1].

    Raises:
        ValueError: another type, or floats outside of [0, 1].

    >>> to_signed(torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)).max()
    tensor(1.)
    """
    if images.dtype == torch.uint8:
        signed = images.float().div_(127.5).sub_(1)
    elif images.is_floating_point():
        low, high = images.aminmax()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"Expected float images in [0, 1], got values from {low:.3g} to {high:.3g}: undo their normalisation, "
                "or give uint8 images."
            )
        signed = images.float().mul(2).sub_(1)
    else:
        raise ValueError(f"Expected images of uint8 or of floats in [0, 1], got {images.dtype}.")
    return signed.contiguous(memory_format=torch.channels_last)


def mlp(inputs: int, outputs: int, width: int = 256, depth: int = 2) -> nn.Sequential:
    """Build an MLP with `depth` hidden layers of `width` units, each followed by SiLU.

    >>> mlp(3, 2)(torch.zeros(4, 3)).shape
    torch.Size([4, 2])
    """
    sizes = [inputs] + [width] * depth
    layers: list[nn.Module] = []
    for a, b in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


@torch.no_grad()
def damp(network: nn.Sequential, factor: float) -> nn.Sequential:
    """Scale the last layer's weights and set its bias to zero, so that the initial output is small, or 0.

    >>> damp(mlp(3, 2), 0.0)(torch.ones(1, 3)).detach()
    tensor([[0., 0.]])
    """
    last = cast(nn.Linear, network[-1])
    last.weight *= factor
    last.bias.zero_()
    return network


def widths(size: int, width: int) -> list[int]:
    """Return the channels of the stages that halve `size` down to 4: width, 2 width, ... up to 8 width.

    >>> widths(64, 24)
    [24, 48, 96, 192]
    """
    if size < 16 or size & (size - 1):
        raise ValueError(f"The image size must be a power of two and at least 16, got {size}.")
    return [width * min(2**i, 8) for i in range(int(math.log2(size)) - 2)]


class Encoder(nn.Module):
    """Maps images (batch, 3, size, size) in [-1, 1] to vectors (batch, outputs)."""

    def __init__(self, size: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for w in widths(size, width):
            layers += [nn.Conv2d(channels, w, 4, 2, 1, bias=False), nn.BatchNorm2d(w), nn.SiLU()]
            channels = w
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(16 * channels, outputs)

    def forward(self, images: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch outputs"]:
        return self.head(self.layers(images))


class Decoder(nn.Module):
    """Maps vectors (batch, inputs) to images (batch, 3, size, size) in [-1, 1]; the encoder's layers in reverse."""

    def __init__(self, size: int, inputs: int, width: int = 32) -> None:
        super().__init__()
        down = widths(size, width)
        layers: list[nn.Module] = [nn.Linear(inputs, 16 * down[-1]), nn.Unflatten(1, (down[-1], 4, 4))]
        for a, b in zip(down[::-1], down[-2::-1], strict=False):
            layers += [nn.BatchNorm2d(a), nn.SiLU(), nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(down[0]), nn.SiLU(), nn.ConvTranspose2d(down[0], 3, 4, 2, 1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, codes: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch 3 size size"]:
        return self.layers(codes)


SIDE = 8  # smallest number of positions along each axis after a squeeze


def squeeze_of(height: int, width: int) -> int:
    """Return the factor by which positions are folded into channels; at least 8 × 8 remain where there are as many.

    >>> squeeze_of(16, 16)
    2
    """
    return next(f for f in (8, 4, 2, 1) if f == 1 or min(height, width) // f >= SIDE and not (height % f or width % f))
