"""Histograms of oriented gradients against scikit-image's own."""

import numpy as np
import pytest
import torch

from models.hog import hog


@pytest.mark.parametrize(("high", "wide", "cell"), [(32, 32, 8), (40, 64, 8), (48, 48, 16), (35, 30, 6)])
def test_equals_scikit_image(high: int, wide: int, cell: int) -> None:
    reference = pytest.importorskip("skimage.feature").hog
    images = torch.rand(5, high, wide)
    images[3] = (images[3] * 4).round() / 4  # many equal neighbours, and orientations of 0, 45 and 90 degrees
    images[4] = 0.5
    size = {"pixels_per_cell": (cell, cell), "cells_per_block": (2, 2)}
    expected = np.stack([reference(image.double().numpy(), **size) for image in images])
    torch.testing.assert_close(hog(images, cell=cell), torch.from_numpy(expected).float(), rtol=0, atol=1e-4)


def test_known_answers() -> None:
    """Of a ramp downwards every gradient is at 90 degrees: one bin of nine, cut at .2 and normalised again."""
    ramp = torch.linspace(0, 1, 16)[:, None].expand(16, 16)
    found = hog(ramp[None], cell=8).view(4, 9)
    torch.testing.assert_close(found[:, 4], torch.full((4,), 0.5), atol=1e-3, rtol=0)
    assert found[:, [0, 1, 2, 3, 5, 6, 7, 8]].abs().max() == 0
    assert hog(torch.full((2, 16, 16), 0.3), cell=8).abs().max() == 0
