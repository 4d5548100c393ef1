"""The invertible network T for spatial latents, (channels, height, width), which are passed flattened.

T = (convolutional couplings conditioned on the components) ∘ (a linear map over all positions). Symbols: u the latents,
scaled per channel; c the components, one or a few per factor; x the remainder of the latents.

1. Linear map. c₀ = W u predicts the factors by linear discriminants over all positions, with a shrunken covariance. An
   edit of c₀ changes u along E, the factors' effects by least squares with the other labels held fixed (W Eᵀ = I). The
   remainder u − Eᵀ c₀ has as many degrees of freedom less as there are components: a block reflector (I − V G Vᵀ) moves
   these into a few slots, which are then zero. So x stays a feature map, and before training an edit is the mean
   difference.
2. c₁ = c₀ + g(x) adds a convolutional prediction of what the linear one misses.
3. FrEIA's affine couplings of x, squeezed to about 8 × 8 positions and conditioned on c₁ at every position. So the
   effect of a component depends on the face, and on the position of its eyes.

The IIN paper (https://arxiv.org/abs/2004.13166) has latents H × W × C and couplings of this kind; Glow (Kingma,
Dhariwal 2018, https://arxiv.org/abs/1807.03039) has the squeeze.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import FrEIA.modules as Fm
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from models.networks import squeeze_of
from models.precision import fast_precision

__all__ = ["SpatialFlow"]

BLOCKS = {"rnvp": Fm.RNVPCouplingBlock, "glow": Fm.GLOWCouplingBlock}
MOST_ROWS = 20_000  # from which the covariance is estimated


class Subnetwork(nn.Module):
    """A small convolutional residual network that keeps the size and whose output is zero before training.

    Outputs are multiplied by `mask` (channels, height, width), which is zero in the slots, so couplings keep them.
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, width: int, depth: int, side: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(width, *side))
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.last = nn.Conv2d(width, outputs, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]  # the layer has a bias
        self.register_buffer("mask", torch.ones(outputs, *side))

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs height width"]:
        fast = fast_precision(x.device)
        # In evaluation everything is float32: in bfloat16 the inverse is not exact, which matters little in training.
        with torch.autocast(x.device.type, fast, enabled=self.training and fast != torch.float32):
            h = self.first(x.contiguous(memory_format=torch.channels_last)) + self.place
            for layer in self.layers:
                h = h + layer(functional.silu(h))
            return self.last(functional.silu(h)).float() * self.mask


