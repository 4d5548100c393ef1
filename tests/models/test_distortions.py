"""What is done to photographs before a judge learns from them: each by itself leaves what it should."""

import torch

from models.distortions import compressed, distorted, erased, lit, moved, noisy, smoothed


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def smooth(n: int = 64, size: int = 32) -> torch.Tensor:
    ramp = torch.linspace(0.2, 0.8, size)
    return ramp.expand(n, 3, size, size).clone()


def test_moves_mirror_half_and_shift_each_differently() -> None:
    images = torch.zeros(200, 3, 32, 32)
    images[..., 12:20, 4:10] = 1
    columns = moved(images, 16, generator())[:, 0].sum(1).argmax(1)
    assert 70 < (columns > 8).sum() < 130 and len(columns.unique()) > 5
    assert (moved(images, 16, generator(), flip=False)[:, 0].sum(1).argmax(1) < 8).all()
    assert torch.allclose(moved(torch.full((4, 3, 32, 32), 0.3), 16, generator()), torch.tensor(0.3), atol=1e-5)


def test_light_changes_no_order_of_grey_levels() -> None:
    images = smooth()
    changed = lit(images, generator())
    assert (changed.mean(1).diff(dim=-1) > 0).all()
    assert (changed - images).abs().mean((1, 2, 3)).std() > 0.01


def test_blur_keeps_the_sum_and_noise_the_mean() -> None:
    images = torch.zeros(50, 3, 17, 17)
    images[..., 8, 8] = 1
    soft = smoothed(images, generator())
    torch.testing.assert_close(soft.sum((2, 3)), torch.ones(50, 3))
    peaks = soft.amax((1, 2, 3))
    assert peaks.max() > 0.4 and peaks.min() < 0.15
    noise = noisy(torch.zeros(50, 3, 32, 32), generator())
    assert noise.mean().abs() < 1e-3 and noise.std((1, 2, 3)).max() < 0.081 and noise.std((1, 2, 3)).min() < 0.02


def test_compression_rounds_blocks_of_eight() -> None:
    images = torch.rand(4, 3, 19, 16)
    fine, coarse = (compressed(images, torch.full((4, 1, 1, 1), amount)) for amount in (1e-3, 2.0))
    torch.testing.assert_close(fine, images, atol=1e-3, rtol=0)
    error = (coarse - images).abs()
    assert error[..., :16, :].mean() > 0.02 and (error[..., 16:, :] == 0).all()
    level = torch.full((4, 3, 8, 8), 16 / 255 * 5 / 8)  # five steps of the mean's coefficient, which is 8 × the mean
    torch.testing.assert_close(compressed(level, torch.ones(4, 1, 1, 1)), level)
    # A second compression finds everything rounded already.
    torch.testing.assert_close(compressed(coarse, torch.full((4, 1, 1, 1), 2.0)), coarse, atol=1e-5, rtol=0)


def test_a_box_is_erased_in_half_of_the_images() -> None:
    changed = (erased(torch.ones(200, 3, 40, 40), generator()) == 0.5).float().mean((1, 2, 3))
    assert 60 < (changed > 0).sum() < 140 and changed.max() <= 0.17


def test_everything_together_repeats_and_stays_an_image() -> None:
    images = torch.rand(8, 3, 48, 48)
    first, second = (distorted(images, 24, generator()) for _ in range(2))
    assert first.shape == (8, 3, 24, 24) and torch.equal(first, second)
    assert first.min() >= 0 and first.max() <= 1 and not torch.equal(first, distorted(images, 24, torch.Generator()))
    assert distorted(images[:1], 24, generator()).isfinite().all()
