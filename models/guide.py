"""The guide: a model of where an edit of latents should end, learnt without counterfactual pairs.

A flow that is trained by likelihood alone may change pose, background and identity along with the edited factor,
because no term compares the edited image with the original. The guide predicts the edited latents. It is trained in two
parts.

1. A conditional VAE of the latents z given all labels y. A small nuisance code n holds what the labels do not tell:
   q(n | z), p(z | n, y), loss −E log p(z | n, y) + KL(q ‖ N(0, I)). A label in n would increase the KL term and gain
   nothing, since p is conditioned on the labels. z is in units of the encoder's own posterior standard deviation,
   about the smallest visible change.
2. An alignment. n can still have a slightly different meaning under different labels, which is why the edit
   z' = z + p(n, y') − p(n, y) differs from the counterfactual. Every z' = z + p(n + δ, y') − p(n, y) has the labels y',
   whatever δ is; the one that changes the image least is chosen: a small network δ(n, y, y') minimises `image_change`
   of D(z') and D(z), D the frozen decoder. This loss grows like the absolute difference where it is small, so
   unaffected pixels stay exactly as they are, and like its logarithm where a pixel has to change anyway, so that a hat
   does not get smaller or paler.

Some labels of photographs are wrong, and an encoder loses some of what they describe (thin frames): p(z | n, y') is
then a face with half a pair of glasses. With `reading_weight` the alignment may add a change ε(n, y, y') to the
latents, until a reader, a classifier of decoded images, predicts the target value of the edited factor and its former
prediction for the others. The reader is not one of the judges of the evaluation, which are other kinds of classifiers
and are trained on other people.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional

from models import Count, Natural, NotNegative, Positive
from models.gaussian import draw, kl_divergence
from models.labels import LabelEmbedding
from models.muon import Muon
from models.networks import damp, mlp

__all__ = ["Guide", "image_change", "latent_nll", "posterior_deviation", "reading_loss", "within_class_whitening"]


def within_class_whitening(
    latents: Float[Tensor, "n latent"], labels: Float[Tensor, "n label"]
) -> tuple[Float[Tensor, "latent latent"], Float[Tensor, "label latent"]]:
    """Return (W, E), the symmetric whitening of the residual that the labels do not explain, and the labels' effects.

    z − mean = y E₀ + residual by least squares; W = Cov(residual)^(−1/2), E = E₀ W. Each row of E is the direction in
    which a label changes whitened latents while the other labels stay fixed.

    >>> latents, labels = torch.tensor([[0.0], [2.0], [3.0], [5.0]]), torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    >>> within_class_whitening(latents, labels)
    (tensor([[1.]]), tensor([[3.]]))
    """
    centred, y = (latents - latents.mean(0)).double(), (labels - labels.mean(0)).double()
    effects = torch.linalg.lstsq(y, centred).solution
    residual = centred - y @ effects
    values, vectors = torch.linalg.eigh(residual.T @ residual / len(residual))
    # The lower bound avoids dividing by the variance of a constant latent.
    whitening = vectors @ torch.diag(values.clamp(min=values.max() * 1e-8).rsqrt()) @ vectors.T
    return whitening.to(latents.dtype), (effects @ whitening).to(latents.dtype)


def posterior_deviation(logvar: Float[Tensor, "n latent"]) -> Float[Tensor, " latent"]:
    """Return the encoder's posterior standard deviation per latent, the unit of changes of latents.

    It is at least half the median: otherwise a single latent with a hundredth of the others' deviation would have ten
    thousand times their weight, although no more of the image depends on it.

    >>> posterior_deviation(torch.zeros(5, 3))
    tensor([1., 1., 1.])
    """
    deviation = logvar.exp().mean(0).sqrt()
    return deviation.clamp(min=deviation.median() / 2)


def latent_nll(
    latents: Float[Tensor, "batch latent"],
    predicted: Float[Tensor, "batch latent"],
    deviation: Float[Tensor, " latent"],
) -> Float[Tensor, " batch"]:
    """Return ½ Σ ((z − ẑ) / deviation)² of each row: −log N(z; ẑ, deviation²) in nats, up to a constant.

    >>> latent_nll(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(2))
    tensor([1.])
    """
    return 0.5 * ((latents - predicted) / deviation).square().sum(1)


def image_change(
    edited: Float[Tensor, "batch channels height width"],
    original: Float[Tensor, "batch channels height width"],
    knee: float = 0.05,
) -> Float[Tensor, " batch"]:
    """Return Σ knee · log(1 + |edited − original| / knee) of each image; images are in [0, 1].

    A term is about |difference| far below the knee and grows with its logarithm above.

    >>> image_change(torch.ones(1, 3, 2, 2), torch.ones(1, 3, 2, 2))
    tensor([0.])
    """
    return (knee * torch.log1p((edited - original).abs() / knee)).flatten(1).sum(1)


def reading_loss(
    edited: Sequence[Float[Tensor, "batch _"]],
    original: Sequence[Float[Tensor, "batch _"]],
    targets: Sequence[Float[Tensor, "batch _"]],
    factor: Int64[Tensor, " batch"],
    kinds: Sequence[str],
) -> Float[Tensor, " batch"]:
    """Return the cross-entropy between target and predicted values of a reader, in nats per image.

    It is summed over factors. For the edited factor the target is that of `targets`, for every other factor it is the
    reader's prediction for the original. Predictions are the logits (batch, 1) of a binary factor and (batch, classes)
    of a categorical one, for which `targets` holds probabilities, or the standardised value (batch, 1) of a continuous
    one, whose term is half the squared error.

    >>> certain, wanted = [torch.tensor([[20.0]])], [torch.tensor([[1.0]])]
    >>> reading_loss(certain, [torch.zeros(1, 1)], wanted, torch.tensor([0]), ["binary"]).round(decimals=4)
    tensor([0.])
    """
    total = torch.zeros_like(edited[0][:, 0])
    for i, (reading, before, target) in enumerate(zip(edited, original, targets, strict=True)):
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
        factors: (name, kind, values) of each factor, see `LabelEmbedding`.
        nuisance: dimensions of n; about the number of nuisance variables to keep.
        width, depth: hidden units and layers of the networks.
        fit_steps, align_steps: training steps of the two parts.
        align_batch: number of rows that an alignment step decodes.
        reading_weight: weight of `reading_loss` in the alignment; 0 omits this loss and ε.
        learning_rate: peak of Muon's schedule in each part.
    """

    mean: Tensor
    deviation: Tensor
    spread: Tensor
    projection: Tensor

    def __init__(
        self,
        features: int,
        factors: Sequence[Sequence[Any]],
        nuisance: Count = 16,
        width: Count = 256,
        depth: Count = 3,
        fit_steps: Count = 1000,
        align_steps: Natural = 250,
        align_batch: Count = 64,
        reading_weight: NotNegative = 0.0,
        learning_rate: Positive = 1e-2,
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
        # Set before the alignment: the frozen decoder, and with a reading_weight a frozen reader.
        self.decode: Callable[[Tensor], Tensor] | None = None
        self.read: Callable[[Tensor], Sequence[Tensor]] | None = None

    @torch.no_grad()
    def start(self, mean: Float[Tensor, "n latent"], logvar: Float[Tensor, "n latent"],
              labels: Float[Tensor, "n factors"]) -> None:  # fmt: skip
        """Set the fixed statistics from training data: units, and the directions that no label changes."""
        self.labels.fit(labels)
        embedded = self.labels(labels)
        whitening, effects = within_class_whitening(mean, embedded)
        self.mean.copy_(mean.mean(0))
        self.deviation.copy_(posterior_deviation(logvar))
        self.spread.copy_(mean.std(0))
        complement = torch.linalg.svd(effects, full_matrices=True)[2][self.labels.dim :]
        self.projection.copy_((complement @ whitening).T)

    def infer(self, latents: Float[Tensor, "batch latent"]) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(n | z), computed from the directions of z that no label changes."""
        invariants = (latents - self.mean) @ self.projection
        mean, logvar = (self.posterior(invariants) + self.posterior_linear(invariants)).chunk(2, dim=1)
        return mean, logvar.clamp(-10, 3)

    def generate(
        self, nuisance: Float[Tensor, "batch nuisance"], labels: Float[Tensor, "batch label"]
    ) -> Float[Tensor, "batch latent"]:
        """Return the mean of p(z | n, y)."""
        inputs = torch.cat([nuisance, labels], 1)
        return self.mean + self.generator(inputs) + self.generator_linear(inputs)

    def transport(self, latents: Float[Tensor, "batch latent"], before: Float[Tensor, "batch factors"],
                  after: Float[Tensor, "batch factors"]) -> Float[Tensor, "batch latent"]:  # fmt: skip
        """Return z' = z + p(n + δ(n, y, y'), y') − p(n, y) [+ ε(n, y, y')]: other labels, all else unchanged."""
        y, y_ = self.labels(before), self.labels(after)
        n = self.infer(latents)[0]
        correction = self.alignment(torch.cat([n, y, y_ - y], 1))
        n_ = n + correction[:, : self.nuisance]
        edited = latents + self.generate(n_, y_) - self.generate(n, y)
        if not self.reading_weight:
            return edited
        epsilon = correction[:, self.nuisance :] * self.spread
        return edited + torch.where((y_ != y).any(1, keepdim=True), epsilon, 0.0)

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
            targets, kinds = self.labels.readings(after), [factor.kind for factor in self.labels.factors]
            reading = reading_loss(self.read(images), before, targets, batch["factor"], kinds).mean()
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
