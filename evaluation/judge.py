"""The judge: a classifier of the factors that reads images, never codes, and so can say what an edit did."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from datamodules.factors import TRAIN, VALIDATION, Factor, FactorTable, ImageData, fingerprint
from datamodules.images import cache_errors, with_progress, write_whole
from evaluation.metrics import Statistics, factor_statistics, reading_quality
from models.encoders import weights_sha256
from models.muon import Muon
from models.precision import fast_precision

__all__ = ["UNFIT_BELOW", "Judge", "judge_quality", "train_judge", "unfit"]

VERSION = 3  # of the network, its training and the cached file
UNFIT_BELOW = 0.75  # balanced accuracy under which a factor is flagged
SEEN = 120_000  # photographs that suffice for training
MOST_EPOCHS = 60
MOST_VALIDATION = 2_000
HEAVIEST = 10.0  # weight of a rare class: a handful of images must not rule the gradient


class Judge(nn.Module):
    """A small convolutional net with one head per factor: a logit, a logit per class, or a standardised value.

    Arguments:
        factors: what to read.
        statistics: of the training labels; a continuous factor's head is in units of its deviation from its mean.
        size: image side.
        width: channels of the first layer, doubled twice.
    """

    mean: Tensor
    deviation: Tensor
    median: Tensor
    views = SEEN  # training images shown, of drawn ones a quarter
    version = 1  # of a kind of its own; `VERSION` is of all

    def __init__(self, factors: Sequence[Factor], statistics: Statistics, size: int, width: int) -> None:
        super().__init__()
        self.factors, self.size = tuple(factors), size
        self.heads = [len(f.values) if f.kind == "categorical" else 1 for f in self.factors]
        for name in ("mean", "deviation", "median"):
            self.register_buffer(name, getattr(statistics, name).nan_to_num(0.0).float())
        self.head = nn.Linear(self.build(size, width), sum(self.heads))

    def build(self, size: int, width: int) -> int:
        """Makes `layers`, from prepared images to features, and says how many features those are."""
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
        """Images, uint8 or float in [0, 1], as the network takes them."""
        return centred(images)

    def augmented(
        self, images: Shaped[Tensor, "batch 3 size size"], generator: torch.Generator, flip: bool
    ) -> Float[Tensor, "batch 3 side side"]:
        """The same for training, changed at random."""
        return augment(centred(images), generator, flip)

    def forward(self, images: Float[Tensor, "batch 3 side side"]) -> tuple[Float[Tensor, "batch outputs"], ...]:
        """The heads' outputs for prepared images."""
        return self.head(self.layers(images.contiguous(memory_format=torch.channels_last))).split(self.heads, dim=1)

    @torch.no_grad()
    def read(self, images: Shaped[Tensor, "n 3 size size"], batch: int = 512) -> Float[Tensor, "n factors"]:
        """What the images show, in the factor table's units: 0 or 1, the class number, the continuous unit.

        Images are uint8, or float in [0, 1]. Always in float32 and evaluation mode, so equal images read equal.
        """
        training, device = self.training, self.mean.device
        self.eval()
        with torch.autocast(device.type, enabled=False):
            parts = images.split(batch) if len(images) else ()  # of which PixelUnshuffle makes no other channels
            rows = [self.decide(self(self.prepared(part.to(device)))) for part in parts]
        self.train(training)
        return torch.cat(rows) if rows else torch.empty(0, len(self.factors), device=device)

    def logits(self, images: Float[Tensor, "n 3 size size"]) -> list[Float[Tensor, "n outputs"]]:
        """The heads' outputs for images in [0, 1], with a gradient, in bfloat16 where that is faster."""
        device = self.mean.device
        precision = fast_precision(device)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            return [output.float() for output in self(self.prepared(images))]

    def decide(self, outputs: Sequence[Float[Tensor, "batch _"]]) -> Float[Tensor, "batch factors"]:
        columns = []
        for i, (factor, output) in enumerate(zip(self.factors, outputs, strict=True)):
            if factor.kind == "continuous":
                columns.append(output[:, 0] * self.deviation[i] + self.mean[i])
            else:
                columns.append((output[:, 0] > 0 if factor.kind == "binary" else output.argmax(1)).float())
        return torch.stack(columns, dim=1)


