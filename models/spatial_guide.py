"""The guide for spatial latents: a diffusion model of latents given all labels, which predicts the edited latents.

A small code, as in `models/guide.py`, cannot represent a photograph. A diffusion model needs no code: its deterministic
flow integrates a latent z, conditioned on its labels y, to a noisy x at level σ (abduction), and back, conditioned on
the labels y' (prediction), as in Sanchez, Tsaftaris (2022), "Diffusion Causal Models for Counterfactual Estimation",
https://arxiv.org/abs/2202.10166. Noise of level σ hides glasses but not the person's identity; what it does not hide
is kept. Nothing here is trained against a classifier: D learns to remove noise from real latents with real labels.

Symbols of Karras et al. (2022), "Elucidating the Design Space of Diffusion-Based Generative Models" (EDM),
https://arxiv.org/abs/2206.00364: D(x; σ, y) = c_skip x + c_out F(c_in x; ln σ / 4, y) is the denoised x, F the network,
with σ_data = 1. The flow is dx/dσ = (x − D(x; σ, y)) / σ, integrated by DPM-Solver++ (2M) (Lu et al. 2022,
https://arxiv.org/abs/2211.01095). From noise to latents, D is D(y) + w (D(y') − D(y)): classifier-free guidance (Ho,
Salimans 2022, https://arxiv.org/abs/2207.12598) with the latent's own labels instead of no labels, so that w scales
only the edit.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional

from models import Count, NotNegative, Positive
from models.labels import LabelEmbedding
from models.muon import Muon
from models.networks import squeeze_of
from models.precision import half_precision
from models.unet import UNet

__all__ = ["SpatialGuide", "denoising_loss", "levels", "solve"]

FINEST = 0.05  # lowest noise level of the flow, which is hardly visible
LOG_LEVEL = (-0.4, 1.1)  # mean and standard deviation of ln σ in training
LEVEL_BOUNDS = (0.02, 8.0)
LABEL_DROPOUT = 0.15  # probability with which a label is hidden in training, so that D also works with unknown labels


def denoising_loss(
    denoised: Float[Tensor, "batch *latent"], clean: Float[Tensor, "batch *latent"], level: Float[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Return the mean of λ(σ) (D − x)², λ = (σ² + 1) / σ² (EDM, table 1, σ_data = 1).

    Before training every noise level has the same expected loss.

    >>> denoising_loss(torch.ones(1, 4), torch.zeros(1, 4), torch.ones(1))
    tensor(2.)
    """
    weight = (level.square() + 1) / level.square()
    return (weight * (denoised - clean).square().flatten(1).mean(1)).mean()


def levels(most: float, steps: int, curvature: float = 3.0) -> Float[Tensor, " levels"]:
    """Return steps + 1 noise levels from .05 to `most`, evenly spaced in σ^(1/3).

    >>> levels(1.35, 2)
    tensor([0.0500, 0.4000, 1.3500])
    """
    position = torch.linspace(0, 1, steps + 1)
    low, high = FINEST ** (1 / curvature), most ** (1 / curvature)
    return (low + position * (high - low)) ** curvature


def solve(
    x: Float[Tensor, "batch *latent"], path: Float[Tensor, " levels"], denoise: Callable[[Tensor, Tensor], Tensor]
) -> Float[Tensor, "batch *latent"]:
    """Integrate x along the deterministic flow over the noise levels of a path, with one call of D per step.

    DPM-Solver++ (2M): x ← (σ' / σ) x − (σ' / σ − 1) D̃, D̃ = D + (D − D_before) h / (2 h_before), h = ln σ − ln σ'.

    >>> solve(torch.ones(1, 1), levels(1.0, 2).flip(0), lambda x, level: torch.zeros_like(x))
    tensor([[0.0500]])
    """
    before: tuple[Tensor, Tensor] | None = None
    for level, following in zip(path[:-1], path[1:], strict=True):
        d, h = denoise(x, level), (level / following).log()
        ahead = d if before is None else d + (d - before[0]) * h / (2 * before[1])
        x = (following / level) * x - (following / level - 1) * ahead
        before = (d, h)
    return x


