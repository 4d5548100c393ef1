"""Random augmentations of photographs: small moves, light, blur, noise, compression, erasing.

A judge that is trained with them reads the face, and not the traces that a camera, a decoder or an edit left on it.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["compressed", "cosine_transform", "distorted", "erased", "lit", "moved", "noisy", "smoothed"]

TURN, SHIFT, SCALE = 8.0, 0.06, 0.12  # degrees, share of the side, share of the size: how precisely faces are aligned
LIGHT = 0.25  # largest change of contrast, brightness, colour: as lamps and cameras differ
LOUDEST = 0.08  # largest standard deviation of the noise, for pixels in [0, 1]
LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
"""JPEG's table for luminance at quality 50 (ITU T.81, annex K): the step that each coefficient is rounded to."""


def uniform(
    generator: torch.Generator, like: Tensor, low: float, high: float, count: int = 1
) -> Float[Tensor, "_ 1 1 1"]:
    """Draw `count` numbers per image from U(low, high), on the CPU so that they are the same on every device."""
    drawn = torch.rand(count * len(like), 1, 1, 1, generator=generator)
    return (low + (high - low) * drawn).to(like.device)


def moved(
    images: Float[Tensor, "n 3 high wide"],
    size: int,
    generator: torch.Generator,
    flip: bool = True,
    amount: float = 1.0,
) -> Float[Tensor, "n 3 size size"]:
    """Rotate, shift and scale each image at random, mirror half of them, and resample them once, to `size`.

    >>> moved(torch.rand(2, 3, 20, 16), 8, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 8, 8])
    """
    angle = amount * uniform(generator, images, -TURN, TURN).flatten() * math.pi / 180
    scale = 1 + amount * uniform(generator, images, -SCALE, SCALE).flatten()
    mirror = 1 - 2 * (uniform(generator, images, 0.0, 1.0).flatten() < 0.5).float() * flip
    across, down = (amount * uniform(generator, images, -2 * SHIFT, 2 * SHIFT, 2)).flatten().chunk(2)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rows = [torch.stack(row, dim=1) for row in ((cosine * mirror, -sine, across), (sine * mirror, cosine, down))]
    grid = functional.affine_grid(torch.stack(rows, dim=1), [len(images), 3, size, size], align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def lit(images: Float[Tensor, "n 3 high wide"], generator: torch.Generator) -> Float[Tensor, "n 3 high wide"]:
    """Change contrast, brightness, saturation and tint of each image at random.

    >>> lit(torch.rand(2, 3, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 8, 8])
    """
    saturation = 1 + uniform(generator, images, -2 * LIGHT, LIGHT)
    contrast = 1 + uniform(generator, images, -LIGHT, LIGHT)
    tint = uniform(generator, images, -LIGHT / 4, LIGHT / 4, 3).reshape(-1, 3, 1, 1)
    brightness = uniform(generator, images, -LIGHT / 2, LIGHT / 2)
    images = torch.lerp(images.mean(1, keepdim=True), images, saturation)
    middle = images.mean((1, 2, 3), keepdim=True)
    return (images - middle) * contrast + (middle + brightness + tint)


def smoothed(images: Float[Tensor, "n 3 high wide"], generator: torch.Generator) -> Float[Tensor, "n 3 high wide"]:
    """Blur each image by a random amount: taps (a, 3 − 2a, a) / 3 along both axes, a in [0, 1], twice.

    >>> bool(smoothed(torch.ones(1, 3, 4, 4), torch.Generator()).allclose(torch.ones(1)))
    True
    """
    for _ in range(2):
        amount = uniform(generator, images, 0.0, 1.0)
        padded = functional.pad(images, (1,) * 4, mode="replicate")
        across = (padded[..., :-2] + padded[..., 2:]) * (amount / 3) + padded[..., 1:-1] * (1 - amount * (2 / 3))
        images = (across[..., :-2, :] + across[..., 2:, :]) * (amount / 3) + across[..., 1:-1, :] * (
            1 - amount * (2 / 3)
        )
    return images


def noisy(images: Float[Tensor, "n 3 high wide"], generator: torch.Generator) -> Float[Tensor, "n 3 high wide"]:
    """Add normal noise of a random strength to each image.

    >>> noisy(torch.zeros(1, 3, 4, 4), torch.Generator().manual_seed(0)).shape
    torch.Size([1, 3, 4, 4])
    """
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    return images + noise * uniform(generator, images, 0.0, LOUDEST)


def cosine_transform(device: torch.device) -> Float[Tensor, "8 8"]:
    """Return the matrix of the orthonormal discrete cosine transform of eight numbers.

    >>> matrix = cosine_transform(torch.device("cpu"))
    >>> torch.allclose(matrix @ matrix.T, torch.eye(8), atol=1e-6)
    True
    """
    frequency, position = torch.arange(8.0)[:, None], torch.arange(8.0)[None]
    matrix = torch.cos(math.pi * (2 * position + 1) * frequency / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix.to(device)


def compressed(
    images: Float[Tensor, "n 3 high wide"], coarseness: Float[Tensor, "n 1 1 1"]
) -> Float[Tensor, "n 3 high wide"]:
    """Quantise each channel's 8 × 8 blocks as JPEG does; `coarseness` 1 is quality 50, 5 is quality 10.

    Rows and columns beyond the last whole block stay unchanged.

    >>> compressed(torch.full((1, 3, 8, 8), 0.5), torch.ones(1, 1, 1, 1)).unique().round(decimals=2)
    tensor([0.5000])
    """
    n, _, high, wide = images.shape
    high, wide = high // 8 * 8, wide // 8 * 8
    transform = cosine_transform(images.device)
    step = torch.tensor(LUMINANCE, device=images.device).reshape(8, 1, 8) / 255 * coarseness.reshape(n, 1, 1, 1, 1, 1)
    blocks = images[..., :high, :wide].reshape(n, 3, high // 8, 8, wide // 8, 8)
    rounded = torch.einsum("ur,ncyrxs,vs->ncyuxv", transform, blocks, transform).div_(step).round_().mul_(step)
    result = images.clone()
    result[..., :high, :wide] = torch.einsum("ur,ncyuxv,vs->ncyrxs", transform, rounded, transform).reshape(
        n, 3, high, wide
    )
    return result


def erased(images: Float[Tensor, "n 3 high wide"], generator: torch.Generator) -> Float[Tensor, "n 3 high wide"]:
    """Put a grey box, up to .4 of the side, at a random position of half of the images.

    So a network cannot rely on a single position.

    >>> erased(torch.zeros(1, 3, 4, 4), torch.Generator().manual_seed(0)).shape
    torch.Size([1, 3, 4, 4])
    """
    high, wide = images.shape[-2:]
    top, left, tall, broad = uniform(generator, images, 0.0, 1.0, 4).reshape(4, -1, 1, 1, 1)
    tall, broad = 0.1 + 0.3 * tall, 0.1 + 0.3 * broad
    rows = torch.arange(high, device=images.device)[:, None] / high
    columns = torch.arange(wide, device=images.device) / wide
    inside = (rows - top).abs().lt(tall / 2) & (columns - left).abs().lt(broad / 2)
    return images.masked_fill(inside & (uniform(generator, images, 0.0, 1.0) < 0.5), 0.5)


def distorted(
    images: Float[Tensor, "n 3 high wide"],
    size: int,
    generator: torch.Generator,
    flip: bool = True,
    amount: float = 1.0,
) -> Float[Tensor, "n 3 size size"]:
    """Augment images in [0, 1]: move, light and blur all of them; add noise, compress and erase half of them each.

    `amount` scales the moves: a network that reads fixed positions needs thousands more photographs to learn from
    moved ones.

    >>> distorted(torch.rand(2, 3, 20, 20), 16, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 16, 16])
    """
    images = lit(moved(images, size, generator, flip, amount), generator)
    images = smoothed(images, generator)
    for_noise, for_jpeg = torch.rand(2, len(images), generator=generator).to(images.device).lt(0.5).unbind(0)
    images[for_noise] = noisy(images[for_noise], generator)
    chosen = images[for_jpeg]
    images[for_jpeg] = compressed(chosen, uniform(generator, chosen, 0.2, 3.0))
    return erased(images, generator).clamp(0, 1)
