"""The flow T of the invertible interpretation network (`models/iin.py`): its choice, initialisation and optimiser."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from models.diffusion_flow import DiffusionFlow
from models.flow import Flow
from models.guide import within_class_whitening
from models.muon import Muon
from models.spatial_flow import SpatialFlow

__all__ = ["READING_RATE", "flow_optimizer", "build_flow", "start_flow"]

READING_RATE, READING_DECAY = 3e-3, 0.1  # of AdamW, for the reading network of a diffusion flow


def build_flow(
    coupling: Literal["rnvp", "glow", "diffusion"] | None,
    features: int,
    factors: Sequence[Sequence[Any]],
    shape: Sequence[int],
    components: int,
    faithful: bool,
    blocks: int | None,
    width: int | None,
    depth: int | None,
    diffusion: Mapping[str, Any] | None,
) -> Flow | SpatialFlow | DiffusionFlow:
    """Build T, the flow between latents and codes, with random weights; for the arguments see `IIN`.

    `components` is the number of codes that belong to factors, `faithful` whether the objective is `faithful`.

    Raises:
        ValueError: `blocks`, `width` or `depth` is below 1, or a diffusion flow is requested for flat latents,
            without factors or with another objective.
    """
    for name, value in (("blocks", blocks), ("width", width), ("depth", depth)):
        if value is not None and value < 1:
            raise ValueError(f"Expected iin.{name} to be at least 1, got {value}: null chooses it by the latents.")
    spatial = len(shape) == 3
    kind = coupling or ("diffusion" if spatial and factors and faithful else "glow")
    if kind == "diffusion":
        if not spatial or not factors or not faithful:
            raise ValueError(
                "Expected iin.coupling=diffusion for spatial latents (encoder=taesd), factors and "
                "iin.objective=faithful: leave iin.coupling at null."
            )
        return DiffusionFlow(features, factors, shape, **diffusion or {})
    usual = zip((blocks, width, depth), (4, 128, 3) if spatial else (6, 192, 2), strict=True)
    blocks, width, depth = (by_latents if size is None else size for size, by_latents in usual)
    if spatial:
        return SpatialFlow(shape, components, blocks, width, depth, kind)
    return Flow(features, blocks, width, depth, kind)


def start_flow(flow: Flow | SpatialFlow, mean: Float[Tensor, "n d"], labels: Float[Tensor, "n label"] | None) -> None:
    """Initialise T from training latents and their embedded labels: within-class whitening, with the labels first.

    Without labels T only standardises each latent. For spatial latents see `SpatialFlow.initialise`.
    """
    if isinstance(flow, SpatialFlow):
        flow.initialise(mean, labels)
        return
    linear = torch.diag(1 / mean.std(0).clamp(min=1e-6))
    if labels is not None:
        whitening, effects = within_class_whitening(mean, labels)
        # First the labels, predicted from whitened latents by least squares, then the directions that no label changes.
        reading = torch.linalg.solve(effects @ effects.T, effects)
        complement = torch.linalg.svd(effects, full_matrices=True)[2][labels.shape[1] :]
        linear = torch.cat([reading @ whitening, complement @ whitening])
    flow.initialise(mean[:8192], linear, -(linear @ mean.mean(0)))


def flow_optimizer(
    flow: Flow | SpatialFlow | DiffusionFlow, kind: str, learning_rate: float, betas: tuple[float, float], steps: int
) -> dict[str, Any]:
    """Return the optimiser of a flow and its schedule, as Lightning takes them.

    The learning rate rises over 50 steps and then falls linearly to 0; that of Adam falls over the second half of the
    steps. The reading network of a diffusion flow is trained by AdamW.
    """
    trained = [parameter for parameter in flow.parameters() if parameter.requires_grad]
    if isinstance(flow, DiffusionFlow):
        optimizer: Optimizer = AdamW(trained, learning_rate, betas=betas, weight_decay=READING_DECAY)
    elif kind == "muon":
        optimizer = Muon(trained, learning_rate, betas=betas)
    else:
        optimizer = Adam(trained, learning_rate, betas=betas, fused=True)
    fall = 2 if kind == "adam" else 1  # with Adam an early decay would stop the progress too soon
    schedule = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 50, fall * (1 - step / max(1, steps))))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
