"""Variational auto-encoder of images, the frozen encoder that everything else builds on.

Kingma, Welling (2014), https://arxiv.org/abs/1312.6114; β as in Higgins et al. (2017). Symbols: x an image,
z a latent, q(z|x) = N(mean, exp(logvar)).
"""

from typing import Literal

import pytorch_lightning as pl
import torch
from jaxtyping import Float, UInt8
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from models import check_choice
from models.encoders import weights_sha256
from models.final_decoder import FinalDecoder
from models.muon import one_cycle
from models.networks import Decoder, Encoder, to_signed
from models.precision import half_precision

__all__ = ["VAE", "draw", "kl_divergence", "reconstruction_nll"]

LOGVAR_BOUNDS = (-10.0, 4.0)  # of a posterior: deviations from 1/150 to 7


def draw(mean: Float[Tensor, "batch latent"], logvar: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
    """A draw of every row from N(mean, exp(logvar))."""
    return mean + torch.randn_like(mean) * (logvar / 2).exp()


def kl_divergence(
    mean: Float[Tensor, "batch latent"], logvar: Float[Tensor, "batch latent"]
) -> Float[Tensor, " batch"]:
    """KL(q(z|x) ‖ N(0, I)) = ½ Σ (mean² + var − 1 − log var) per image, in nats."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1)


def reconstruction_nll(
    images: Float[Tensor, "batch 3 size size"],
    reconstructions: Float[Tensor, "batch 3 size size"],
    likelihood: Literal["gaussian", "laplace"],
    scale: float,
) -> Float[Tensor, " batch"]:
    """−log p(x|z) per image, summed over pixels, in nats up to a constant.

    gaussian: Σ (x − x̂)² / 2 scale²; laplace: Σ |x − x̂| / scale. Pixels in [-1, 1].
    """
    difference = (images - reconstructions).flatten(1)
    if likelihood == "gaussian":
        return difference.square().sum(1) / (2 * scale**2)
    return difference.abs().sum(1) / scale


class VAE(pl.LightningModule):
    """Convolutional VAE; once trained, the encoder `vae` of its data.

    Arguments:
        size: image side, a power of two.
        latent: number of latents.
        width: channels of the first convolution.
        beta: weight of the KL term.
        likelihood, scale: of the pixels, see `reconstruction_nll`.
        flip: show every image mirrored half of the time (photographs; drawn data needs no such help).
        learning_rate: of Muon, the peak of its one-cycle schedule.
        final_width: channels of a second, sharper decoder that is trained when the first one has been; 0: none.
    """

    def __init__(
        self,
        size: int = 64,
        latent: int = 64,
        width: int = 24,
        beta: float = 1.0,
        likelihood: Literal["gaussian", "laplace"] = "gaussian",
        scale: float = 0.1,
        flip: bool = False,
        learning_rate: float = 1e-2,
        final_width: int = 0,
    ) -> None:
        super().__init__()
        check_choice("vae.likelihood", likelihood, ("gaussian", "laplace"))
        self.save_hyperparameters()
        self.size = size
        self.latent_shape: tuple[int, ...] = (latent,)
        self.encoder, self.decoder = Encoder(size, 2 * latent, width), Decoder(size, latent, width)
        self.final = FinalDecoder(size, latent, final_width, learning_rate) if final_width else None
        head = self.encoder.head
        with torch.no_grad():  # the posterior starts narrow: noise of unit variance would hide the image
            head.weight[latent:] *= 0.1
            head.bias[latent:] = -5.0
        self.to(memory_format=torch.channels_last)

    @property
    def identity(self) -> dict[str, str | int | float | bool]:
        """What the latents depend on: keys the cache and goes into the manifest."""
        return {"name": "vae", "sha256": weights_sha256(self.state_dict()), "size": self.size}

    def posterior(self, images: Float[Tensor, "batch 3 size size"]) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), (batch, latent) each, for images in [-1, 1]."""
        mean, logvar = self.encoder(images).float().chunk(2, dim=1)
        # Outside the bounds the gradient passes as it is: with a clamp's, which is zero, a latent would stay there.
        return mean, logvar + (logvar.clamp(*LOGVAR_BOUNDS) - logvar).detach()

    def encode(self, images: UInt8[Tensor, "batch 3 size size"]) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), (batch, latent) each."""
        return self.posterior(to_signed(images))

    def decode(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch 3 size size"]:
        """Images in [0, 1], by the final decoder where there is one."""
        if self.final is None:
            return self.draft(latents)
        with half_precision(latents.device):
            return self.final(latents).float() / 2 + 0.5

    def draft(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch 3 size size"]:
        """Images in [0, 1] by the decoder that the encoder was trained with, which is faster: for losses in a loop."""
        return self.decoder(latents).float() / 2 + 0.5

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        images = to_signed(batch["images"])
        if self.hparams["flip"]:
            mirror = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            images = torch.where(mirror, images.flip(3), images)
        mean, logvar = self.posterior(images)
        reconstructions = self.decoder(draw(mean, logvar)).float()
        nll = reconstruction_nll(images, reconstructions, self.hparams["likelihood"], self.hparams["scale"])
        kl = kl_divergence(mean, logvar)
        loss = (nll + self.hparams["beta"] * kl).mean()
        self.log_dict({"vae/loss": loss, "vae/nll": nll.mean(), "vae/kl": kl.mean()})
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        steps = int(self.trainer.estimated_stepping_batches)
        return one_cycle(parameters, self.hparams["learning_rate"], steps)  # type: ignore[return-value]
