"""Stacked auto-encoder of features, whose encoder deep embedded clustering starts from, and its two pretrainings.

Xie, Girshick, Farhadi, "Unsupervised Deep Embedding for Clustering Analysis" (2016),
https://arxiv.org/abs/1511.06335, and the authors' code, https://github.com/piiswrong/dec, pretrain greedily: each
layer as a denoising auto-encoder of the previous layer's output (`Layer`), then the whole stack without noise. Guo's
https://github.com/XifengGuo/DEC-keras trains the whole stack from the start. So does `Autoencoder`, as a denoising
auto-encoder (Vincent et al. 2008, https://doi.org/10.1145/1390156.1390294) unless `corruption` is 0.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from models import Count, Fraction, Positive, UserError, check_choice
from models.batches import inputs_of

__all__ = ["Autoencoder", "Layer", "fully_connected", "optimization"]

CHUNK = 4096  # rows that are embedded at a time


def fully_connected(widths: Sequence[int]) -> nn.Sequential:
    """Build linear layers with ReLU between them and a linear output.

    Weights are drawn from U(±1/√inputs), biases are 0: DEC-keras' VarianceScaling(1/3, fan_in, uniform).

    >>> fully_connected([3, 5, 2])(torch.zeros(4, 3)).shape
    torch.Size([4, 2])
    """
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        linear = nn.Linear(inputs, outputs)
        nn.init.uniform_(linear.weight, -(inputs**-0.5), inputs**-0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def annealed(step: int, steps: int) -> float:
    """Return the factor of the learning rate at a step: a linear warm-up times a half cosine from 1 to 0.

    The warm-up takes the first twentieth of the steps.

    >>> annealed(50, 100)
    0.5
    """
    return min(1.0, 20 * (step + 1) / steps) * (1 + math.cos(math.pi * min(1.0, step / steps))) / 2


def optimization(
    parameters: Iterable[nn.Parameter], optimizer: str, rate: float, momentum: float, drop_every: int | None = None,
    steps: int | None = None,
) -> OptimizerLRScheduler:  # fmt: skip
    """Return SGD or Adam with a learning rate that is constant, or changes by a schedule.

    It is `annealed` over `steps` and divided by 10 every `drop_every` steps, where these are given.
    """
    adam = optimizer == "adam"
    chosen = (
        torch.optim.Adam(parameters, rate, fused=True) if adam else torch.optim.SGD(parameters, rate, momentum=momentum)
    )

    def factor(step: int) -> float:
        return (0.1 ** (step // drop_every) if drop_every else 1.0) * (annealed(step, steps) if steps else 1.0)

    schedule = torch.optim.lr_scheduler.LambdaLR(chosen, factor)
    return {"optimizer": chosen, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Autoencoder(pl.LightningModule):
    """Fully connected: features - hidden - code - hidden - features, ReLU after every layer except code and output.

    Features are multiplied by `scale`, 1 / their root mean square, before the first layer, and the reconstruction
    error is in these units: a component of a unit-norm vector in 512 dimensions has a mean square of 1/512, and its
    reconstruction would hardly train (for the same reason the authors multiply MNIST's bytes by .02).

    Arguments:
        features: dimension of the input.
        hidden: widths of the layers between the input and the code.
        code: dimension of the code.
        corruption: share of a row's values that training sets to zero (the others are divided by 1 − share); the
            target is the uncorrupted row. 0 as in DEC-keras.
        optimizer: `adam`, or `sgd` as in both published codes.
        learning_rate: by default 1e-3 for Adam and .1 for SGD.
        momentum: momentum of SGD.
        anneal: warm the learning rate up over the first twentieth of the steps, and let it fall to 0 by a half cosine.
        drop_every: divide the learning rate by 10 every so many steps (the authors: 20,000); None: never.

    Raises:
        UserError: a width is below 1, the corruption is not in [0, 1), or the optimizer is unknown.
    """

    scale: Tensor

    def __init__(
        self,
        features: int,
        hidden: Sequence[Count] = (500, 500, 2000),
        code: Count = 10,
        corruption: Fraction = 0.3,
        optimizer: Literal["adam", "sgd"] = "adam",
        learning_rate: Positive | None = None,
        momentum: Fraction = 0.9,
        anneal: bool = True,
        drop_every: Count | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= corruption < 1:
            raise UserError(f"Expected autoencoder.corruption from 0 to less than 1, got {corruption}: choose another.")
        check_choice("autoencoder.optimizer", optimizer, ("adam", "sgd"))
        hidden = list(hidden)
        self.widths = [features, *hidden, code]
        if min(self.widths) < 1:
            raise UserError(f"Expected widths of at least 1, got {self.widths}: look at autoencoder.hidden and .code.")
        self.save_hyperparameters()
        self.optimizer: Literal["adam", "sgd"] = optimizer
        self.corruption, self.momentum, self.anneal, self.drop_every = corruption, momentum, anneal, drop_every
        self.learning_rate = {"adam": 1e-3, "sgd": 0.1}[optimizer] if learning_rate is None else learning_rate
        self.encoder, self.decoder = fully_connected(self.widths), fully_connected(self.widths[::-1])
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def start(self, features: Float[Tensor, "n features"]) -> None:
        """Set `scale` from the training features.

        Raises:
            UserError: the features are all zero or not finite.
        """
        squares = torch.stack([part.double().square().sum() for part in features.split(CHUNK)]).sum()
        rms = float(squares / features.numel()) ** 0.5
        if not 0 < rms < float("inf"):
            raise UserError(f"Expected features with a finite root mean square above 0, got {rms}: look at the data.")
        self.scale.fill_(1 / rms)

    def encode(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch code"]:
        return self.encoder(self.scale * features).float()

    def decode(self, codes: Float[Tensor, "batch code"]) -> Float[Tensor, "batch features"]:
        """Reconstruct features, in their own units."""
        return self.decoder(codes).float() / self.scale

    def reconstruction_loss(
        self, features: Float[Tensor, "batch features"], codes: Float[Tensor, "batch code"]
    ) -> Float[Tensor, ""]:
        """Return the mean squared error over rows and dimensions, in units of the features' root mean square."""
        return (self.decoder(codes).float() - self.scale * features).square().mean()

    @torch.no_grad()
    def embed(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n code"]:
        """Encode any number of rows on any device; the codes are on the module's device."""
        return torch.cat([self.encode(part.to(self.device)) for part in features.split(CHUNK)])

    def training_step(self, batch: Any, _: int) -> Tensor:
        features = inputs_of(batch, "features")
        corrupted = nn.functional.dropout(features, self.corruption)
        loss = self.reconstruction_loss(features, self.encode(corrupted))
        self.log("autoencoder/loss", loss)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        steps = int(self.trainer.estimated_stepping_batches) if self.anneal else None
        options = self.optimizer, self.learning_rate, self.momentum, self.drop_every, steps
        return optimization(self.parameters(), *options)

    def layers(self, dropout: float = 0.2) -> list["Layer"]:
        """Return the layers for greedy pretraining, with this module's scale and optimizer settings.

        Train the first on features and each other one on `embed` of the layer before it. Call `start` first, and
        `load_layers` when they are trained.
        """
        pairs = list(zip(self.widths[:-1], self.widths[1:], strict=True))
        return [
            Layer(inputs, width, i == 0, i == len(pairs) - 1, float(self.scale) if i == 0 else 1.0, dropout,
                  self.optimizer, self.learning_rate, self.momentum, self.drop_every)
            for i, (inputs, width) in enumerate(pairs)
        ]  # fmt: skip

    @torch.no_grad()
    def load_layers(self, layers: Sequence["Layer"]) -> None:
        """Copy the weights of pretrained layers into the stack."""
        for layer, encoder, decoder in zip(layers, self.encoder[::2], reversed(self.decoder[::2]), strict=True):
            encoder.load_state_dict(layer.encoder.state_dict())
            decoder.load_state_dict(layer.decoder.state_dict())


class Layer(pl.LightningModule):
    """One layer of the stack as a denoising auto-encoder: dropout, encoder, ReLU, dropout, decoder, ReLU.

    As in the authors' pretrain.py, the first layer has no dropout on its input and no ReLU on its reconstruction,
    the last one has neither ReLU nor dropout on its code, and weights are initialised from N(0, .01²).

    Arguments:
        features: dimension of the input.
        width: dimension of the output.
        first, last: whether it is the first or the last layer of the stack.
        scale: factor that the input is multiplied by.
        dropout: share of the values that are set to zero, in the input and in the output.
        optimizer, learning_rate, momentum, drop_every: see `Autoencoder`.
    """

    def __init__(
        self,
        features: int,
        width: int,
        first: bool = False,
        last: bool = False,
        scale: float = 1.0,
        dropout: float = 0.2,
        optimizer: Literal["adam", "sgd"] = "adam",
        learning_rate: float = 1e-3,
        momentum: float = 0.9,
        drop_every: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder, self.decoder = nn.Linear(features, width), nn.Linear(width, features)
        for linear in (self.encoder, self.decoder):
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)
        self.scale = scale
        self.input_dropout = nn.Dropout(0.0 if first else dropout)
        self.hidden = nn.Identity() if last else nn.ReLU()
        self.hidden_dropout = nn.Dropout(0.0 if last else dropout)
        self.output = nn.Identity() if first else nn.ReLU()

    @torch.no_grad()
    def embed(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n width"]:
        """Return the layer's output without dropout, on which the next layer is trained."""
        parts = (self.scale * part.to(self.device) for part in features.split(CHUNK))
        return torch.cat([self.hidden(self.encoder(part)) for part in parts])

    def training_step(self, batch: Any, _: int) -> Tensor:
        inputs = self.scale * inputs_of(batch, "features")
        hidden = self.hidden_dropout(self.hidden(self.encoder(self.input_dropout(inputs))))
        loss = (self.output(self.decoder(hidden)).float() - inputs).square().mean()
        self.log("layer/loss", loss)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        options = {name: self.hparams[name] for name in ("optimizer", "momentum", "drop_every")}
        return optimization(self.parameters(), rate=self.hparams["learning_rate"], **options)
