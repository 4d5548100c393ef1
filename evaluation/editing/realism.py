"""Compute FID features by torch-fidelity, where its Inception weights are available; nothing is downloaded."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

__all__ = ["inception_features"]

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # the file name that torch-fidelity uses
FEATURES = "2048"  # the layer whose features FID compares
BATCH = 64


def inception_features(
    device: torch.device,
) -> Callable[[UInt8[Tensor, "n 3 height width"]], Float[Tensor, "n features"]] | None:
    """Load the network that computes FID features; None where torch-fidelity or its weights are not available.

    The weights are expected where torch-fidelity stores them, in the checkpoints folder of torch.hub.
    """
    weights = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    if not weights.is_file() or importlib.util.find_spec("torch_fidelity") is None:
        return None
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("inception", [FEATURES], str(weights)).to(device).eval()

    @torch.no_grad()
    def features(images: UInt8[Tensor, "n 3 height width"]) -> Float[Tensor, "n features"]:
        return torch.cat([network(some.to(device))[0].float().cpu() for some in images.split(BATCH)])

    return features
