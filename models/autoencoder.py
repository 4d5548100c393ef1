"""Stacked auto-encoder of features, which deep embedded clustering starts from, and its two pretrainings.

Xie, Girshick, Farhadi, "Unsupervised Deep Embedding for Clustering Analysis" (2016),
https://arxiv.org/abs/1511.06335, and the authors' code, https://github.com/piiswrong/dec: greedily, each layer a
denoising auto-encoder of what the layer before gives (`Layer`), then the whole without noise. Guo's
https://github.com/XifengGuo/DEC-keras trains the whole from its start; so does this one, and as a denoising
auto-encoder (Vincent et al. 2008, https://doi.org/10.1145/1390156.1390294) unless `corruption` is 0.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from models import UserError, check_choice

__all__ = ["Autoencoder", "Layer", "fully_connected", "optimization"]

CHUNK = 4096  # rows that are embedded at once


def fully_connected(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them, the last one linear.

    Weights from U(±1/√inputs), biases 0: DEC-keras' VarianceScaling(1/3, fan_in, uniform).
    """
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        linear = nn.Linear(inputs, outputs)
        nn.init.uniform_(linear.weight, -(inputs**-0.5), inputs**-0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def annealed(step: int, steps: int) -> float:
    """Rises from 0 to 1 over the first twentieth of the steps, under a half cosine that falls from 1 to 0."""
    return min(1.0, 20 * (step + 1) / steps) * (1 + math.cos(math.pi * min(1.0, step / steps))) / 2


def optimization(
    parameters: Iterable[nn.Parameter], optimizer: str, rate: float, momentum: float, drop_every: int | None = None,
    steps: int | None = None,
) -> OptimizerLRScheduler:  # fmt: skip
    """SGD or Adam at a constant rate, one `annealed` over `steps`, or one a tenth of it every `drop_every` steps."""
    adam = optimizer == "adam"
    chosen = (
        torch.optim.Adam(parameters, rate, fused=True) if adam else torch.optim.SGD(parameters, rate, momentum=momentum)
    )

    def factor(step: int) -> float:
        return (0.1 ** (step // drop_every) if drop_every else 1.0) * (annealed(step, steps) if steps else 1.0)

    schedule = torch.optim.lr_scheduler.LambdaLR(chosen, factor)
    return {"optimizer": chosen, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Autoencoder(pl.LightningModule):
    """features - hidden - code - hidden - features, fully connected, ReLU except at code and output.

    Features are multiplied by `scale`, 1 / their root mean square, on the way in, and reconstructions are compared in
    these units: a component of a unit-norm vector of 512 has a mean square of 1/512, and its reconstruction would
    hardly train (for the same reason the authors multiply MNIST's bytes by .02).

    Arguments:
        features: of the input.
        hidden: widths between the input and the code.
        code: width of the code.
        corruption: share of a row's values that training sets to zero (the others grow by 1 / (1 − share)); what is
            reconstructed is the row as it was. 0 as in DEC-keras.
        optimizer: `adam`, or `sgd` as both codes have it.
        learning_rate: by default 1e-3 for Adam and .1 for SGD.
        momentum: of SGD.
        anneal: let the rate rise over the first twentieth of the steps and fall to 0 by a half cosine.
        drop_every: steps after which the rate falls to a tenth, time and again (the authors: 20,000); None: never.

    Raises:
        UserError: a width below 1, a corruption of 1 or more, or an optimizer of another name.
    """

    scale: Tensor

    def __init__(
        self,
        features: int,
        hidden: Sequence[int] = (500, 500, 2000),
        code: int = 10,
        corruption: float = 0.3,
        optimizer: Literal["adam", "sgd"] = "adam",
        learning_rate: float | None = None,
        momentum: float = 0.9,
        anneal: bool = True,
        drop_every: int | None = None,
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
        """Take the scale from training data.

        Raises:
            UserError: features that are all zero or not finite.
        """
        squares = torch.stack([part.double().square().sum() for part in features.split(CHUNK)]).sum()
        rms = float(squares / features.numel()) ** 0.5
        if not 0 < rms < float("inf"):
            raise UserError(f"Expected features with a finite root mean square above 0, got {rms}: look at the data.")
        self.scale.fill_(1 / rms)

    def encode(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch code"]:
        return self.encoder(self.scale * features).float()

    def decode(self, codes: Float[Tensor, "batch code"]) -> Float[Tensor, "batch features"]:
        """Reconstructions in the features' own units."""
        return self.decoder(codes).float() / self.scale

    def reconstruction_loss(
        self, features: Float[Tensor, "batch features"], codes: Float[Tensor, "batch code"]
    ) -> Float[Tensor, ""]:
        """Mean square over rows and dimensions, in units of the features' root mean square."""
        return (self.decoder(codes).float() - self.scale * features).square().mean()

    @torch.no_grad()
    def embed(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n code"]:
        """Codes of any number of rows, wherever they lie, on the module's device."""
        return torch.cat([self.encode(part.to(self.device)) for part in features.split(CHUNK)])

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        corrupted = nn.functional.dropout(batch["features"], self.corruption)
        loss = self.reconstruction_loss(batch["features"], self.encode(corrupted))
        self.log("autoencoder/loss", loss)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        steps = int(self.trainer.estimated_stepping_batches) if self.anneal else None
        own = self.optimizer, self.learning_rate, self.momentum, self.drop_every, steps
        return optimization(self.parameters(), *own)

    def layers(self, dropout: float = 0.2) -> list["Layer"]:
        """For the greedy pretraining: each is trained on what `embed` of the one before gives, the first on features.

        They are optimized as this module is, from its own scale: call `start` before, and `take` after.
        """
        pairs = list(zip(self.widths[:-1], self.widths[1:], strict=True))
        return [
            Layer(inputs, width, i == 0, i == len(pairs) - 1, float(self.scale) if i == 0 else 1.0, dropout,
                  self.optimizer, self.learning_rate, self.momentum, self.drop_every)
            for i, (inputs, width) in enumerate(pairs)
        ]  # fmt: skip

    @torch.no_grad()
    def take(self, layers: Sequence["Layer"]) -> None:
        """Stack the layers: from their weights the whole is trained on."""
        for layer, encoder, decoder in zip(layers, self.encoder[::2], reversed(self.decoder[::2]), strict=True):
            encoder.load_state_dict(layer.encoder.state_dict())
            decoder.load_state_dict(layer.decoder.state_dict())


class Layer(pl.LightningModule):
    """One layer of the stack as a denoising auto-encoder: dropout, encoder, ReLU, dropout, decoder, ReLU.

    As in the authors' pretrain.py the features themselves lose nothing and are reconstructed without ReLU (`first`),
    the code has neither ReLU nor dropout (`last`), and weights start from N(0, .01²).

    Arguments:
        features: of the input.
        width: of the output.
        first, last: its place in the stack.
        scale: what the input is multiplied by.
        dropout: share of the values that are set to zero, of the input and of the output.
        optimizer, learning_rate, momentum, drop_every: as `Autoencoder` has them.
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
        """What the next layer is trained on, without dropout."""
        parts = (self.scale * part.to(self.device) for part in features.split(CHUNK))
        return torch.cat([self.hidden(self.encoder(part)) for part in parts])

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        inputs = self.scale * batch["features"]
        hidden = self.hidden_dropout(self.hidden(self.encoder(self.input_dropout(inputs))))
        loss = (self.output(self.decoder(hidden)).float() - inputs).square().mean()
        self.log("layer/loss", loss)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        own = {name: self.hparams[name] for name in ("optimizer", "momentum", "drop_every")}
        return optimization(self.parameters(), rate=self.hparams["learning_rate"], **own)
