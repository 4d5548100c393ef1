"""A classifier of factors from images: the network, and its losses, augmentations and scores as pure functions."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from models.arrays import Array, Values, as_tensor
from models.labels import Factor, Statistics
from models.precision import fast_precision

__all__ = ["Judge", "class_recalls", "class_weights", "factor_loss", "reached"]

SEEN = 120_000  # photographs shown in training, which suffice

HEAVIEST = 10.0  # largest weight of a rare class, so that few images do not dominate the gradient


class Judge(nn.Module):
    """A small convolutional network with one head per factor: a logit, a logit per class, or a standardised value.

    Arguments:
        factors: factors to predict.
        statistics: statistics of the training labels, by which a continuous factor is standardised.
        size: side of the images.
        width: channels of the first layer, doubled twice.
    """

    mean: Tensor
    deviation: Tensor
    median: Tensor
    views = SEEN  # images shown in training; a quarter of it for drawn images

    def __init__(self, factors: Sequence[Factor], statistics: Statistics, size: int, width: int) -> None:
        super().__init__()
        self.factors, self.size = tuple(factors), size
        self.heads = [len(f.values) if f.kind == "categorical" else 1 for f in self.factors]
        for name in ("mean", "deviation", "median"):
            self.register_buffer(name, getattr(statistics, name).nan_to_num(0.0).float())
        self.head = nn.Linear(self.build(size, width), sum(self.heads))

    def build(self, size: int, width: int) -> int:
        """Build `layers`, which map prepared images to features, and return the number of features."""
        unshuffle = 1
        while size % (2 * unshuffle) == 0 and size // (2 * unshuffle) >= 32:
            unshuffle *= 2
        layers: list[nn.Module] = [nn.PixelUnshuffle(unshuffle)]
        channels = 3 * unshuffle**2
        for stride, wide in ((1, width), (2, 2 * width), (2, 4 * width), (1, 4 * width)):
            layers += [nn.Conv2d(channels, wide, 3, stride, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
            channels = wide
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        return 16 * channels

    def prepared(self, images: Shaped[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 3 side side"]:
        """Convert images, uint8 or float in [0, 1], to the network's input."""
        return centred(images)

    def augmented(
        self, images: Shaped[Tensor, "batch 3 size size"], generator: torch.Generator, flip: bool
    ) -> Float[Tensor, "batch 3 side side"]:
        """Convert images to the network's input for training, with random augmentation."""
        return augment(centred(images), generator, flip)

    def forward(self, images: Float[Tensor, "batch 3 side side"]) -> tuple[Float[Tensor, "batch outputs"], ...]:
        """Return the outputs of the heads for prepared images."""
        return self.head(self.layers(images.contiguous(memory_format=torch.channels_last))).split(self.heads, dim=1)

    @torch.no_grad()
    def read(self, images: Shaped[Tensor, "n 3 size size"], batch: int = 512) -> Float[Tensor, "n factors"]:
        """Predict the factors' values from images, uint8 or float in [0, 1].

        Values are in the factor table's units: 0 or 1, the class index, or the continuous unit. It always runs in
        float32 and evaluation mode, so equal images give equal values.
        """
        training, device = self.training, self.mean.device
        self.eval()
        with torch.autocast(device.type, enabled=False):
            parts = images.split(batch) if len(images) else ()  # PixelUnshuffle does not accept an empty batch
            rows = [self.decide(self(self.prepared(part.to(device)))) for part in parts]
        self.train(training)
        return torch.cat(rows) if rows else torch.empty(0, len(self.factors), device=device)

    def logits(self, images: Float[Tensor, "n 3 size size"]) -> list[Float[Tensor, "n outputs"]]:
        """Return the outputs of the heads for images in [0, 1], with gradient, in bfloat16 where that is faster."""
        device = self.mean.device
        precision = fast_precision(device)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            return [output.float() for output in self(self.prepared(images))]

    def decide(self, outputs: Sequence[Float[Tensor, "batch _"]]) -> Float[Tensor, "batch factors"]:
        """Turn the outputs of the heads into values in the factor table's units."""
        columns = []
        for i, (factor, output) in enumerate(zip(self.factors, outputs, strict=True)):
            if factor.kind == "continuous":
                columns.append(output[:, 0] * self.deviation[i] + self.mean[i])
            else:
                columns.append((output[:, 0] > 0 if factor.kind == "binary" else output.argmax(1)).float())
        return torch.stack(columns, dim=1)


