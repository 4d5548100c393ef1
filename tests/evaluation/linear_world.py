"""A world with known answers: images are linear in the latents, scenes can be redrawn, and the judge never errs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.factors import FactorTable, ImageData
from models.labels import Factor

FACTORS = (
    Factor("glasses", "binary", ("without", "with")),
    Factor("hat", "binary", ("without", "with")),
    Factor("race", "categorical", ("a", "b", "c")),
    Factor("age", "continuous", ("young", "old")),
)
NUISANCES = 2
FEATURES = len(FACTORS) + NUISANCES


def to_pixels(values: Tensor, factor: int) -> Tensor:
    """A factor's value as the brightness of its pixel: binary .2 or .8, classes .2, .4, .6, age as it is."""
    return (0.2 + 0.6 * values, 0.2 + 0.6 * values, 0.2 + 0.2 * values, values)[factor]


def random_scenes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Labels (n, 4) and pixels (n, 6); all pixels are whole numbers of 1/255."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda high, *shape: torch.randint(high, shape, generator=generator).float()  # noqa: E731
    labels = torch.stack([draw(2, n), draw(2, n), draw(3, n), draw(256, n) / 255], dim=1)
    pixels = torch.stack([to_pixels(labels[:, i], i) for i in range(len(FACTORS))], dim=1)
    return labels, torch.cat([pixels, draw(256, n, NUISANCES) / 255], dim=1)


def to_images(pixels: Tensor) -> Tensor:
    return torch.cat([pixels, torch.zeros_like(pixels)], dim=1).reshape(-1, 3, 2, 2)


class RotatedPixels(torch.nn.Module):
    """The encoder: latents are the pixels, rotated."""

    size = 2
    latent_shape = (FEATURES,)
    identity: dict[str, str | int | float | bool] = {"name": "rotated pixels"}

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.rotation = torch.linalg.qr(torch.randn(FEATURES, FEATURES, generator=generator))[0]

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        latents = images.flatten(1)[:, :FEATURES].float() / 255 @ self.rotation
        return latents, torch.zeros_like(latents)

    def decode(self, latents: Tensor) -> Tensor:
        return to_images(latents @ self.rotation.T)


class ExactJudge:
    """The judge."""

    def read(self, images: Tensor) -> Tensor:
        glasses, hat, race, age = images.flatten(1)[:, :4].unbind(1)
        classes = ((race - 0.2) / 0.2).round().clamp(0, 2)
        return torch.stack([(glasses > 0.5).float(), (hat > 0.5).float(), classes, age], dim=1)


@dataclass
class World:
    data: ImageData
    encoder: RotatedPixels
    latents: Tensor
    judge: ExactJudge


def linear_world(n: int = 600, seed: int = 0) -> World:
    """Half of the scenes for training, half held out."""
    labels, pixels = random_scenes(n, seed)

    def counterfactual(rows: Tensor, factor: str, values: Tensor) -> Tensor:
        i = [f.name for f in FACTORS].index(factor)
        redrawn = pixels[rows].clone()
        redrawn[:, i] = to_pixels(values, i)
        return (to_images(redrawn) * 255).round().to(torch.uint8)

    images = (to_images(pixels) * 255).round().to(torch.uint8)
    split = (torch.arange(n) % 2 * 2).to(torch.uint8)
    table = FactorTable(FACTORS, labels)
    data = ImageData("world", images, [str(i) for i in range(n)], table, split, "world", counterfactual=counterfactual)
    encoder = RotatedPixels()
    return World(data, encoder, encoder.encode(images)[0], ExactJudge())


class PixelEditor:
    """Moves the factor's own pixel to where its value wants it, exactly."""

    def __init__(self, encoder: RotatedPixels) -> None:
        self.encoder = encoder

    def edit(self, latents: Tensor, factor: int, value: Tensor, strength: float = 1.0) -> Tensor:
        pixels = latents @ self.encoder.rotation.T
        pixels[:, factor] += strength * (to_pixels(value, factor) - pixels[:, factor])
        return pixels @ self.encoder.rotation


class NoEdit:
    def edit(self, latents: Tensor, factor: int, value: Tensor, strength: float = 1.0) -> Tensor:
        return latents


class RandomEdit:
    """Moves every latent at random."""

    def edit(self, latents: Tensor, factor: int, value: Tensor, strength: float = 1.0) -> Tensor:
        generator = torch.Generator().manual_seed(factor)
        return latents + 0.5 * strength * torch.randn(latents.shape, generator=generator)


class LeakyEditor(PixelEditor):
    """Exact, but whoever gets glasses changes their hat, too."""

    def edit(self, latents: Tensor, factor: int, value: Tensor, strength: float = 1.0) -> Tensor:
        edited = super().edit(latents, factor, value, strength)
        hat = (latents @ self.encoder.rotation.T)[:, 1]
        if factor == 0:
            edited = torch.where((value == 1)[:, None], super().edit(edited, 1, (hat < 0.5).float(), strength), edited)
        return edited
