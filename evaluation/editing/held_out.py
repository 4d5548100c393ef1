"""Held-out images on which every editor is measured, and the readings of the judge on them and on their edits."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from datamodules.factors import FactorTable, ImageData
from evaluation.editing.final_pictures import Photographs
from evaluation.editing.metrics import leakage, success
from models.interfaces import FaceEmbedder, ImageEncoder, ImageJudge
from models.labels import Statistics

__all__ = ["BATCH", "HeldOut", "decode_all", "read_all", "read_reconstructions", "shares"]

BATCH = 256  # images that are decoded or read at a time


@dataclass(frozen=True)
class HeldOut:
    """The held-out latents and labels, and the readings of the judge on the reconstructions."""

    latents: Float[Tensor, "n features"]
    labels: FactorTable
    rows: Int64[Tensor, " n"]
    judged: Float[Tensor, "n factors"]
    statistics: Statistics
    encoder: ImageEncoder
    judge: ImageJudge
    data: ImageData
    embed: FaceEmbedder | None
    photographs: Photographs

    @property
    def drawn(self) -> bool:
        """Tell whether ground-truth counterfactuals of the data can be drawn."""
        return self.data.counterfactual is not None


def decode_all(latents: Float[Tensor, "n features"], encoder: ImageEncoder) -> Float[Tensor, "n 3 size size"]:
    """Decode latents in batches, on the CPU."""
    with torch.inference_mode():
        images = torch.cat([encoder.decode(some).cpu() for some in latents.split(BATCH)])
    return images.clone()  # out here: a tensor of inference mode could not be changed


def read_all(judge: ImageJudge, images: Float[Tensor, "n 3 size size"]) -> Float[Tensor, "n factors"]:
    """Read images by the judge in batches, on the CPU."""
    with torch.inference_mode():
        judged = torch.cat([judge.read(some).cpu() for some in images.split(BATCH)])
    return judged.clone()


def read_reconstructions(
    latents: Float[Tensor, "n features"], encoder: ImageEncoder, judge: ImageJudge
) -> Float[Tensor, "n factors"]:
    """Decode latents and read the images by the judge, on the CPU."""
    return read_all(judge, decode_all(latents, encoder))


def shares(
    held: HeldOut,
    i: int,
    rows: Int64[Tensor, " some"],
    after: Float[Tensor, "some factors"],
    target: Float[Tensor, " n"],
) -> tuple[float, float, Float[Tensor, " factors"]]:
    """Compute success, mean leakage and leakage per factor of edited images."""
    factors, statistics = held.labels.factors, held.statistics
    succeeded = success(after[:, i], target[rows], factors[i], statistics.median[i].item())
    leaked = leakage(held.judged[rows], after, i, factors, statistics.deviation)
    return succeeded, leaked.mean, leaked.row
