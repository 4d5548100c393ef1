"""Predictors of factors from the user's own files, as a member of the committee that judges photographs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from models import UserError, near_names
from models.face_identity import Network, load_network
from models.labels import Factor

__all__ = ["Outside", "load_outside", "outside_judge"]

ALL = ""  # name of a file that predicts every factor
KIND = "judge model"
BATCH = 128


def load_outside(judge_model: Any, device: str | torch.device = "cpu") -> dict[str, Network]:
    """Load the networks from the files of the setting: {factor: file, ...}, or one file for all factors.

    Raises:
        UserError: the setting names no file, or a file is missing or cannot be read.
    """
    files = dict(judge_model) if isinstance(judge_model, Mapping) else {ALL: judge_model}
    if not files or not all(isinstance(file, str | Path) for file in files.values()):
        raise UserError(
            f"Expected judge_model= to be a file or {{factor: file, ...}}, got {files.get(ALL, files)}: give "
            "TorchScript or ONNX files."
        )
    return {name: load_network(file, KIND, None, device) for name, file in files.items()}


def outputs_of(factor: Factor) -> int:
    """Return the number of outputs for a factor."""
    return len(factor.values) if factor.kind == "categorical" else 1


class Outside:
    """Predicts factors with networks from files; a factor without a network is NaN.

    A network takes RGB in [-1, 1], channels first, in the size of the run's images or the size that an ONNX file
    states. It returns (batch, outputs), for each factor in the run's order: a logit (binary; above 0 is the second
    value), a logit per class (categorical), or the value in the table's unit (continuous). A network of one factor
    returns only that factor's outputs.
    """

    def __init__(self, networks: Mapping[str, Network], factors: Sequence[Factor]) -> None:
        self.networks, self.factors = dict(networks), tuple(factors)

    def of(self, name: str) -> list[int]:
        """Return the columns of the factors that a network predicts."""
        return [i for i, factor in enumerate(self.factors) if name in (ALL, factor.name)]

    @torch.no_grad()
    def read(self, images: Shaped[Tensor, "n 3 size size"]) -> Float[Tensor, "n factors"]:
        """Predict the factors' values from images, uint8 or float in [0, 1], in the factor table's units."""
        read = torch.full((len(images), len(self.factors)), torch.nan, device=images.device)
        for name, network in self.networks.items():
            columns = self.of(name)
            widths = [outputs_of(self.factors[i]) for i in columns]
            for start in range(0, len(images), BATCH):
                part = images[start : start + BATCH]
                part = part.float() / 255 if part.dtype == torch.uint8 else part.float()
                outputs = network(part * 2 - 1).to(images.device).float()
                for i, output in zip(columns, outputs.reshape(len(part), -1).split(widths, dim=1), strict=True):
                    read[start : start + len(part), i] = decided(output, self.factors[i])
        return read


def decided(output: Float[Tensor, "batch outputs"], factor: Factor) -> Float[Tensor, " batch"]:
    """Turn a network's outputs for a factor into values in the table's unit; NaN where an output is not finite."""
    if factor.kind == "continuous":
        return output[:, 0]
    read = (output[:, 0] > 0 if factor.kind == "binary" else output.argmax(1)).float()
    return torch.where(output.isfinite().all(1), read, torch.nan)


def outside_judge(networks: Mapping[str, Network], factors: Sequence[Factor], size: int) -> Outside:
    """Build the committee's member of these networks, and check their outputs on two random images.

    Raises:
        UserError: the run has no such factor, or a network does not accept RGB images, returns values that are not
            finite, or returns another shape than its factors need.
    """
    judge, names = Outside(networks, factors), [factor.name for factor in factors]
    for name, network in networks.items():
        setting = f"judge_model.{name}" if name else "judge_model"
        if name and name not in names:
            raise UserError(
                f"Expected {setting} to name a factor among {', '.join(names)}, got {name!r}: correct it or leave it "
                f"out.{near_names(name, names)}"
            )
        width = sum(outputs_of(judge.factors[i]) for i in judge.of(name))
        images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
        try:
            outputs = network(images)
        except Exception as error:  # a network from a file may raise anything
            reason = str(error).strip().split("\n")[-1]
            raise UserError(
                f"Expected {setting} to read RGB images of {size} x {size} pixels, got {reason}: give another file."
            ) from error
        shape = tuple(outputs.shape)
        if not bool(outputs.isfinite().all()):
            raise UserError(f"Expected {setting} to return finite numbers, got NaN or infinities: give another file.")
        if shape not in ((2, width), *([(2,)] if width == 1 else [])):
            of = name or ", ".join(names)
            raise UserError(
                f"Expected {setting} to return {width} outputs for an image (those of {of}, in that order), got shape "
                f"{shape} for 2 images: give a file of these factors."
            )
    return judge