def centred(images: Shaped[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 3 size size"]:
    """Scale images, uint8 or float in [0, 1], to [-1, 1].

    >>> centred(torch.tensor([[[[0, 255]]]], dtype=torch.uint8).expand(1, 3, 2, 2))[0, 0, 0]
    tensor([-1.,  1.])
    """
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images.float() * 2 - 1


def class_weights(labels: Float[Tensor, " n"], classes: int) -> Float[Tensor, " classes"]:
    """Return class weights inversely proportional to the classes' counts: 1 for balanced classes, at most 10.

    >>> class_weights(torch.tensor([0.0, 0.0, 0.0, 1.0]), 2)
    tensor([0.6667, 2.0000])
    """
    counts = torch.bincount(labels[~labels.isnan()].long(), minlength=classes).to(labels.dtype)
    return (counts.sum() / (classes * counts.clamp(min=1))).clamp(max=HEAVIEST)


def factor_loss(
    output: Float[Tensor, "batch _"],
    labels: Float[Tensor, " batch"],
    factor: Factor,
    weights: Float[Tensor, " classes"],
    confidence: Float[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of a factor over rows with a known label, or 0 if there are none.

    For a continuous factor it is half the squared error. Each row is weighted by its confidence, the probability that
    its label is correct.

    >>> factor_loss(torch.zeros(1, 1), torch.ones(1), Factor("hat", "binary", ("without", "with")), torch.ones(2))
    tensor(0.6931)
    """
    known = ~labels.isnan()
    sure = torch.ones_like(labels[known]) if confidence is None else confidence[known]
    output, labels = output[known].to(torch.promote_types(output.dtype, torch.float32)), labels[known]
    if factor.kind == "continuous":
        losses = (output[:, 0] - labels).square() / 2
    elif factor.kind == "categorical":
        losses = functional.cross_entropy(output, labels.long(), reduction="none") * weights[labels.long()]
    else:
        losses = functional.binary_cross_entropy_with_logits(output[:, 0], labels, reduction="none")
        losses = losses * weights[labels.long()]
    return (losses * sure).sum() / max(len(losses), 1)


def softened(images: Float[Tensor, "batch 3 high wide"], amount: Float[Tensor, "batch 1 1 1"]) -> Tensor:
    """Blur images along both axes with the taps (amount, 3 − 2 amount, amount) / 3; each side loses one pixel."""
    side, middle = amount / 3, 1 - amount * (2 / 3)
    images = (images[..., :-2] + images[..., 2:]).mul_(side).addcmul_(images[..., 1:-1], middle)
    return (images[..., :-2, :] + images[..., 2:, :]).mul_(side).addcmul_(images[..., 1:-1, :], middle)


def augment(
    images: Float[Tensor, "batch 3 size size"], generator: torch.Generator, flip: bool = True, shift: int = 2
) -> Float[Tensor, "batch 3 size size"]:
    """Mirror half of the images, shift all of them by up to `shift` pixels, and blur each by a random amount.

    The blur prepares the judge for reconstructions and edits, which are softer than its training images.
    """
    n, size = len(images), images.shape[-1]
    amount, coin = torch.rand(2, n, 1, 1, 1, generator=generator).to(images.device).unbind(0)
    if flip:
        images = torch.where(coin < 0.5, images.flip(-1), images)
    top, left = torch.randint(2 * shift + 1, (2,), generator=generator).tolist()
    images = functional.pad(images, (shift + 1,) * 4, mode="replicate")
    return softened(images[..., top : top + size + 2, left : left + size + 2], amount)


def reached(judged: Values, target: Values, factor: Factor, median: float) -> Bool[Tensor, " n"]:
    """Tell of each row whether the judged value equals the target.

    A continuous value has to be on the same side of the training median as the target.

    >>> reached(torch.tensor([1.0, 0.0]), torch.ones(2), Factor("hat", "binary", ("without", "with")), 0.5)
    tensor([ True, False])
    """
    judged, target = as_tensor(judged), as_tensor(target)
    if factor.kind == "continuous":
        return (judged > median) == (target > median)
    return judged == target


def class_recalls(
    right: Bool[Array, " n"] | Sequence[bool], classes: Array | Sequence[int]
) -> Float[Tensor, " classes"]:
    """Return the recall of each class that occurs, in float64.

    >>> class_recalls(torch.tensor([True, False, True]), torch.tensor([0, 0, 1]))
    tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    right, classes = as_tensor(right), as_tensor(classes)
    return torch.stack([right[classes == c].double().mean() for c in classes.unique()])
