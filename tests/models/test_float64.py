"""Loss terms and other pure functions compute in the precision of their arguments."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models import (
    calibration,
    composition,
    diffusion_flow,
    factor_classifier,
    gaussian,
    guide,
    hog,
    iin_losses,
    matryoshka,
    mds,
    reduction,
    sae,
    spatial_guide,
    splice,
    temi,
    turtle,
    vae,
)
from models.labels import Factor, LabelEmbedding

HAT = Factor("hat", "binary", ("without", "with"))
LABELS = LabelEmbedding([("hat", "binary", ["without", "with"]), ("skin", "continuous", ["light", "dark"])])
DEAD = torch.tensor([True, False, True, True, False, True])


def rows(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64) + 0.1


def shares(*shape: int) -> Tensor:
    return rows(*shape).log_softmax(1)


CASES: dict[str, tuple[Callable[..., Any], Callable[[], tuple[Any, ...]]]] = {
    "kl_divergence": (gaussian.kl_divergence, lambda: (rows(4, 3), rows(4, 3))),
    "reconstruction_nll": (vae.reconstruction_nll, lambda: (rows(2, 3, 8, 8), rows(2, 3, 8, 8), "gaussian", 0.1)),
    "image_change": (guide.image_change, lambda: (rows(2, 3, 8, 8), rows(2, 3, 8, 8))),
    "latent_nll": (guide.latent_nll, lambda: (rows(4, 3), rows(4, 3), rows(3))),
    "posterior_deviation": (guide.posterior_deviation, lambda: (rows(4, 3),)),
    "within_class_whitening": (guide.within_class_whitening, lambda: (rows(40, 5), rows(40, 2))),
    "reading_loss": (guide.reading_loss,
                     lambda: ([rows(4, 1)], [rows(4, 1)], [rows(4, 1)], torch.zeros(4, dtype=torch.int64), ["binary"])),
    "pair_loss": (iin_losses.pair_loss, lambda: (rows(4, 3), rows(4, 3), rows(4), rows(4), rows(3).round(), 0.9)),
    "label_loss": (iin_losses.label_loss, lambda: (rows(4, 3), rows(4, 3), rows(4, 3).round(), 0.2)),
    "bits_per_dim": (iin_losses.bits_per_dim, lambda: (rows(4, 3), rows(4))),
    "component_quantiles": (calibration.component_quantiles, lambda: (rows(40, 3),)),
    "component_at": (calibration.component_at, lambda: (rows(calibration.QUANTILES).sort().values, -1.5)),
    "value_knots": (calibration.value_knots, lambda: (rows(40),)),
    "fitted_targets": (calibration.fitted_targets, lambda: (rows(40, 3), rows(40, 2))),
    "compose": (composition.compose, lambda: (rows(2, 3, 24, 20), rows(2, 3, 16, 16), rows(2, 3, 16, 16))),
    "posterior_mean": (lambda logits: diffusion_flow.posterior_mean(logits, LABELS), lambda: (rows(4, 3),)),
    "edit_mask": (diffusion_flow.edit_mask, lambda: (rows(2, 4, 8, 8),)),
    "class_weights": (lambda labels: factor_classifier.class_weights(labels, 2), lambda: (rows(20).round(),)),
    "factor_loss": (lambda *given: factor_classifier.factor_loss(*given[:2], HAT, *given[2:]),  # type: ignore[call-arg]
                    lambda: (rows(6, 1), rows(6).clamp(max=1).round(), rows(2), rows(6))),
    "hog": (hog.hog, lambda: (rows(2, 24, 24),)),
    "info_nce": (matryoshka.info_nce, lambda: (rows(4, 3), rows(4, 3), 0.5)),
    "neighbour_divergence": (matryoshka.neighbour_divergence, lambda: (rows(4, 3), rows(4, 2), 0.5)),
    "distances": (mds.distances, lambda: (rows(4, 3), rows(5, 3))),
    "stress": (mds.stress, lambda: (rows(4), rows(4))),
    "order_loss": (mds.order_loss, lambda: (rows(4, 2), rows(4, 2), 0.05)),
    "similarity": (reduction.similarity, lambda: (rows(4, 3), rows(5, 3), "cosine")),
    "matryoshka_loss": (sae.matryoshka_loss, lambda: (rows(4, 3), [rows(4, 3), rows(4, 3)], [1.0, 2.0])),
    "auxiliary_loss": (lambda *given: sae.auxiliary_loss(*given, DEAD, 2),  # type: ignore[call-arg]
                       lambda: (rows(4, 3), rows(4, 6), rows(6, 3))),
    "denoising_loss": (spatial_guide.denoising_loss, lambda: (rows(4, 3), rows(4, 3), rows(4))),
    "nonnegative_lasso": (lambda *given: splice.nonnegative_lasso(*given).values,
                          lambda: (rows(4, 6), rows(8, 6), 0.5)),
    "agreement": (temi.agreement, lambda: (shares(2, 3, 4), shares(2, 3, 4), rows(2, 3), 0.6)),
    "temi_pair_loss": (temi.pair_loss, lambda: (shares(2, 3, 8), shares(2, 3, 8), rows(2, 3), 0.6)),
    "cross_entropy": (turtle.cross_entropy, lambda: (rows(2, 3, 4), rows(2, 3, 4).softmax(1))),
    "mean_entropy": (turtle.mean_entropy, lambda: (rows(2, 3, 4).softmax(1),)),
    "fit_linear": (turtle.fit_linear, lambda: (rows(20, 4), rows(2, 3, 20).softmax(1), 5, 1.0)),
}  # fmt: skip


def single(given: Any) -> Any:
    """Convert the float64 tensors of a case to float32."""
    if isinstance(given, Tensor):
        return given.float() if given.dtype == torch.float64 else given
    return [single(each) for each in given] if isinstance(given, list) else given


@pytest.mark.parametrize("name", CASES)
def test_pure_functions_keep_the_precision(name: str) -> None:
    function, make = CASES[name]
    given = make()
    double, float32 = function(*given), function(*map(single, given))
    for exact, rounded in zip(*(x if isinstance(x, tuple) else (x,) for x in (double, float32)), strict=True):
        assert (exact.dtype, rounded.dtype) == (torch.float64, torch.float32)
        torch.testing.assert_close(rounded.double(), exact, rtol=1e-3, atol=1e-4)
