"""A small U-Net that is conditioned on a noise level and labels: residual blocks and attention at two resolutions.

Ronneberger et al. (2015), https://arxiv.org/abs/1505.04597, in the form that diffusion models use (Ho et al. 2020,
https://arxiv.org/abs/2006.11239): group normalisation, and an embedding that scales and shifts every block.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["UNet"]

GROUPS = 8
HEADS = 4
FREQUENCIES = 32


class Block(nn.Module):
    """A residual block x + f(x, e) of two convolutions, the second initialised to zero, with optional attention."""

    def __init__(
        self, inputs: int, outputs: int, embedding: int, attention: bool = False, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.first_norm, self.first = nn.GroupNorm(GROUPS, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second_norm, self.second = nn.GroupNorm(GROUPS, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.attention = Attention(outputs) if attention else nn.Identity()
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]  # the layer has a bias

    def forward(self, x: Float[Tensor, "batch inputs height width"], e: Float[Tensor, "batch embedding"]) -> Tensor:
        h = self.first(functional.silu(self.first_norm(x)))
        scale, shift = self.modulation(e)[:, :, None, None].chunk(2, 1)
        h = self.dropout(functional.silu(self.second_norm(h) * (1 + scale) + shift))
        return self.attention(self.skip(x) + self.second(h))


class Attention(nn.Module):
    """Self-attention between all positions, added to x; its projection is initialised to zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv, self.projection = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)  # type: ignore[arg-type]  # the layer has a bias

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, HEADS, -1)).transpose(-1, -2).unbind(1)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        return x + self.projection(mixed.flatten(1, 2).unflatten(-1, x.shape[-2:]))


class UNet(nn.Module):
    """Maps (batch, channels, height, width), a noise level and conditions to the same shape; zero before training.

    Arguments:
        channels, side: channels and (height, width) of the input.
        conditions: number of conditions per row.
        width: channels at the fine resolution, a multiple of 8; the coarse one has 1.6 times as many.
    """

    def __init__(self, channels: int, side: tuple[int, int], conditions: int, width: int = 160) -> None:
        super().__init__()
        coarse, embedding = 8 * round(width * 1.6 / 8), 8 * round(width * 1.6 / 8)
        self.embedding = nn.Sequential(
            nn.Linear(2 * FREQUENCIES + conditions, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.enter, self.place = nn.Conv2d(channels, width, 3, padding=1), nn.Parameter(torch.zeros(width, *side))
        self.down = nn.ModuleList([Block(width, width, embedding), Block(width, width, embedding, attention=True)])
        self.shrink = nn.Conv2d(width, coarse, 3, stride=2, padding=1)
        self.middle = nn.ModuleList(
            [Block(coarse, coarse, embedding, attention=True), Block(coarse, coarse, embedding)]
        )
        self.grow = nn.Conv2d(coarse, width, 3, padding=1)
        self.up = nn.ModuleList(
            [Block(2 * width, width, embedding, attention=True), Block(2 * width, width, embedding)]
        )
        self.norm, self.leave = nn.GroupNorm(GROUPS, width), nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]  # the layer has a bias

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        level: Float[Tensor, " batch"],
        conditions: Float[Tensor, "batch conditions"],
    ) -> Float[Tensor, "batch channels height width"]:
        frequencies = torch.exp(torch.linspace(0, math.log(200), FREQUENCIES, device=x.device))
        waves = level[:, None] * frequencies
        e = self.embedding(torch.cat([waves.sin(), waves.cos(), conditions], 1))
        h = self.enter(x.contiguous(memory_format=torch.channels_last)) + self.place
        skips = []
        for block in self.down:
            h = block(h, e)
            skips.append(h)
        coarse = self.shrink(h)
        for block in self.middle:
            coarse = block(coarse, e)
        h = self.grow(functional.interpolate(coarse, size=x.shape[-2:]))
        for block in self.up:
            h = block(torch.cat([h, skips.pop()], 1), e)
        return self.leave(functional.silu(self.norm(h)))
