"""A sharper decoder for the pictures that are shown, trained alone at latents that no longer move.

A VAE's decoder learns from draws of a posterior that is still being found, under squared error, whose best answer to
an edge that may be here or there is a grey ramp. Once the encoder is frozen, a larger decoder learns x from the
posterior mean by absolute error, whose best answer is an edge. The latents, and what is trained on them, stay as they
are, and losses that decode in their loop keep the small decoder.
"""

import math

import pytorch_lightning as pl
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional

from models.muon import one_cycle
from models.networks import to_signed

__all__ = ["FinalDecoder"]

FIRST = 64  # channels that the latents are spread to


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
        loss = functional.l1_loss(self(batch["mean"]).float(), to_signed(batch["images"]))
        self.log("final_decoder/absolute_error", loss / 2)  # of images in [0, 1]
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        steps = int(self.trainer.estimated_stepping_batches)
        return one_cycle(self.parameters(), self.learning_rate, steps)  # type: ignore[return-value]
