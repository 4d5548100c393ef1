"""A sharper decoder for the pictures that are shown, trained alone at latents that no longer move.

A VAE's decoder learns from draws of a posterior that is still being found, under squared error, whose best answer to
an edge that may be here or there is a grey ramp. Once the encoder is frozen, a larger decoder learns x from the
posterior mean by absolute error, whose best answer is an edge. The latents, and what is trained on them, stay as they
are, and losses that decode in their loop keep the small decoder.
"""

import math

import pytorch_lightning as pl
import torch
from jaxtyping import Float, UInt8
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from models.muon import Muon

__all__ = ["FinalDecoder", "absolute_error"]

FIRST = 64  # channels that the latents are spread to


def absolute_error(
    images: Float[Tensor, "batch 3 size size"], reconstructions: Float[Tensor, "batch 3 size size"]
) -> Float[Tensor, ""]:
    """Mean |x − x̂|."""
    return (images - reconstructions).abs().mean()


class Residual(nn.Module):
    """x + f(x), two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.BatchNorm2d(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1, bias=False)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        return x + self.layers(x)


class FinalDecoder(pl.LightningModule):
    """Latents (batch, latent) to images (batch, 3, size, size) in [-1, 1].

    Arguments:
        size: image side, a power of two and at least 16.
        latent: number of latents.
        width: even; channels at half of the side, half as many at the whole one, twice and four times as many below.
        learning_rate: of Muon, the peak of its one-cycle schedule.
    """

    def __init__(self, size: int, latent: int, width: int = 32, learning_rate: float = 1e-2) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        places = max(4, size // 8)
        channels = [width * 2**i for i in range(int(math.log2(size // places)))][::-1]
        layers: list[nn.Module] = [
            nn.Linear(latent, FIRST * places**2), nn.Unflatten(1, (FIRST, places, places)),
            nn.Conv2d(FIRST, channels[0], 3, padding=1), Residual(channels[0]),
        ]  # fmt: skip
        for inside, outside in zip(channels, [*channels[1:], width // 2], strict=True):
            layers += [nn.BatchNorm2d(inside), nn.SiLU(), nn.ConvTranspose2d(inside, outside, 4, 2, 1, bias=False)]
            layers += [Residual(outside)]
        layers += [nn.BatchNorm2d(width // 2), nn.SiLU(), nn.Conv2d(width // 2, 3, 3, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch 3 size size"]:
        return self.layers(latents)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        loss = absolute_error(signed(batch["images"]), self(batch["mean"]).float())
        self.log("final_decoder/absolute_error", loss / 2)  # of images in [0, 1]
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = Muon(self.parameters(), self.learning_rate)
        rates = [group["lr"] for group in optimizer.param_groups]
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rates, total_steps=steps, pct_start=0.15, cycle_momentum=False
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def signed(images: UInt8[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 3 size size"]:
    """uint8 pixels as floats in [-1, 1]."""
    return images.float() / 127.5 - 1