class SpatialGuide(pl.LightningModule):
    """The diffusion model D, and edits of latents with it.

    Arguments:
        features: number of latents.
        factors: (name, kind, values) of each factor, see `LabelEmbedding`.
        shape: (channels, height, width) of the latents.
        width: channels of the U-Net.
        noise: noise level σ that an edit integrates up to, in standard deviations of the latents; more noise changes
            more of the face.
        guidance: w of an edit, one number for all factors or one per factor.
        solver_steps: steps of the flow in each direction.
        learning_rate: learning rate of Muon, which falls linearly in training.

    Raises:
        ValueError: an argument is out of its range.
    """

    shift: Tensor
    scale: Tensor
    weights: Tensor

    def __init__(
        self,
        features: int,
        factors: Sequence[Sequence[Any]],
        shape: Sequence[int],
        width: Count = 160,
        noise: Positive = 3.0,
        guidance: NotNegative | list[NotNegative] = 5.0,
        solver_steps: Count = 5,
        learning_rate: Positive = 5e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.labels = LabelEmbedding(factors)
        count = len(self.labels.factors)
        guidance = [float(guidance)] * count if isinstance(guidance, (int, float)) else list(guidance)
        if width < 8 or width % 8 or not 2 * FINEST < noise <= LEVEL_BOUNDS[1] or solver_steps < 1:
            raise ValueError(
                "Expected spatial_guide.width as a multiple of 8, spatial_guide.noise between 0.1 and 8 and "
                f"spatial_guide.solver_steps of at least 1, got {width}, {noise} and {solver_steps}."
            )
        if len(guidance) != count:
            raise ValueError(
                f"Expected spatial_guide.guidance as one number or one per factor ({count}), got {guidance}."
            )
        channels, height, wide = shape
        self.shape, self.noise, self.solver_steps, self.learning_rate = tuple(shape), noise, solver_steps, learning_rate
        self.squeeze = squeeze_of(height, wide)
        side = (height // self.squeeze, wide // self.squeeze)
        self.network = UNet(channels * self.squeeze**2, side, 2 * self.labels.dim, width)
        self.register_buffer("shift", torch.zeros(channels, 1, 1))
        self.register_buffer("scale", torch.ones(channels, 1, 1))
        self.register_buffer("weights", torch.tensor(guidance))

    @torch.no_grad()
    def start(self, mean: Float[Tensor, "n latent"], logvar: Float[Tensor, "n latent"],
              labels: Float[Tensor, "n factors"]) -> None:  # fmt: skip
        """Set the fixed statistics from training data: mean and scale of every channel, and label statistics."""
        self.labels.fit(labels)
        maps = mean.unflatten(1, self.shape)
        self.shift.copy_(maps.mean((0, 2, 3))[:, None, None])
        self.scale.copy_(maps.std((0, 2, 3)).clamp(min=1e-6)[:, None, None])

    def scaled(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channels height width"]:
        """Standardise latents per channel."""
        return (latents.unflatten(1, self.shape) - self.shift) / self.scale

    def denoise(
        self,
        x: Float[Tensor, "batch channels height width"],
        level: Float[Tensor, " batch"],
        labels: Float[Tensor, "batch label"],
        known: Float[Tensor, "batch label"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Return D(x; σ, y), with embedded labels y of which the network gets those whose `known` is 1."""
        variance = level.square()[:, None, None, None] + 1
        c_in, c_out = variance.rsqrt(), level[:, None, None, None] * variance.rsqrt()
        with half_precision(x.device):
            inputs = functional.pixel_unshuffle(x * c_in, self.squeeze)
            outputs = self.network(inputs, level.log() / 4, torch.cat([labels * known, known], 1)).float()
        return x / variance + c_out * functional.pixel_shuffle(outputs, self.squeeze)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        clean, labels = self.scaled(batch["mean"]), batch["labels"]
        shown = labels.masked_fill(torch.rand_like(labels) < LABEL_DROPOUT, torch.nan)
        level = (torch.randn_like(clean[:, 0, 0, 0]) * LOG_LEVEL[1] + LOG_LEVEL[0]).exp().clamp(*LEVEL_BOUNDS)
        noisy = clean + torch.randn_like(clean) * level[:, None, None, None]
        denoised = self.denoise(noisy, level, self.labels(shown), self.labels.known(shown))
        loss = denoising_loss(denoised, clean, level)
        self.log("guide/denoising", loss)
        return loss

    @torch.no_grad()
    def transport(
        self,
        latents: Float[Tensor, "batch latent"],
        before: Float[Tensor, "batch factors"],
        *after: Float[Tensor, "batch factors"],
    ) -> list[Float[Tensor, "batch latent"]]:
        """Edit latents from the labels `before` to each of the labels `after`.

        The integration to noise is the same for all of them and is done once. Rows whose labels do not change are
        returned unchanged.
        """
        x, (y, known) = self.scaled(latents), self.conditions(before)
        path = levels(self.noise, self.solver_steps).to(x.device)
        ones = x.new_ones(len(x))
        noisy = solve(x, path, lambda x, level: self.denoise(x, ones * level, y, known))
        ends = []
        for labels in after:
            y_, known_ = self.conditions(labels)
            changed = ~((labels == before) | (labels.isnan() & before.isnan()))
            w = (changed * self.weights).amax(1)[:, None, None, None]

            def guided(x: Tensor, level: Tensor, y_: Tensor = y_, known_: Tensor = known_, w: Tensor = w) -> Tensor:
                both = self.denoise(x.repeat(2, 1, 1, 1), ones.repeat(2) * level, torch.cat([y, y_]),
                                    torch.cat([known, known_]))  # fmt: skip
                own, other = both.chunk(2)
                return own + w * (other - own)

            end = (solve(noisy, path.flip(0), guided) * self.scale + self.shift).flatten(1)
            ends.append(torch.where(changed.any(1, keepdim=True), end, latents))
        return ends

    def conditions(self, labels: Float[Tensor, "batch factors"]) -> tuple[Tensor, Tensor]:
        """Return the embedded labels, and 1 where they are known, else 0."""
        return self.labels(labels), self.labels.known(labels)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = Muon(self.parameters(), self.learning_rate, 0.4 * self.learning_rate, betas=(0.9, 0.98))
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / 50, 2 * (1 - step / max(1, steps)))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
