"""An encoder of images and texts whose every answer is known, images in colours, and a run on them."""

from pathlib import Path

import torch
from torch import Tensor, nn

from datamodules.factors import FactorTable, ImageData
from models.labels import Factor

__all__ = ["Colours", "colour_images", "write_photographs"]


class Colours(nn.Module):
    """An image is its mean R, G, B in [0, 1]; a text the sum of the colours that it names."""

    identity = {"name": "colours", "sha256": "c0105"}
    names = ("red", "green", "blue")

    def embed(self, images: Tensor) -> Tensor:
        return images.float().mean((2, 3)) / 255

    def embed_text(self, texts: list[str]) -> Tensor:
        return torch.tensor([[float(name in text.split()) for name in self.names] for text in texts])


def colour_images(n: int = 60, known: bool = True) -> tuple[ImageData, Tensor]:
    """Images between red and blue, i / (n − 1) of it red, half of the others held out; and which are more red."""
    red = torch.linspace(0, 255, n)
    images = torch.stack([red, torch.full((n,), 20.0), 255 - red], 1).round().to(torch.uint8)
    images = images[:, :, None, None].expand(n, 3, 16, 16).contiguous()
    truth = (torch.arange(n) >= n // 2).float()
    factors = (Factor("warm", "binary", ("cold", "warm")), Factor("level", "continuous", ("low", "high")))
    table = FactorTable(factors, torch.stack([truth, red], 1)) if known else FactorTable((), torch.empty(n, 0))
    split = torch.tensor([0, 0, 2, 1] * (n // 4), dtype=torch.uint8)
    return ImageData("colours", images, [f"i{i}" for i in range(n)], table, split, "colours"), truth


def write_photographs(folder: Path) -> list[str]:
    """A red, a green and a blue picture."""
    from PIL import Image

    files = []
    for name, colour in (("red", (250, 10, 10)), ("green", (10, 250, 10)), ("blue", (10, 10, 250))):
        files.append(str(folder / f"{name}.png"))
        Image.new("RGB", (20, 20), colour).save(files[-1])
    return files
