"""The members of a committee that judges photographs: three kinds of classifiers, other ones than the guide's reader.

A change of an image that deceives one kind of classifier, but no person, does not deceive the others. They are a
convolutional network trained on augmented images, a transformer of patches (Dosovitskiy et al. 2021,
https://arxiv.org/abs/2010.11929), and a linear model of gradient histograms and blurred colours.
"""

import warnings

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn
from torch.nn import functional

from datamodules.factors import ImageData
from datamodules.progress import with_progress
from models.distortions import cosine_transform, distorted
from models.factor_classifier import Judge
from models.hog import hog
from models.labels import Factor
from training.factor_classifier import standardised

__all__ = ["Convolution", "Gradients", "Transformer", "fit_linear"]

SIDE = 64  # input size of the networks: glasses are visible at it, and it takes a quarter of the time of 128 pixels
PATCH = 8
GRID = 4  # side of the pooled map that a head reads: faces are aligned, so positions are informative
COLOURS = 16  # side of the blurred image whose colours are features beside the histograms
CELLS = 8  # number of histogram cells along a side
MOST_ROWS = 20_000  # rows that a linear model is fitted to; more would not change it and need more memory
PENALTY = 10.0  # weight of the squared coefficients, the best of 1, 10 and 100 on validation photographs
NEVER = -30.0  # logit of a class without a training image


