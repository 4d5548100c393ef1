"""The guide: what an edit of known labels should do to a latent, learnt without a single counterfactual pair.

A flow trained by likelihood alone may move pose, background and identity along with the edited factor; nothing ties
the edited image to its original. The guide says where an edit should end. It is learnt in two steps.

1. A conditional VAE of the latents z given all labels y. A narrow nuisance code n keeps what the labels do not tell:
   q(n | z), p(z | n, y), loss −E log p(z | n, y) + KL(q ‖ N(0, I)). Writing a label into n would cost nats and buy
   nothing, since p is told the labels. z is measured in units of the encoder's own posterior deviation, the change
   that a person can just see.
2. An alignment. n can still mean slightly different things under different labels, which is all that separates the
   edit z' = z + p(n, y') − p(n, y) from the counterfactual. Of all z' = z + p(n + δ, y') − p(n, y), which carry the
   labels y' whatever δ is, the wanted one changes the image least: a small network δ(n, y, y') minimises
   `image_change` of D(z') and D(z), D the frozen decoder. It grows like the absolute difference, which keeps untouched
   pixels exactly untouched, but only like its logarithm where a pixel has to change anyway, so that a hat is not made
   smaller or paler to save pixels.

Labels of photographs are now and then wrong, and an encoder loses some of what they tell (thin frames): p(z | n, y')
is then a face with half a pair of glasses. With `reading_weight` the alignment may go beyond p by a change ε(n, y, y')
of the latents, as far as a reader, a classifier of decoded images, needs it to see the wanted value and to read of the
other factors what it read before. The reader is none of the judges that measure: those are of other kinds, and learn
from other people.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional

from models.labels import LabelEmbedding
from models.muon import Muon
from models.networks import damp, mlp
from models.vae import draw, kl_divergence

__all__ = ["Guide", "image_change", "latent_nll", "posterior_deviation", "reading_loss", "within_class_whitening"]


def within_class_whitening(
    latents: Float[Tensor, "n latent"], labels: Float[Tensor, "n label"]
) -> tuple[Float[Tensor, "latent latent"], Float[Tensor, "label latent"]]:
    """(W, E): the symmetric whitening of what the labels do not explain, and the labels' effects after whitening.

    z − mean = y E₀ + residual by least squares; W = Cov(residual)^(−1/2), E = E₀ W. Each row of E is the direction in
    which a label moves whitened latents with the other labels held fixed.
    """
    centred, y = (latents - latents.mean(0)).double(), (labels - labels.mean(0)).double()
    effects = torch.linalg.lstsq(y, centred).solution
    residual = centred - y @ effects
    values, vectors = torch.linalg.eigh(residual.T @ residual / len(residual))
    # A latent that never varies must not be blown up by the inverse.
    whitening = vectors @ torch.diag(values.clamp(min=values.max() * 1e-8).rsqrt()) @ vectors.T
    return whitening.float(), (effects @ whitening).float()


def posterior_deviation(logvar: Float[Tensor, "n latent"]) -> Float[Tensor, " latent"]:
    """The encoder's posterior standard deviation per latent, the unit that changes of latents are measured in.

    At least half the median: a single latent that the encoder knows a hundred times better than the others would weigh
    ten thousand times more than they do, and no more of the image depends on it.
    """
    deviation = logvar.exp().mean(0).sqrt()
    return deviation.clamp(min=deviation.median() / 2)


def latent_nll(
    latents: Float[Tensor, "batch latent"],
    predicted: Float[Tensor, "batch latent"],
    deviation: Float[Tensor, " latent"],
) -> Float[Tensor, " batch"]:
    """½ Σ ((z − ẑ) / deviation)² per row: −log N(z; ẑ, deviation²) in nats up to a constant."""
    return 0.5 * ((latents - predicted) / deviation).square().sum(1)


def image_change(
    edited: Float[Tensor, "batch channels height width"],
    original: Float[Tensor, "batch channels height width"],
    knee: float = 0.05,
) -> Float[Tensor, " batch"]:
    """Σ knee · log(1 + |edited − original| / knee) per image: |difference| far below the knee, its logarithm above.

    Images in [0, 1].
    """
    return (knee * torch.log1p((edited - original).abs() / knee)).flatten(1).sum(1)


def reading_loss(
    edited: Sequence[Float[Tensor, "batch _"]],
    original: Sequence[Float[Tensor, "batch _"]],
    wanted: Sequence[Float[Tensor, "batch _"]],
    factor: Int64[Tensor, " batch"],
    kinds: Sequence[str],
) -> Float[Tensor, " batch"]:
    """Cross-entropy between what a reader should read and what it reads, summed over factors, in nats per image.

    Of the edited factor it should read `wanted`, of any other what it read from the original. Readings per factor are
    the logits (batch, 1) of a binary one, (batch, classes) of a categorical one, where `wanted` has probabilities, or
    the standardised value (batch, 1) of a continuous one, whose term is half the squared error.
    """
    total = torch.zeros_like(edited[0][:, 0])
    for i, (reading, before, target) in enumerate(zip(edited, original, wanted, strict=True)):
        chosen = factor == i
        if kinds[i] == "continuous":
            nll = 0.5 * (reading - torch.where(chosen[:, None], target, before)).square()[:, 0]
        elif kinds[i] == "binary":
            target = torch.where(chosen[:, None], target, before.sigmoid())
            nll = functional.binary_cross_entropy_with_logits(reading, target, reduction="none")[:, 0]
        else:
            target = torch.where(chosen[:, None], target, before.softmax(1))
            nll = functional.cross_entropy(reading, target, reduction="none")
        total = total + nll
    return total


class Guide(pl.LightningModule):
    """Conditional VAE of latents and its alignment.

    Arguments:
        features: number of latents.
        factors: as `LabelEmbedding` takes them.
        nuisance: dimensions of n; about as many as there are nuisances to keep.
        width, depth: of the networks.
        fit_steps, align_steps: steps of the two parts.
        align_batch: rows of the batch that the alignment decodes.
        reading_weight: of `reading_loss` in the alignment; 0 leaves it and ε out.
        learning_rate: of Muon, the peak of each part's schedule.
    """

    mean: Tensor
    deviation: Tensor
    spread: Tensor
    projection: Tensor

    def __init__(
        self,
        features: int,
        factors: Sequence[Sequence[Any]],
        nuisance: int = 16,
        width: int = 256,
        depth: int = 3,
        fit_steps: int = 1000,
        align_steps: int = 250,
        align_batch: int = 64,
        reading_weight: float = 0.0,
        learning_rate: float = 1e-2,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.labels = LabelEmbedding(factors)
        self.nuisance, self.fit_steps, self.align_steps, self.align_batch = (
            nuisance,
            fit_steps,
            align_steps,
            align_batch,
        )
        self.learning_rate, self.reading_weight = learning_rate, reading_weight
        invariants = features - self.labels.dim
        self.posterior = damp(mlp(invariants, 2 * nuisance, width, depth), 0.3)
        self.posterior_linear = nn.Linear(invariants, 2 * nuisance)
        self.generator = mlp(nuisance + self.labels.dim, features, width, depth)
        self.generator_linear = nn.Linear(nuisance + self.labels.dim, features)
        corrected = nuisance + (features if reading_weight else 0)
        self.alignment = damp(mlp(nuisance + 2 * self.labels.dim, corrected, width, 2), 0.1)
        with torch.no_grad():
            self.posterior_linear.weight[nuisance:] = 0.0
            self.posterior_linear.bias[nuisance:] = -3.0
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.register_buffer("spread", torch.ones(features))
        self.register_buffer("projection", torch.zeros(features, invariants))
        # Set for the alignment: the frozen decoder, and where reading_weight asks for it a frozen reader.
        self.decode: Callable[[Tensor], Tensor] | None = None
        self.read: Callable[[Tensor], Sequence[Tensor]] | None = None

    @torch.no_grad()
    def start(self, mean: Float[Tensor, "n latent"], logvar: Float[Tensor, "n latent"],
              labels: Float[Tensor, "n factors"]) -> None:  # fmt: skip
        """Take from training data what stays fixed: units, and the directions that no label moves."""
        self.labels.fit(labels)
        embedded = self.labels(labels)
        whitening, effects = within_class_whitening(mean, embedded)
        self.mean.copy_(mean.mean(0))
        self.deviation.copy_(posterior_deviation(logvar))
        self.spread.copy_(mean.std(0))
        complement = torch.linalg.svd(effects, full_matrices=True)[2][self.labels.dim :]
        self.projection.copy_((complement @ whitening).T)

    def infer(self, latents: Float[Tensor, "batch latent"]) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(n | z), from the directions of z that no label moves."""
        invariants = (latents - self.mean) @ self.projection
        mean, logvar = (self.posterior(invariants) + self.posterior_linear(invariants)).chunk(2, dim=1)
        return mean, logvar.clamp(-10, 3)

    def generate(
        self, nuisance: Float[Tensor, "batch nuisance"], labels: Float[Tensor, "batch label"]
    ) -> Float[Tensor, "batch latent"]:
        """Mean of p(z | n, y)."""
        inputs = torch.cat([nuisance, labels], 1)
        return self.mean + self.generator(inputs) + self.generator_linear(inputs)

    def transport(self, latents: Float[Tensor, "batch latent"], before: Float[Tensor, "batch factors"],
                  after: Float[Tensor, "batch factors"]) -> Float[Tensor, "batch latent"]:  # fmt: skip
        """z' = z + p(n + δ(n, y, y'), y') − p(n, y) [+ ε(n, y, y')]: the labels changed and all else kept."""
        y, y_ = self.labels(before), self.labels(after)
        n = self.infer(latents)[0]
        correction = self.alignment(torch.cat([n, y, y_ - y], 1))
        n_ = n + correction[:, : self.nuisance]
        edited = latents + self.generate(n_, y_) - self.generate(n, y)
        if not self.reading_weight:
            return edited
        beyond = correction[:, self.nuisance :] * self.spread
        return edited + torch.where((y_ != y).any(1, keepdim=True), beyond, 0.0)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        if self.global_step < self.fit_steps:
            return self.fit_step(batch)
        return self.align_step({name: tensor[: self.align_batch] for name, tensor in batch.items()})

    def fit_step(self, batch: dict[str, Tensor]) -> Tensor:
        latents = draw(batch["mean"], batch["logvar"])
        mean, logvar = self.infer(latents)
        nll = latent_nll(
            latents, self.generate(draw(mean, logvar), self.labels(batch["labels"])), self.deviation
        ).mean()
        kl = kl_divergence(mean, logvar).mean()
        self.log_dict({"guide/nll": nll, "guide/kl": kl})
        return nll + kl

    def align_step(self, batch: dict[str, Tensor]) -> Tensor:
        assert self.decode is not None, "set `decode` before training"
        for frozen in (self.posterior, self.posterior_linear, self.generator, self.generator_linear):
            frozen.requires_grad_(False)
        after = self.labels.change(batch["labels"], batch["factor"])
        edited = self.transport(batch["mean"], batch["labels"], after)
        with torch.no_grad():
            original = self.decode(batch["mean"])
        images = self.decode(edited)
        loss = change = image_change(images, original).mean()
        self.log("guide/image_change", change)
        if self.reading_weight:
            assert self.read is not None, "set `read` before training"
            with torch.no_grad():
                before = self.read(original)
            wanted, kinds = self.labels.readings(after), [factor.kind for factor in self.labels.factors]
            reading = reading_loss(self.read(images), before, wanted, batch["factor"], kinds).mean()
            self.log("guide/reading", reading)
            loss = change + self.reading_weight * reading
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = Muon(self.parameters(), self.learning_rate, betas=(0.9, 0.98))

        def rate(step: int) -> float:
            steps = self.fit_steps if step < self.fit_steps else self.align_steps
            step = step if step < self.fit_steps else step - self.fit_steps
            return min(1.0, (step + 1) / 50, 2 * (1 - step / max(1, steps)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
