"""The invertible network T of photographs' latents: the deterministic flow of a diffusion model, conditioned on c.

Coupling layers that can be trained in a short time cannot represent how a face changes with its glasses. A diffusion
model of the latents (`models/spatial_guide.py`, whose symbols are used here) can, and its flow is invertible (Song et
al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", section 4.3,
https://arxiv.org/abs/2011.13456). T(z) = (c, r, e), with u the latents standardised per channel:

1. c = g(u), the components: a convolutional network predicts the posterior mean of the labels' embedding.
2. r is u, integrated along the flow conditioned on c up to the noise level σ. It no longer holds what c tells.
3. e is the difference between u and the integration from r back to the latents, conditioned on c. It is the error of
   a solver of few steps; with it the inverse is exact, and an edit is the difference of two integrations (Ju et al.
   2023, "Direct Inversion", https://arxiv.org/abs/2310.01506).

T⁻¹(c', r, e) = (integration from r, conditioned on c') + e. Where a factor's c' is w > 1 times as long as its labels'
embeddings, D is extrapolated as in classifier-free guidance (Ho, Salimans 2022, https://arxiv.org/abs/2207.12598), away
from the opposite labels: D(−y) + w m (D(y) − D(−y)) with y = c' / w. The mask m holds the positions where D(y) and
D(−y) differ, which are those that the labels concern (Couairon et al. 2022, "DiffEdit",
https://arxiv.org/abs/2210.11427). The other positions fade out as w goes from 1 to 2.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.labels import LabelEmbedding
from models.precision import half_precision
from models.spatial_guide import LEVEL_BOUNDS, SpatialGuide, levels, solve

__all__ = ["DiffusionFlow", "Reading", "posterior_mean"]

TRAINING_NOISE = 0.5  # largest standard deviation of the noise that g is trained with, in units of the latents'
READ_NOISE = 0.6  # noise that is added before g reads an edit: it hides changes that other classifiers would not see
READ_DRAWS = 6
REACHED = 0.9  # share of the way to a label's embedding at which a reading counts as the label
MAX_GUIDANCE = 4.5  # more guidance changes the person more and is hardly read more often, see docs/editing.md
BISECTIONS = 3
MASK_BOUNDS = (0.2, 0.5)  # shares of an image's largest difference: below the first m is 0, above the second 1
SHIFT = 1  # positions by which latents are shifted at most when g is trained
GRID = 4  # side of the pooled map that g's head reads: faces are aligned, so positions are informative


def posterior_mean(
    logits: Float[Tensor, "batch readings"], labels: LabelEmbedding
) -> Float[Tensor, "batch components"]:
    """Turn g's outputs into the posterior mean of the labels' embedding.

    A factor with classes has a logit per class; its part is the mean of the classes' embeddings under the softmax. A
    continuous factor's output is its part.

    >>> hat = LabelEmbedding([("hat", "binary", ["without", "with"])])
    >>> posterior_mean(torch.tensor([[0.0, 0.0], [0.0, 9.0]]), hat).round(decimals=2)
    tensor([[0.],
            [1.]])
    """
    parts, start = [], 0
    for i, factor in enumerate(labels.factors):
        corners: Tensor = getattr(labels, f"corners{i}")
        if factor.kind == "continuous":
            parts.append(logits[:, start : start + 1])
            start += 1
        else:
            parts.append(logits[:, start : start + len(corners)].softmax(1) @ corners.to(logits.dtype))
            start += len(corners)
    return torch.cat(parts, 1)


def edit_mask(difference: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 1 height width"]:
    """Return the mask m of positions where the difference is large.

    The difference is the root mean square over channels, averaged over 3 × 3 positions. m rises linearly from 0 to 1
    between .2 and .5 of the image's largest.

    >>> edit_mask(torch.zeros(1, 4, 2, 2)).flatten()
    tensor([0., 0., 0., 0.])
    """
    strength = difference.square().mean(1, keepdim=True).sqrt()
    strength = functional.avg_pool2d(functional.pad(strength, (1,) * 4, mode="replicate"), 3, 1)
    low, high = MASK_BOUNDS
    return ((strength / strength.amax((2, 3), keepdim=True).clamp(min=1e-12) - low) / (high - low)).clamp(0, 1)


class Reading(nn.Module):
    """The network g, which predicts components from spatial latents: convolutions at three resolutions and a head."""

    def __init__(self, channels: int, labels: LabelEmbedding, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        outputs = sum(1 if factor.kind == "continuous" else len(factor.values) for factor in labels.factors)
        layers: list[nn.Module] = []
        for inside, outside, stride in [(channels, width, 1), (width, width, 1), (width, 2 * width, 2),
                                        (2 * width, 2 * width, 1), (2 * width, 4 * width, 2),
                                        (4 * width, 4 * width, 1)]:  # fmt: skip
            layers += [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(GRID), nn.Flatten(), nn.Dropout(dropout))
        self.head = nn.Linear(4 * width * GRID**2, outputs)

    def forward(self, u: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch readings"]:
        if self.training:  # augmentations that keep the labels: mirroring, noise, shifts
            mirrored = torch.rand(len(u), 1, 1, 1, device=u.device) < 0.5
            noise = TRAINING_NOISE * torch.rand(len(u), 1, 1, 1, device=u.device)
            u = torch.where(mirrored, u.flip(-1), u) + noise * torch.randn_like(u)
            down, right = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
            padded = functional.pad(u, (SHIFT,) * 4, mode="replicate")
            u = padded[..., SHIFT + down : SHIFT + down + u.shape[-2], SHIFT + right : SHIFT + right + u.shape[-1]]
        with half_precision(u.device):
            return self.head(self.layers(u.contiguous(memory_format=torch.channels_last))).float()


class DiffusionFlow(nn.Module):
    """The map T between spatial latents and codes, both flattened: (batch, features) and (batch, codes).

    Codes are meaningful once `guide` has been given trained weights and `reading` has been trained.

    Arguments:
        features, factors, shape, settings: arguments of the diffusion model, `SpatialGuide`.
    """

    read_noise: Tensor

    def __init__(self, features: int, factors: Sequence[Sequence[Any]], shape: Sequence[int], **settings: Any) -> None:
        super().__init__()
        self.guide = SpatialGuide(features, factors, shape, **settings).requires_grad_(False)
        self.reading = Reading(shape[0], self.guide.labels)
        self.features, self.components = features, self.guide.labels.dim
        self.codes = self.components + 2 * features
        seeded = torch.Generator().manual_seed(0)
        self.register_buffer("read_noise", torch.randn(READ_DRAWS, *shape, generator=seeded), persistent=False)

    def train(self, mode: bool = True) -> "DiffusionFlow":
        super().train(mode)
        self.guide.eval()  # it is frozen
        return self

    def read(self, latents: Float[Tensor, "batch features"]) -> Float[Tensor, "batch components"]:
        """Return c = g(u); in evaluation mode, the mean over the latents and their mirror image."""
        u = self.guide.scaled(latents)
        seen = [u] if self.training else [u, u.flip(-1)]
        return torch.stack([posterior_mean(self.reading(some), self.guide.labels) for some in seen]).mean(0)

    def read_noisy(self, latents: Float[Tensor, "batch features"]) -> Float[Tensor, "batch components"]:
        """Return the mean of g over several draws of noise on the latents, which hides changes that are too weak."""
        u = self.guide.scaled(latents)[:, None] + READ_NOISE * self.read_noise
        logits = self.reading(u.flatten(0, 1))
        return posterior_mean(logits, self.guide.labels).unflatten(0, (len(latents), -1)).mean(1)

    def reach(
        self, codes: Float[Tensor, "batch codes"], factor: int, goal: Float[Tensor, "batch block"]
    ) -> Float[Tensor, "batch block"]:
        """Return a factor's codes c' of an edit to an embedding, with the smallest guidance w that suffices.

        c' is w times the goal, or c + w (goal − c) for a continuous factor. Bisection finds the smallest w between 1
        and 4.5 with which `read_noisy` of the edited latents reaches nine tenths of the goal. Images need different
        guidance: with the same w for all, some would change too little and others more than necessary.
        """
        block, continuous = self.guide.labels.blocks[factor], self.guide.labels.factors[factor].kind == "continuous"
        own = codes[:, block] if continuous else torch.zeros_like(goal)
        change = goal - own
        low, high = torch.ones_like(goal[:, :1]), torch.full_like(goal[:, :1], MAX_GUIDANCE)
        for _ in range(BISECTIONS):
            middle = (low * high).sqrt()
            candidate = codes.clone()
            candidate[:, block] = own + middle * change
            read = self.read_noisy(self.inverse(candidate))[:, block] - own
            reached = (read * change).sum(1, keepdim=True) >= REACHED * change.square().sum(1, keepdim=True)
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
        return own + high * change

    def forward(self, latents: Float[Tensor, "batch features"]) -> Float[Tensor, "batch codes"]:
        """Return the codes T(z) = (c, r, e)."""
        u, c = self.guide.scaled(latents), self.read(latents)
        r = self.integrate(u, c, up=True)
        return torch.cat([c, r.flatten(1), (u - self.integrate(r, c)).flatten(1)], 1)

    def inverse(self, codes: Float[Tensor, "batch codes"]) -> Float[Tensor, "batch features"]:
        """Return the latents T⁻¹(c, r, e)."""
        c, r, e = codes.split([self.components, self.features, self.features], 1)
        u = self.integrate(r.unflatten(1, self.guide.shape), c) + e.unflatten(1, self.guide.shape)
        return (u * self.guide.scale + self.guide.shift).flatten(1)

    def integrate(
        self, x: Float[Tensor, "batch channels height width"], c: Float[Tensor, "batch components"], up: bool = False
    ) -> Float[Tensor, "batch channels height width"]:
        """Integrate x along the flow conditioned on c, from noise to latents, or from latents to noise if `up`."""
        path = levels(self.guide.noise, self.guide.solver_steps).to(x.device)
        y, opposite, opposite_known, extra = self.conditions(c)
        ones, guided = x.new_ones(len(x)), (extra > 0).nonzero().flatten()
        known = torch.ones_like(c)

        def denoise(x: Tensor, level: Tensor) -> Tensor:
            d = self.guide.denoise(x, ones * level, y, known)
            if len(guided):
                other = self.guide.denoise(x[guided], ones[guided] * level, opposite[guided], opposite_known[guided])
                difference, w = d[guided] - other, 1 + extra[guided, None, None, None]
                mask = torch.lerp(torch.ones_like(w), edit_mask(difference), (w - 1).clamp(max=1))  # 1 where w = 1
                d = d.index_copy(0, guided, other + w * mask * difference)
            return d

        return solve(x, path if up else path.flip(0), denoise)

    def conditions(
        self, c: Float[Tensor, "batch components"]
    ) -> tuple[Tensor, Tensor, Tensor, Float[Tensor, " batch"]]:
        """Split c into the conditions of D and guidance.

        A factor's embedding y is at most as long as its labels' own; the excess length of c is guidance, and the
        largest one is used for all factors. Factors with more than two classes have no opposite label; their label is
        unknown instead.

        Returns:
            The embeddings y, those of the opposite labels, 1 where the latter are known and 0 elsewhere, each (batch,
            components), and the guidance w − 1, (batch,).
        """
        embeddings, opposite, known, extra = [], [], [], []
        for i, block in enumerate(self.guide.labels.blocks):
            longest = self.guide.labels.longest(i)
            excess = (c[:, block].norm(dim=1, keepdim=True) / longest).clamp(min=1)
            embeddings.append(c[:, block] / excess)
            guided, classes = excess > 1 + 1e-4, len(getattr(self.guide.labels, f"corners{i}"))
            known.append((~guided if classes > 2 else torch.ones_like(guided)).float().expand_as(embeddings[-1]))
            opposite.append(known[-1] * torch.where(guided, -embeddings[-1], embeddings[-1]))
            extra.append(excess - 1)
        return torch.cat(embeddings, 1), torch.cat(opposite, 1), torch.cat(known, 1), torch.cat(extra, 1).amax(1)

    def bits(
        self, latents: Float[Tensor, "batch features"], steps: int = 24, generator: torch.Generator | None = None
    ) -> Float[Tensor, " batch"]:
        """Return −log₂ p(z | c) / d of latents, by the change of variables along the flow.

        Song et al. 2021, section 4.3: d log|det| / d ln σ = d − tr ∂D/∂x. The trace is estimated with one random sign
        vector per step (Hutchinson). The distribution at σ = 8 is taken as normal.
        """
        c = self.read(latents)
        y, known = self.conditions(c)[0], torch.ones_like(c)
        x, path = self.guide.scaled(latents), levels(LEVEL_BOUNDS[1], steps).to(latents.device)
        log_p = -self.guide.scale.log().sum() * math.prod(self.guide.shape[1:]) + x.new_zeros(len(x))
        ones = x.new_ones(len(x))
        with torch.inference_mode(False), torch.enable_grad():
            y, known, ones = y.clone(), known.clone(), ones.clone()
            for level, following in zip(path[:-1], path[1:], strict=True):
                signs = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
                x = x.detach().clone().requires_grad_(True)
                d = self.guide.denoise(x, ones * level.clone(), y, known)
                (product,) = torch.autograd.grad((d * signs).sum(), x)
                trace = (product * signs).flatten(1).sum(1)
                log_p = log_p + (following / level).log() * (self.features - trace)
                x = ((following / level) * x - (following / level - 1) * d).detach()
        variance = path[-1].square() + 1
        log_p = log_p - 0.5 * (x.square() / variance + (2 * math.pi * variance).log()).flatten(1).sum(1)
        return -log_p / (self.features * math.log(2))