class SpatialFlow(nn.Module):
    """An invertible map between spatial latents and codes, both flat (batch, features), the components first.

    Arguments:
        shape: (channels, height, width) of the latents.
        components: number of codes that are predicted from all positions; they come first.
        blocks, width, depth: number of couplings, channels and hidden layers of their networks.
        coupling: `glow` or `rnvp`, as in `models.flow.Flow`.
    """

    shift: Tensor
    scale: Tensor
    reading: Tensor
    offset: Tensor
    effects: Tensor
    reflector: Tensor
    gram: Tensor
    log_det: Tensor
    free: Tensor  # indices of x that are not slots
    left: Tensor  # indices of the same coordinates after all permutations

    def __init__(
        self,
        shape: Sequence[int],
        components: int,
        blocks: int = 4,
        width: int = 128,
        depth: int = 3,
        coupling: Literal["rnvp", "glow"] = "glow",
    ) -> None:
        super().__init__()
        channels, height, wide = shape
        self.shape, self.components, self.features = tuple(shape), components, channels * height * wide
        if channels < 2:
            raise ValueError(f"A flow of spatial latents needs at least 2 channels, got {channels}.")
        self.squeeze = squeeze_of(height, wide)
        side = (height // self.squeeze, wide // self.squeeze)
        squeezed = channels * self.squeeze**2
        self.squeezed = (squeezed, *side)
        subnetwork = partial(Subnetwork, width=width, depth=depth, side=side)
        self.couplings = nn.ModuleList(
            BLOCKS[coupling]([self.squeezed], [(components, *side)] if components else [],
                             subnet_constructor=subnetwork, clamp=1.0, clamp_activation="TANH")
            for _ in range(blocks)
        )  # fmt: skip
        self.correction = subnetwork(squeezed, components) if components else None
        slots = self.slots()
        self.register_buffer("free", (~slots).flatten().nonzero().flatten())
        self.register_buffer("left", self.hide(slots).flatten().nonzero().flatten())
        for name, length in (("shift", channels), ("scale", channels)):
            self.register_buffer(name, torch.full((length,), float(name == "scale")))
        start = torch.eye(self.features)[slots.flatten()]
        self.register_buffer("reading", start.clone())
        self.register_buffer("effects", start.clone())
        self.register_buffer("offset", torch.zeros(components))
        self.register_buffer("reflector", torch.zeros(self.features, components))
        self.register_buffer("gram", torch.zeros(components, components))
        self.register_buffer("log_det", torch.zeros(()))

    def slots(self) -> Bool[Tensor, "channels height width"]:
        """Mark the coordinates that the components replace: those in the corner, where there is no face."""
        slots = torch.zeros(self.squeezed, dtype=torch.bool)
        for i in range(self.components):
            position, channel = divmod(i, self.squeezed[0])
            slots[channel, position // self.squeezed[2], position % self.squeezed[2]] = True
        return slots

    def hide(self, slots: Bool[Tensor, "channels height width"]) -> Float[Tensor, "channels height width"]:
        """Mask the slots in every coupling, and return 1 where there is no slot after all permutations."""
        keep = (~slots).float()
        for block in self.couplings:
            first, second = keep.split([block.split_len1, block.split_len2])
            for name, mask in (("1", second), ("2", first)):
                for subnetwork in self.subnetworks(block, name):
                    subnetwork.mask.copy_(mask.repeat(len(subnetwork.mask) // len(mask), 1, 1))
            keep = self.turn(keep[None])[0]
        return keep

    @staticmethod
    def subnetworks(block: nn.Module, name: str) -> list[Subnetwork]:
        """Return the networks of one half of a block: GLOW has one for scale and shift, RNVP has two."""
        names = (f"subnet{name}", f"subnet_s{name}", f"subnet_t{name}")
        return [child for key, child in block.named_children() if key in names and isinstance(child, Subnetwork)]

    @staticmethod
    def turn(x: Float[Tensor, "batch channels height width"], back: bool = False) -> Tensor:
        """Put every second channel first, so that the next block splits the channels differently; `back` undoes it."""
        order = torch.arange(x.shape[1], device=x.device)
        order = torch.cat([order[::2], order[1::2]])
        return x[:, torch.argsort(order) if back else order]

    @torch.no_grad()
    def initialise(self, latents: Float[Tensor, "n features"], labels: Float[Tensor, "n components"] | None) -> None:
        """Initialise the linear map from training latents and embedded labels, 0 where unknown.

        Without labels the components are the coordinates of the slots.
        """
        maps = latents.unflatten(1, self.shape)
        self.shift.copy_(maps.mean((0, 2, 3)))
        self.scale.copy_(maps.std((0, 2, 3)).clamp(min=1e-6))
        log_det = -self.scale.log().sum() * self.shape[1] * self.shape[2]
        self.log_det.copy_(log_det)
        if labels is None or not self.components:
            return
        u = self.scaled(latents).double()
        y = labels.double() - labels.double().mean(0)
        centred = u - u.mean(0)
        effects = torch.linalg.lstsq(y, centred).solution
        reading = discriminants((centred - y @ effects)[:MOST_ROWS], effects)
        basis = torch.linalg.svd(reading, full_matrices=False)[2]  # orthonormal rows, (components, features)
        slots = torch.eye(self.features, dtype=torch.float64)[self.slots().flatten()]
        left, _, right = torch.linalg.svd(slots @ basis.T)
        aligned = left @ right @ basis  # the orthonormal basis of the same row space that is closest to the slots
        v = (aligned - slots).T
        self.reading.copy_(reading)
        self.effects.copy_(effects)
        self.offset.copy_(-(reading @ u.mean(0)) + labels.double().mean(0))
        self.reflector.copy_(v)
        self.gram.copy_(2 * torch.linalg.inv(v.T @ v))
        self.log_det.copy_(log_det + torch.linalg.slogdet(reading @ aligned.T)[1])

    def scaled(self, latents: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
        """Return u, the latents standardised per channel and squeezed."""
        u = (latents.float().unflatten(1, self.shape) - self.shift[:, None, None]) / self.scale[:, None, None]
        return functional.pixel_unshuffle(u, self.squeeze).flatten(1)

    def reflected(self, u: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
        """Return (I − V G Vᵀ) u; the reflection is its own inverse."""
        return u - u @ self.reflector @ self.gram @ self.reflector.T

    def conditions(self, c: Float[Tensor, "batch components"]) -> list[Tensor]:
        """Return the components at every position, as the condition of the couplings."""
        return [c[:, :, None, None].expand(-1, -1, *self.squeezed[1:])] if self.components else []

    def read(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch components"]:
        """Return g(x), summed over positions."""
        assert self.correction is not None
        return self.correction(x).sum((2, 3)) / self.squeezed[1]

    def forward(
        self, latents: Float[Tensor, "batch features"]
    ) -> tuple[Float[Tensor, "batch features"], Float[Tensor, " batch"]]:
        """Return the codes T(z) and log|det dT/dz| of each row, in nats."""
        with torch.autocast(latents.device.type, enabled=False):
            u = self.scaled(latents)
            log_det = self.log_det.expand(len(u))
            c = u @ self.reading.T + self.offset
            x = torch.zeros_like(u)
            x[:, self.free] = self.reflected(u - (c - self.offset) @ self.effects)[:, self.free]
            x = x.unflatten(1, self.squeezed)
            if self.components:
                c = c + self.read(x)
            for block in self.couplings:
                (x,), change = block([x], self.conditions(c))
                log_det, x = log_det + change, self.turn(x)
            return torch.cat([c, x.flatten(1)[:, self.left]], 1), log_det

    def inverse(self, codes: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
        """Return the latents T⁻¹(c, x)."""
        with torch.autocast(codes.device.type, enabled=False):
            codes = codes.float()
            c, x = codes[:, : self.components], torch.zeros_like(codes)
            x[:, self.left] = codes[:, self.components :]
            x = x.unflatten(1, self.squeezed)
            for block in reversed(self.couplings):
                (x,), _ = block([self.turn(x, back=True)], self.conditions(c), rev=True)
            if self.components:
                c = c - self.read(x)
            u = self.reflected(x.flatten(1)) + (c - self.offset) @ self.effects
            u = functional.pixel_shuffle(u.unflatten(1, self.squeezed), self.squeeze)
            return (u * self.scale[:, None, None] + self.shift[:, None, None]).flatten(1)


def discriminants(
    residual: Float[Tensor, "n features"], effects: Float[Tensor, "components features"]
) -> Float[Tensor, "components features"]:
    """Return (E Σ⁻¹ Eᵀ)⁻¹ E Σ⁻¹, which predicts labels from features; Σ is the shrunken covariance of the residuals.

    There are about as many features as photographs, so without shrinkage the prediction would be noise. Ledoit, Wolf
    (2004), "A well-conditioned estimator for large-dimensional covariance matrices".
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    covariance = residual.T @ residual / len(residual)
    share = float(ledoit_wolf_shrinkage(residual.cpu().numpy(), assume_centered=True))
    covariance = (1 - share) * covariance
    covariance.diagonal().add_(share * residual.square().mean())
    solved = torch.linalg.solve(covariance, effects.T).T
    return torch.linalg.solve(solved @ effects.T, solved)
