"""The diffusion guide: its solver and its edits have closed forms where the latents are normal."""

import math

import pytest
import torch

from models.spatial_guide import SpatialGuide, denoising_loss, levels, solve
from models.unet import UNet

FACTORS = [("glasses", "binary", ["without", "with"]), ("race", "categorical", ["a", "b", "c"])]
SHAPE = (4, 4, 4)
DEVIATION = 0.5  # of the latents of one value


def guide(**settings: object) -> SpatialGuide:
    torch.manual_seed(0)
    return SpatialGuide(64, FACTORS, SHAPE, width=8, **settings).eval()  # type: ignore[arg-type]


def exact(mean: torch.Tensor, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """E[latent | x = latent + σ noise] of latents N(mean, DEVIATION²)."""
    return (DEVIATION**2 * x + level**2 * mean) / (DEVIATION**2 + level**2)


def ratio(low: float, high: float) -> float:
    """By how much the deviation of such latents grows with the noise."""
    return math.sqrt((DEVIATION**2 + high**2) / (DEVIATION**2 + low**2))


def test_levels_rise_from_the_finest_to_the_most() -> None:
    path = levels(1.5, 6)
    assert len(path) == 7 and (path.diff() > 0).all()
    assert path[0].item() == pytest.approx(0.05) and path[-1].item() == pytest.approx(1.5)


@pytest.mark.parametrize(("steps", "error"), [(8, 0.04), (40, 0.003)])
def test_the_solver_follows_the_flow_of_normal_latents(steps: int, error: float) -> None:
    mean, x = torch.tensor(0.3), torch.linspace(-2, 2, 9)
    path = levels(2.0, steps)
    noisy = solve(x, path, lambda x, level: exact(mean, x, level))
    torch.testing.assert_close(noisy, mean + (x - mean) * ratio(0.05, 2.0), atol=1e-3, rtol=error)
    torch.testing.assert_close(
        solve(noisy, path.flip(0), lambda x, level: exact(mean, x, level)), x, atol=error, rtol=0
    )


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_an_edit_of_normal_latents_is_the_known_shift(guidance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up under y, back under y': z' = z + w (m' − m) (1 − 1 / ratio)."""
    model = guide(guidance=guidance, solver_steps=60, noise=2.0)

    def denoise(x: torch.Tensor, level: torch.Tensor, y: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        return exact(0.4 * y[:, :1, None, None].expand_as(x), x, level[:, None, None, None])

    monkeypatch.setattr(model, "denoise", denoise)
    latents, before = torch.randn(6, 64), torch.tensor([[0.0, 1.0]] * 6)
    after = before.clone()
    after[:3, 0] = 1
    edited = model.transport(latents, before, after)[0]
    torch.testing.assert_close(edited[3:], latents[3:], atol=0, rtol=0)
    shift = guidance * 0.8 * (1 - 1 / ratio(0.05, 2.0))
    torch.testing.assert_close(edited[:3], latents[:3] + shift, atol=5e-3, rtol=0)


def test_several_edits_at_once_are_the_edits_one_by_one() -> None:
    model = guide()
    with torch.no_grad():
        for parameter in model.parameters():  # which start at zero where labels come in
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    latents, before = torch.randn(4, 64), torch.tensor([[0.0, 2.0]] * 4)
    glasses, race = before.clone(), before.clone()
    glasses[:, 0], race[:, 1] = 1, 0
    both = model.transport(latents, before, glasses, race)
    assert not torch.equal(both[0], both[1])
    torch.testing.assert_close(both[0], model.transport(latents, before, glasses)[0])
    torch.testing.assert_close(both[1], model.transport(latents, before, race)[0])


def test_a_label_that_is_not_known_is_not_told() -> None:
    model = guide()
    y, known = model.conditions(torch.tensor([[torch.nan, 1.0]]))
    assert y[0, 0] == 0 and known.tolist() == [[0, 1, 1]]


def test_denoising_loss_weighs_levels_as_the_paper() -> None:
    clean, denoised = torch.zeros(2, 3), torch.ones(2, 3)
    assert denoising_loss(denoised, clean, torch.tensor([1.0, 2.0])).item() == pytest.approx((2 + 5 / 4) / 2)


def test_training_removes_noise_and_learns_what_a_label_moves() -> None:
    torch.manual_seed(0)
    labels = torch.stack([torch.randint(2, (512,)), torch.randint(3, (512,))], 1).float()
    latents = 0.3 * torch.randn(512, *SHAPE)
    latents[:, :, 1] += 0.6 * labels[:, :1, None]
    model = guide(learning_rate=1e-2, guidance=1.0, noise=4.0)
    model.start(latents.flatten(1), torch.zeros(512, 64), labels)
    model.log = lambda *_, **__: None  # type: ignore[method-assign]  # there is no trainer
    optimizer, losses = torch.optim.AdamW(model.parameters(), 3e-3), []
    for _ in range(120):
        rows = torch.randint(512, (32,))
        loss = model.training_step({"mean": latents.flatten(1)[rows], "labels": labels[rows]}, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.95 * sum(losses[:20])
    without = labels[:, 0] == 0
    after = labels[without].clone()
    after[:, 0] = 1
    model.eval()
    moved = model.transport(latents[without].flatten(1), labels[without], after)[0] - latents[without].flatten(1)
    moved = moved.unflatten(1, SHAPE)
    assert moved[:, :, 1].mean() > 0.15 > 3 * moved[:, :, [0, 2, 3]].mean().abs()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance": [1.0]}, "one number or one per factor"),
        ({"noise": 0.01}, "guide.noise between 0.1 and 8"),
        ({"solver_steps": 0}, "guide.solver_steps of at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        guide(**settings)


@pytest.mark.parametrize("side", [(4, 4), (9, 9), (8, 6)])
def test_the_network_keeps_the_shape_and_starts_at_zero(side: tuple[int, int]) -> None:
    network = UNet(5, side, 3, width=8).eval()
    outputs = network(torch.randn(2, 5, *side), torch.zeros(2), torch.randn(2, 3))
    assert outputs.shape == (2, 5, *side) and outputs.abs().max() == 0
