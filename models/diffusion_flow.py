"""The invertible network T of photographs' latents: the deterministic flow of a diffusion model that is told c.

Couplings that fit into a short training cannot hold how a face changes with its glasses; a diffusion model of the
latents (`models/spatial_guide.py`, whose symbols are used here) can, and its flow is an invertible network already
(Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", section 4.3,
https://arxiv.org/abs/2011.13456). T(z) = (c, r, e), u the latents in units of their channels:

1. c = g(u), the components: a convolutional network reads the labels' embedding, the factors' posterior mean.
2. r: u taken along the flow that is told c to the noise level σ. What c says is no longer in r.
3. e: u less the way back from r, told c. A solver of a few steps errs; its error is carried along, so that the inverse
   is exact and an edit is the difference of two ways back (Ju et al. 2023, "Direct Inversion",
   https://arxiv.org/abs/2310.01506).

T⁻¹(c', r, e) = (the way back from r, told c') + e. Where a factor's c' is w > 1 times as long as its labels'
embeddings, D is extrapolated as in classifier-free guidance (Ho, Salimans 2022, https://arxiv.org/abs/2207.12598), away
from the opposite, D(−y) + w m (D(y) − D(−y)), y = c' / w, at the places m that the labels concern: where the two differ
(Couairon et al. 2022, "DiffEdit", https://arxiv.org/abs/2210.11427). Up to w = 2 the other places fade out.
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

HAZE = 0.5  # the most noise, in deviations of the latents, that g is trained under
VEIL = 0.6  # noise through which g is to see an edit: a change that it hides is hardly there for others
VEILS = 6
SHOWN = 0.9  # of the way to a label: what g then reads counts as the label
FURTHEST = 4.5  # guidance; more changes the person more and is hardly read more often, docs/editing.md
BISECTIONS = 3
CONCERNED = (0.2, 0.5)  # of the strongest difference of an image: places below are not edited, those above fully
SHIFT = 1  # places, by which latents are moved at most while g is trained
GRID = 4  # of places that g's head reads: faces are aligned, so where a thing is says what it is


def posterior_mean(
    logits: Float[Tensor, "batch readings"], labels: LabelEmbedding
) -> Float[Tensor, "batch components"]:
    """Of a factor with classes, a column each, the mean of their embeddings under softmax(logits); else the column."""
    parts, start = [], 0
    for i, factor in enumerate(labels.factors):
        corners: Tensor = getattr(labels, f"corners{i}")
        if factor.kind == "continuous":
            parts.append(logits[:, start : start + 1])
            start += 1
        else:
            parts.append(logits[:, start : start + len(corners)].softmax(1) @ corners)
            start += len(corners)
    return torch.cat(parts, 1)


def concerned(difference: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 1 height width"]:
    """m: from 0 to 1 as the difference nearby, root mean square of channels, is .2 to .5 of an image's largest."""
    strength = difference.square().mean(1, keepdim=True).sqrt()
    strength = functional.avg_pool2d(functional.pad(strength, (1,) * 4, mode="replicate"), 3, 1)
    low, high = CONCERNED
    return ((strength / strength.amax((2, 3), keepdim=True).clamp(min=1e-12) - low) / (high - low)).clamp(0, 1)


class Reading(nn.Module):
    """g: the components of latents with places, by convolutions on three scales and a head that knows the places."""

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
        if self.training:  # what is seen mirrored or through a haze is the same
            mirrored = torch.rand(len(u), 1, 1, 1, device=u.device) < 0.5
            haze = HAZE * torch.rand(len(u), 1, 1, 1, device=u.device)
            u = torch.where(mirrored, u.flip(-1), u) + haze * torch.randn_like(u)
            down, right = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
            padded = functional.pad(u, (SHIFT,) * 4, mode="replicate")
            u = padded[..., SHIFT + down : SHIFT + down + u.shape[-2], SHIFT + right : SHIFT + right + u.shape[-1]]
        with half_precision(u.device):
            return self.head(self.layers(u.contiguous(memory_format=torch.channels_last))).float()


