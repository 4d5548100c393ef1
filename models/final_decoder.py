"""A sharper decoder for displayed pictures, trained on the frozen encoder's latents.

A VAE's decoder is trained on samples of a posterior that still changes, with squared error, which blurs an edge whose
position is uncertain. Once the encoder is frozen, a larger decoder is trained to reconstruct x from the posterior mean
with absolute error, which keeps edges sharp. The latents do not change, nor does what is trained on them, and losses
that decode in every step keep the small decoder.
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

FIRST = 64  # channels of the first feature map


class Residual(nn.Module):
    """A residual block x + f(x) with two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.BatchNorm2d(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1, bias=False)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        return x + self.layers(x)


class FinalDecoder(pl.LightningModule):
    """Decodes latents (batch, latent) to images (batch, 3, size, size) in [-1, 1].

    Arguments:
        size: side of the images, a power of two and at least 16.
        latent: number of latents.
        width: channels at half the resolution, an even number; half as many at the full one, twice as many at a
            quarter and four times as many at an eighth.
        learning_rate: peak of the one-cycle schedule of Muon.
    """

    def __init__(self, size: int, latent: int, width: int = 32, learning_rate: float = 1e-2) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        side = max(4, size // 8)
        channels = [width * 2**i for i in range(int(math.log2(size // side)))][::-1]
        layers: list[nn.Module] = [
            nn.Linear(latent, FIRST * side**2), nn.Unflatten(1, (FIRST, side, side)),
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
        self.log("final_decoder/absolute_error", loss / 2)  # halved: for images in [0, 1]
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        steps = int(self.trainer.estimated_stepping_batches)
        return one_cycle(self.parameters(), self.learning_rate, steps)  # type: ignore[return-value]