def scaled(images: Shaped[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 3 size size"]:
    """Convert images, uint8 or float in [0, 1], to float in [0, 1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def resized(images: Float[Tensor, "batch 3 high wide"], side: int) -> Float[Tensor, "batch 3 side side"]:
    if images.shape[-1] == side:
        return images
    return functional.interpolate(images, (side, side), mode="bilinear", antialias=True)


class Convolution(Judge):
    """The convolutional judge at 64 pixels, trained on augmented images."""

    views = 40_000
    moves = 1.0  # strength of the moves, see `distorted`

    def build(self, size: int, width: int) -> int:
        self.side = min(size, SIDE)
        return super().build(self.side, width)

    def prepared(self, images: Shaped[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 3 side side"]:
        return resized(scaled(images), self.side) * 2 - 1

    def augmented(
        self, images: Shaped[Tensor, "batch 3 size size"], generator: torch.Generator, flip: bool
    ) -> Float[Tensor, "batch 3 side side"]:
        return distorted(scaled(images), self.side, generator, flip, self.moves) * 2 - 1


class Block(nn.Module):
    """A transformer block: self-attention and a two-layer network, each a residual on normalised tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.attended = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        parts = self.query_key_value(self.before_attention(tokens)).unflatten(2, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + self.attended(attended)
        return tokens + self.mlp(self.before_mlp(tokens))


def flat_spectrum() -> Float[Tensor, "coefficients 3 patch patch"]:
    """Return filters that compute the cosine coefficients of a patch, scaled to about equal size in photographs.

    Amplitudes fall like the inverse of the frequency, and colours vary a quarter as much as brightness. With equal
    sizes a few thousand photographs suffice to train a transformer of patches.
    """
    cosines, waves = cosine_transform(torch.device("cpu")), torch.arange(float(PATCH))
    planes = torch.einsum("ur,vs->uvrs", cosines, cosines) * (1 + waves[:, None] + waves)[..., None, None]
    colours = torch.tensor([[1.0, 1, 1], [4, 0, -4], [2, -4, 2]]) / 3
    return torch.einsum("kc,uvrs->kuvcrs", colours, planes).flatten(0, 2)


class Patches(nn.Module):
    """Embeds patches with their positions, applies the blocks, and averages the tokens over a 4 × 4 grid."""

    filters: Tensor

    def __init__(self, side: int, width: int, depth: int) -> None:
        super().__init__()
        self.register_buffer("filters", flat_spectrum())
        self.tokens = nn.Linear(2 * len(self.filters), width)
        self.places = nn.Parameter(0.02 * torch.randn((side // PATCH) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, width // 32) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch features"]:
        patches = functional.conv2d(images, self.filters, stride=PATCH)
        coefficients = patches.flatten(2).mT
        # The magnitude of a coefficient indicates a fine line, its sign only the line's position within the patch.
        tokens = self.tokens(torch.cat([coefficients, coefficients.abs()], dim=2)) + self.places
        tokens = self.norm(self.blocks(tokens)).mT.unflatten(2, patches.shape[2:])
        return functional.adaptive_avg_pool2d(tokens, GRID).flatten(1)


class Transformer(Convolution):
    """A small transformer of 8 × 8 patches at 64 pixels, trained on augmented images."""

    views = 30_000
    moves = 0.4

    def build(self, size: int, width: int) -> int:
        self.side = min(size // PATCH * PATCH, SIDE)
        self.layers = nn.Sequential(Patches(self.side, width, depth=2))
        return width * GRID**2


class Histograms(nn.Module):
    """Computes gradient histograms of 8 × 8 cells over the whole image, and its colours at 16 × 16."""

    def forward(self, images: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch features"]:
        grey = (images * images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
        cell = images.shape[-1] // CELLS
        return torch.cat([hog(grey, cell=cell), functional.adaptive_avg_pool2d(images, COLOURS).flatten(1)], dim=1)


class Gradients(Judge):
    """A linear model of fixed features, fitted in closed form or to convergence; it has no learnt filters."""

    def build(self, size: int, width: int) -> int:
        self.layers = nn.Sequential(Histograms())
        self.side = max(size // CELLS, 2) * CELLS
        with torch.no_grad():
            return self.layers(torch.zeros(1, 3, self.side, self.side)).shape[1]

    def prepared(self, images: Shaped[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 3 side side"]:
        return resized(scaled(images), self.side)


def fit_linear(
    judge: Judge,
    data: ImageData,
    rows: Int64[Tensor, " train"],
    generator: torch.Generator,
    epochs: int,
    batch: int,
    learning_rate: float,
    flip: bool,
) -> None:
    """Fit the head by logistic regression, or ridge for a continuous factor, on the original and augmented images."""
    rows = rows[torch.randperm(len(rows), generator=generator)[:MOST_ROWS]]
    device, features = judge.mean.device, []
    with torch.no_grad():
        chunks = rows.split(256)
        label = "Reading gradient histograms"
        for chosen in with_progress(chunks, len(rows), label, each=256):
            images = judge.prepared(data.images[chosen].to(device))
            seen = [images, distorted(images, images.shape[-1], generator, flip)]
            features.append(torch.stack([judge.layers(some).cpu() for some in seen], dim=1))
    table = torch.cat(features).flatten(0, 1)
    targets = standardised(data.factors.values.to(device), judge)[rows].cpu().repeat_interleave(2, dim=0)
    mean = table.mean(0)
    sure = torch.ones_like(targets)
    if data.factors.confidence is not None:
        sure = data.factors.confidence[rows].nan_to_num(1.0).repeat_interleave(2, dim=0)
    lines = [
        line for i, f in enumerate(judge.factors) for line in linear_head(table - mean, targets[:, i], f, sure[:, i])
    ]
    weight = torch.stack([line[:-1] for line in lines])
    bias = torch.stack([line[-1] for line in lines]) - weight @ mean
    judge.head.load_state_dict({"weight": weight, "bias": bias})
    judge.eval().requires_grad_(False)


def linear_head(
    table: Float[Tensor, "n features"],
    labels: Float[Tensor, " n"],
    factor: Factor,
    sure: Float[Tensor, " n"] | None = None,
) -> list[Float[Tensor, " coefficients"]]:
    """Return the coefficients and, last, the bias of each output of a factor; labels are weighted by confidence."""
    from sklearn.linear_model import LogisticRegression, Ridge

    known = ~labels.isnan()
    x, y, weights = table[known].numpy(), labels[known].numpy(), None if sure is None else sure[known].numpy()
    count = len(factor.values) if factor.kind == "categorical" else 1
    found = np.zeros((count, table.shape[1] + 1), np.float32)
    if factor.kind == "continuous":
        if len(y):
            ridge = Ridge(PENALTY).fit(x, y, weights)
            found[0] = [*ridge.coef_, ridge.intercept_]
    elif len(classes := np.unique(y)) < 2:  # a single class is always predicted
        found[:, -1] = NEVER
        if len(classes) and (factor.kind == "categorical" or classes[0] == 1):
            found[int(classes[0]) if factor.kind == "categorical" else 0, -1] = -NEVER
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the steps ran out close to convergence
            model = LogisticRegression(C=1 / PENALTY, class_weight="balanced", max_iter=300).fit(x, y, weights)
        lines = np.concatenate([model.coef_, model.intercept_[:, None]], axis=1)
        if factor.kind == "binary":
            found[0] = lines[0]
        else:
            found[:, -1] = NEVER
            pair = np.concatenate([-lines, lines]) / 2 if len(classes) == 2 else lines
            found[model.classes_.astype(int)] = pair
    return list(torch.from_numpy(found))
