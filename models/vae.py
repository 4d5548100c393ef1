"""Variational auto-encoder of images; once trained, it is the frozen encoder of the other models.

Kingma, Welling (2014), https://arxiv.org/abs/1312.6114; β as in Higgins et al. (2017). Symbols: x an image,
z a latent, q(z|x) = N(mean, exp(logvar)).
"""

from typing import Any, Literal

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Shaped
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from models import Count, Natural, NotNegative, Positive, check_choice, check_whole
from models.batches import inputs_of
from models.final_decoder import FinalDecoder
from models.gaussian import draw, kl_divergence
from models.muon import one_cycle
from models.networks import Decoder, Encoder, to_signed
from models.precision import half_precision
from models.weights import weights_sha256

__all__ = ["VAE", "reconstruction_nll"]

LOGVAR_BOUNDS = (-10.0, 4.0)  # of a posterior: standard deviations from 1/150 to 7


def reconstruction_nll(
    images: Float[Tensor, "batch 3 size size"],
    reconstructions: Float[Tensor, "batch 3 size size"],
    likelihood: Literal["gaussian", "laplace"],
    scale: float,
) -> Float[Tensor, " batch"]:
    """Return −log p(x|z) of each image, summed over pixels, in nats up to a constant.

    gaussian: Σ (x − x̂)² / 2 scale²; laplace: Σ |x − x̂| / scale. Pixels are in [-1, 1].

    >>> reconstruction_nll(torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), "gaussian", 1.0)
    tensor([6.])
    """
    difference = (images - reconstructions).flatten(1)
    if likelihood == "gaussian":
        return difference.square().sum(1) / (2 * scale**2)
    return difference.abs().sum(1) / scale


class VAE(pl.LightningModule):
    """Convolutional VAE; once trained, it is the encoder `vae` of its data.

    Arguments:
        size: side of the images, a power of two.
        latent: number of latents.
        width: channels of the first convolution.
        beta: weight of the KL term.
        likelihood, scale: likelihood of the pixels and its scale, see `reconstruction_nll`.
        flip: mirror every training image with probability ½ (for photographs; drawn images do not need it).
        learning_rate: peak of the one-cycle schedule of Muon.
        final_width: channels of a second, sharper decoder that is trained after the first one; 0: none.
    """

    def __init__(
        self,
        size: Count = 64,
        latent: Count = 64,
        width: Count = 24,
        beta: NotNegative = 1.0,
        likelihood: Literal["gaussian", "laplace"] = "gaussian",
        scale: Positive = 0.1,
        flip: bool | None = False,
        learning_rate: Positive = 1e-2,
        final_width: Natural = 0,
    ) -> None:
        super().__init__()
        check_choice("vae.likelihood", likelihood, ("gaussian", "laplace"))
        check_whole("vae.final_width", final_width, 0)
        self.save_hyperparameters()
        self.size = size
        self.latent_shape: tuple[int, ...] = (latent,)
        self.encoder, self.decoder = Encoder(size, 2 * latent, width), Decoder(size, latent, width)
        self.final = FinalDecoder(size, latent, final_width, learning_rate) if final_width else None
        head = self.encoder.head
        with torch.no_grad():  # The posterior is narrow at first: noise of unit variance would hide the image.
            head.weight[latent:] *= 0.1
            head.bias[latent:] = -5.0
        self.to(memory_format=torch.channels_last)

    @property
    def identity(self) -> dict[str, str | int | float | bool]:
        """Everything that the latents depend on: part of the cache's key and of the run's manifest."""
        return {"name": "vae", "sha256": weights_sha256(self.state_dict()), "size": self.size}

    def posterior(self, images: Float[Tensor, "batch 3 size size"]) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z|x), (batch, latent) each, for images in [-1, 1]."""
        mean, logvar = self.encoder(images).float().chunk(2, dim=1)
        # A straight-through clamp: with the zero gradient of a plain one, a latent outside the bounds would stay there.
        return mean, logvar + (logvar.clamp(*LOGVAR_BOUNDS) - logvar).detach()

    def encode(self, images: Shaped[Tensor, "batch 3 size size"]) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z|x), (batch, latent) each, for uint8 images or floats in [0, 1]."""
        return self.posterior(to_signed(images))

    def decode(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch 3 size size"]:
        """Decode to images in [0, 1], with the final decoder if there is one."""
        if self.final is None:
            return self.draft(latents)
        with half_precision(latents.device):
            return self.final(latents).float() / 2 + 0.5

    def draft(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch 3 size size"]:
        """Decode to images in [0, 1] with the decoder that the encoder was trained with.

        It is faster than the final decoder, for losses that decode in every step.
        """
        return self.decoder(latents).float() / 2 + 0.5

    def terms(self, images: Float[Tensor, "batch 3 size size"]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the loss, its two terms `nll` and `kl`, and the reconstructions, of images in [−1, 1]."""
        mean, logvar = self.posterior(images)
        reconstructions = self.decoder(draw(mean, logvar)).float()
        nll = reconstruction_nll(images, reconstructions, self.hparams["likelihood"], self.hparams["scale"])
        kl = kl_divergence(mean, logvar)
        loss = (nll + self.hparams["beta"] * kl).mean()
        return {"loss": loss, "nll": nll.mean(), "kl": kl.mean()}, reconstructions

    def training_step(self, batch: Any, _: int) -> Tensor:
        """Return the loss of a batch: a dictionary with `images`, a pair of images and labels, or images alone."""
        images = to_signed(inputs_of(batch, "images"))
        if self.hparams["flip"]:
            mirror = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            images = torch.where(mirror, images.flip(3), images)
        terms, _reconstructions = self.terms(images)
        self.log_dict({f"vae/{name}": term for name, term in terms.items()})
        return terms["loss"]

    def validation_step(self, batch: Any, _: int) -> None:
        """Log `val/loss`, `val/nll`, `val/kl` and `val/psnr` in dB, of images in [0, 1]."""
        images = to_signed(inputs_of(batch, "images"))
        terms, reconstructions = self.terms(images)
        mse = ((images - reconstructions) / 2).square().flatten(1).mean(1)
        numbers = terms | {"psnr": (-10 * mse.log10()).mean()}
        self.log_dict({f"val/{name}": number for name, number in numbers.items()}, batch_size=len(images))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        steps = int(self.trainer.estimated_stepping_batches)
        return one_cycle(parameters, self.hparams["learning_rate"], steps)  # type: ignore[return-value]