class DiffusionFlow(nn.Module):
    """The map T between latents with places and codes, both flat: (batch, features) and (batch, codes).

    Arguments:
        features, factors, shape, settings: of the diffusion model, as `SpatialGuide` takes them.

    `guide` is to be given trained weights, and `reading` to be trained, before any of its codes means anything.
    """

    veils: Tensor

    def __init__(self, features: int, factors: Sequence[Sequence[Any]], shape: Sequence[int], **settings: Any) -> None:
        super().__init__()
        self.guide = SpatialGuide(features, factors, shape, **settings).requires_grad_(False)
        self.reading = Reading(shape[0], self.guide.labels)
        self.features, self.components = features, self.guide.labels.dim
        self.codes = self.components + 2 * features
        seeded = torch.Generator().manual_seed(0)
        self.register_buffer("veils", torch.randn(VEILS, *shape, generator=seeded), persistent=False)

    def train(self, mode: bool = True) -> "DiffusionFlow":
        super().train(mode)
        self.guide.eval()  # it stays as it is
        return self

    def read(self, latents: Float[Tensor, "batch features"]) -> Float[Tensor, "batch components"]:
        """c = g(u), in evaluation the mean of the picture's and its mirror image's."""
        u = self.guide.scaled(latents)
        seen = [u] if self.training else [u, u.flip(-1)]
        return torch.stack([posterior_mean(self.reading(some), self.guide.labels) for some in seen]).mean(0)

    def reads_through(self, latents: Float[Tensor, "batch features"]) -> Float[Tensor, "batch components"]:
        """The mean of what g reads through several veils of noise, which hide a change that is hardly there."""
        u = self.guide.scaled(latents)[:, None] + VEIL * self.veils
        logits = self.reading(u.flatten(0, 1))
        return posterior_mean(logits, self.guide.labels).unflatten(0, (len(latents), -1)).mean(1)

    def reach(
        self, codes: Float[Tensor, "batch codes"], factor: int, goal: Float[Tensor, "batch block"]
    ) -> Float[Tensor, "batch block"]:
        """A factor's codes c' of an edit to an embedding: as far beyond it as it takes until T reads it, no further.

        c' is w times the goal, of a continuous factor c + w (goal − c), and w, between 1 and 4.5, the smallest found
        by bisection with which the inverse is read as nine tenths of the goal, through noise. An image needs as much
        guidance as it needs: with one w for all, some change too little and others more than they have to.
        """
        block, continuous = self.guide.labels.blocks[factor], self.guide.labels.factors[factor].kind == "continuous"
        own = codes[:, block] if continuous else torch.zeros_like(goal)
        way = goal - own
        low, high = torch.ones_like(goal[:, :1]), torch.full_like(goal[:, :1], FURTHEST)
        for _ in range(BISECTIONS):
            middle = (low * high).sqrt()
            tried = codes.clone()
            tried[:, block] = own + middle * way
            seen = self.reads_through(self.inverse(tried))[:, block] - own
            shown = (seen * way).sum(1, keepdim=True) >= SHOWN * way.square().sum(1, keepdim=True)
            low, high = torch.where(shown, low, middle), torch.where(shown, middle, high)
        return own + high * way

    def forward(self, latents: Float[Tensor, "batch features"]) -> Float[Tensor, "batch codes"]:
        """Codes T(z) = (c, r, e)."""
        u, c = self.guide.scaled(latents), self.read(latents)
        r = self.along(u, c, up=True)
        return torch.cat([c, r.flatten(1), (u - self.along(r, c)).flatten(1)], 1)

    def inverse(self, codes: Float[Tensor, "batch codes"]) -> Float[Tensor, "batch features"]:
        """Latents T⁻¹(c, r, e)."""
        c, r, e = codes.split([self.components, self.features, self.features], 1)
        u = self.along(r.unflatten(1, self.guide.shape), c) + e.unflatten(1, self.guide.shape)
        return (u * self.guide.scale + self.guide.shift).flatten(1)

    def along(
        self, x: Float[Tensor, "batch channels height width"], c: Float[Tensor, "batch components"], up: bool = False
    ) -> Float[Tensor, "batch channels height width"]:
        """x taken along the flow that is told c: from noise to latents, or `up`, from latents to noise."""
        path = levels(self.guide.noise, self.guide.solver_steps).to(x.device)
        told, opposite, having, beyond = self.told(c)
        ones, far = x.new_ones(len(x)), (beyond > 0).nonzero().flatten()
        known = torch.ones_like(c)

        def denoise(x: Tensor, level: Tensor) -> Tensor:
            d = self.guide.denoise(x, ones * level, told, known)
            if len(far):
                other = self.guide.denoise(x[far], ones[far] * level, opposite[far], having[far])
                difference, w = d[far] - other, 1 + beyond[far, None, None, None]
                share = torch.lerp(torch.ones_like(w), concerned(difference), (w - 1).clamp(max=1))  # none at w = 1
                d = d.index_copy(0, far, other + w * share * difference)
            return d

        return solve(x, path if up else path.flip(0), denoise)

    def told(self, c: Float[Tensor, "batch components"]) -> tuple[Tensor, Tensor, Tensor, Float[Tensor, " batch"]]:
        """The embeddings that D is told for c, those of the opposite and which of them are known, and by how much the
        difference counts once more.

        Per factor, an embedding is no longer than the labels' own; what c has beyond that is guidance, of which the
        strongest holds for all factors. Of more than two classes there is no opposite: there it is the label unknown.
        """
        told, opposite, known, beyond = [], [], [], []
        for i, block in enumerate(self.guide.labels.blocks):
            longest = self.guide.labels.longest(i)
            excess = (c[:, block].norm(dim=1, keepdim=True) / longest).clamp(min=1)
            told.append(c[:, block] / excess)
            guided, classes = excess > 1 + 1e-4, len(getattr(self.guide.labels, f"corners{i}"))
            known.append((~guided if classes > 2 else torch.ones_like(guided)).float().expand_as(told[-1]))
            opposite.append(known[-1] * torch.where(guided, -told[-1], told[-1]))
            beyond.append(excess - 1)
        return torch.cat(told, 1), torch.cat(opposite, 1), torch.cat(known, 1), torch.cat(beyond, 1).amax(1)

    def bits(
        self, latents: Float[Tensor, "batch features"], steps: int = 24, generator: torch.Generator | None = None
    ) -> Float[Tensor, " batch"]:
        """−log₂ p(z | c) / d of latents, by the change of variables along the flow (Song et al. 2021, section 4.3).

        d log|det| / d ln σ = d − tr ∂D/∂x, whose trace is estimated with one random sign vector a step (Hutchinson).
        From σ = 8 on what is left is taken for normal.
        """
        c = self.read(latents)
        told, known = self.told(c)[0], torch.ones_like(c)
        x, path = self.guide.scaled(latents), levels(LEVEL_BOUNDS[1], steps).to(latents.device)
        log_p = -self.guide.scale.log().sum() * math.prod(self.guide.shape[1:]) + x.new_zeros(len(x))
        ones = x.new_ones(len(x))
        with torch.inference_mode(False), torch.enable_grad():
            told, known, ones = told.clone(), known.clone(), ones.clone()
            for level, following in zip(path[:-1], path[1:], strict=True):
                signs = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
                x = x.detach().clone().requires_grad_(True)
                d = self.guide.denoise(x, ones * level.clone(), told, known)
                (product,) = torch.autograd.grad((d * signs).sum(), x)
                trace = (product * signs).flatten(1).sum(1)
                log_p = log_p + (following / level).log() * (self.features - trace)
                x = ((following / level) * x - (following / level - 1) * d).detach()
        variance = path[-1].square() + 1
        log_p = log_p - 0.5 * (x.square() / variance + (2 * math.pi * variance).log()).flatten(1).sum(1)
        return -log_p / (self.features * math.log(2))