def centred(images: Shaped[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 3 size size"]:
    """uint8, or float in [0, 1], to [-1, 1]."""
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images.float() * 2 - 1


@runtime_checkable
class FactorReader(Protocol):
    """Reads factors off images, and knows the training labels' medians: a judge or a committee of them."""

    median: Tensor

    def read(self, images: Tensor) -> Tensor: ...


def judge_quality(
    judge: FactorReader, images: Shaped[Tensor, "n 3 size size"], labels: FactorTable
) -> dict[str, dict[str, float]]:
    """Accuracy, balanced accuracy and, of continuous factors, r2 on these images; see `metrics.reading_quality`."""
    return reading_quality(judge.read(images).cpu(), labels, judge.median.cpu())


def unfit(quality: dict[str, dict[str, float]]) -> list[str]:
    """The factors whose judge is too weak to measure edits with: balanced accuracy below .75."""
    return [name for name, row in quality.items() if not row["balanced_accuracy"] >= UNFIT_BELOW]


def class_weights(labels: Float[Tensor, " n"], classes: int) -> Float[Tensor, " classes"]:
    """Weights inverse to the classes' counts, 1 where balanced, at most 10."""
    counts = torch.bincount(labels[~labels.isnan()].long(), minlength=classes).float()
    return (counts.sum() / (classes * counts.clamp(min=1))).clamp(max=HEAVIEST)


def factor_loss(
    output: Float[Tensor, "batch _"],
    labels: Float[Tensor, " batch"],
    factor: Factor,
    weights: Float[Tensor, " classes"],
    confidence: Float[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy, or for a continuous factor half the squared error, over the known labels; 0 where none is.

    Each label's term is weighted with its confidence, the probability that it is right.
    """
    known = ~labels.isnan()
    sure = torch.ones_like(labels[known]) if confidence is None else confidence[known]
    output, labels = output[known].float(), labels[known]
    if factor.kind == "continuous":
        losses = (output[:, 0] - labels).square() / 2
    elif factor.kind == "categorical":
        losses = functional.cross_entropy(output, labels.long(), reduction="none") * weights[labels.long()]
    else:
        losses = functional.binary_cross_entropy_with_logits(output[:, 0], labels, reduction="none")
        losses = losses * weights[labels.long()]
    return (losses * sure).sum() / max(len(losses), 1)


def softened(images: Float[Tensor, "batch 3 high wide"], amount: Float[Tensor, "batch 1 1 1"]) -> Tensor:
    """One pixel less on every side, smoothed along both axes with the taps (amount, 3 − 2 amount, amount) / 3."""
    side, middle = amount / 3, 1 - amount * (2 / 3)
    images = (images[..., :-2] + images[..., 2:]).mul_(side).addcmul_(images[..., 1:-1], middle)
    return (images[..., :-2, :] + images[..., 2:, :]).mul_(side).addcmul_(images[..., 1:-1, :], middle)


def augment(
    images: Float[Tensor, "batch 3 size size"], generator: torch.Generator, flip: bool = True, shift: int = 2
) -> Float[Tensor, "batch 3 size size"]:
    """Half of the images mirrored, all moved by up to `shift` pixels, each softened by its own amount.

    The blur is for what the judge will read: reconstructions and edits, softer than what it learns from.
    """
    n, size = len(images), images.shape[-1]
    amount, coin = torch.rand(2, n, 1, 1, 1, generator=generator).to(images.device).unbind(0)
    if flip:
        images = torch.where(coin < 0.5, images.flip(-1), images)
    top, left = torch.randint(2 * shift + 1, (2,), generator=generator).tolist()
    images = functional.pad(images, (shift + 1,) * 4, mode="replicate")
    return softened(images[..., top : top + size + 2, left : left + size + 2], amount)


def standardised(values: Float[Tensor, "n factors"], judge: Judge) -> Float[Tensor, "n factors"]:
    """Labels as the heads' targets: continuous ones in deviations from the training mean."""
    columns = []
    for i, factor in enumerate(judge.factors):
        scaled = (values[:, i] - judge.mean[i]) / judge.deviation[i].clamp(min=1e-12)
        columns.append(scaled if factor.kind == "continuous" else values[:, i])
    return torch.stack(columns, dim=1)


def validation_score(judge: Judge, data: ImageData, rows: Tensor) -> float:
    """Mean balanced accuracy over the factors; 0 where there is nothing to validate on."""
    quality = judge_quality(judge, data.images[rows], data.factors[rows])
    return sum(row["balanced_accuracy"] for row in quality.values()) / max(len(quality), 1)


def fit(
    judge: Judge,
    data: ImageData,
    rows: Int64[Tensor, " train"],
    generator: torch.Generator,
    epochs: int,
    batch: int,
    learning_rate: float,
    flip: bool,
) -> None:
    """Train in place; the weights kept are those of the epoch that validates best, the later one of equals."""
    device, precision = judge.mean.device, fast_precision(judge.mean.device)
    validation = data.rows(VALIDATION)
    validation = validation[torch.randperm(len(validation), generator=generator)[:MOST_VALIDATION]]
    targets = standardised(data.factors.values.to(device), judge)
    sure = torch.ones_like(targets) if data.factors.confidence is None else data.factors.confidence.to(device)
    weights = [
        class_weights(data.factors.values[rows, i], max(len(f.values), 2)).to(device)
        if f.kind != "continuous"
        else torch.ones(1, device=device)
        for i, f in enumerate(judge.factors)
    ]
    optimiser = Muon(judge.parameters(), learning_rate, weight_decay=0.05)
    rates = [group["lr"] for group in optimiser.param_groups]
    steps = epochs * math.ceil(len(rows) / batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=steps, cycle_momentum=False)
    best, kept = -1.0, {}
    for _ in with_progress(range(epochs), epochs * len(rows), "Training the classifier on images", each=len(rows)):
        judge.train()
        for chosen in rows[torch.randperm(len(rows), generator=generator)].split(batch):
            images = judge.augmented(data.images[chosen].to(device), generator, flip)
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                outputs = judge(images)
            losses = [
                factor_loss(output, targets[chosen, i], judge.factors[i], weights[i], sure[chosen, i])
                for i, output in enumerate(outputs)
            ]
            optimiser.zero_grad()
            torch.stack(losses).mean().backward()
            optimiser.step()
            schedule.step()
        score = validation_score(judge, data, validation)
        if score >= best:
            best, kept = score, {name: tensor.clone() for name, tensor in judge.state_dict().items()}
    judge.load_state_dict(kept)
    judge.eval().requires_grad_(False)


def restore(judge: Judge, path: Path) -> bool:
    """Load cached weights; False where there are none or they are damaged."""
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            if file.metadata()["sha256"] != weights_sha256(state):
                return False
        judge.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError):
        return False
    judge.eval().requires_grad_(False)
    return True


def store(judge: Judge, path: Path) -> None:
    """Write the weights with their checksum."""
    state = {name: tensor.cpu().contiguous() for name, tensor in judge.state_dict().items()}
    content = save(state, {"sha256": weights_sha256(state)})
    with cache_errors(path.parent), write_whole(path) as temporary:
        temporary.write_bytes(content)


def train_judge(
    data: ImageData,
    seed: int = 0,
    epochs: int | None = None,
    width: int = 24,
    batch: int = 128,
    learning_rate: float = 1e-2,
    flip: bool = True,
    device: str | torch.device = "cpu",
    cache_dir: str | Path | None = None,
    scale: float = 1.0,
    rows: Int64[Tensor, " train"] | None = None,
    kind: type[Judge] = Judge,
    learn: Callable[..., None] | None = None,
) -> Judge:
    """Train a judge on images of the training split (all, or these `rows`), or take it from the cache.

    Global random state is left alone, and on a CPU a seed repeats bit for bit. `epochs` is by default what shows
    its kind's `views` of photographs, or a quarter of that of drawn images; `scale` below 1 shortens that, to one epoch
    at least. `flip=False` for factors that mirroring changes. `learn` trains in the place of `fit`. A damaged cached
    file is written anew.

    Raises:
        UserError: a cache folder that cannot be written.
    """
    device, part = torch.device(device), [] if rows is None else [rows]
    rows = data.rows(TRAIN) if rows is None else rows
    seen = kind.views if data.counterfactual is None else kind.views // 4
    epochs = epochs or max(1, round(min(scale, 1.0) * min(math.ceil(seen / max(len(rows), 1)), MOST_EPOCHS)))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs, too
        judge = kind(data.factors.factors, factor_statistics(data.factors.values[rows]), data.size, width)
    judge = judge.to(device).to(memory_format=torch.channels_last)
    hyperparameters = (seed, epochs, width, batch, learning_rate, flip, device.type, fast_precision(device))
    labels = (data.factors.factors, data.factors.values, data.factors.confidence, data.split)
    other = [] if kind is Judge else [kind.__name__, kind.version]
    key = fingerprint(VERSION, data.fingerprint, data.size, *labels, *hyperparameters, *part, *other)
    path = Path(cache_dir).expanduser() / "judge" / f"{key[:32]}.safetensors" if cache_dir is not None else None
    if path is None or not restore(judge, path):
        generator = torch.Generator().manual_seed(seed)
        (learn or fit)(judge, data, rows, generator, epochs, batch, learning_rate, flip)
        if path is not None:
            store(judge, path)
    return judge
