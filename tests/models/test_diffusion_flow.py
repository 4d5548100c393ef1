"""T of photographs' latents: exact inverse, and edits and densities that are known where the latents are normal."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.diffusion_edits import SURE
from models.diffusion_flow import BISECTIONS, MAX_GUIDANCE, REACHED, DiffusionFlow, edit_mask, posterior_mean
from models.iin import IIN
from models.labels import LabelEmbedding

FACTORS = [("glasses", "binary", ["without", "with"]), ("race", "categorical", ["a", "b", "c"]),
           ("age", "continuous", ["young", "old"])]  # fmt: skip
SHAPE = (4, 4, 4)
DEVIATION = 0.5  # of the latents of one value


def perturbed(module: torch.nn.Module) -> None:
    """Away from zero, where the networks start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


@pytest.fixture
def flow() -> DiffusionFlow:
    torch.manual_seed(0)
    flow = DiffusionFlow(64, FACTORS, SHAPE, width=8, solver_steps=3).eval()
    perturbed(flow.guide)
    flow.guide.shift.fill_(0.3)
    flow.guide.scale.fill_(2.0)
    return flow


def of_normal_latents(flow: DiffusionFlow) -> Callable[..., Tensor]:
    """The exact D of latents N(.4 y, DEVIATION²), y the embedding of glasses."""

    def denoise(x: Tensor, level: Tensor, y: Tensor, known: Tensor) -> Tensor:
        variance = level.square()[:, None, None, None]
        mean = 0.4 * y[:, :1, None, None]
        return (DEVIATION**2 * x + variance * mean) / (DEVIATION**2 + variance)

    return denoise


def test_the_inverse_returns_the_latents(flow: DiffusionFlow) -> None:
    latents = torch.randn(5, 64)
    codes = flow(latents)
    assert codes.shape == (5, flow.codes) and flow.codes == 4 + 128
    torch.testing.assert_close(flow.inverse(codes), latents, atol=1e-5, rtol=0)


def test_the_first_codes_are_what_is_read(flow: DiffusionFlow) -> None:
    latents = torch.randn(5, 64)
    torch.testing.assert_close(flow(latents)[:, :4], flow.read(latents))


def test_the_posterior_mean_lies_between_the_labels() -> None:
    labels = LabelEmbedding(FACTORS)
    logits = torch.tensor([[0.0, 0.0, 9.0, 9.0, -99.0, 0.7], [0.0, 99.0, 99.0, 0.0, 0.0, -2.0]])
    c = posterior_mean(logits, labels)
    race = labels.embed(1, torch.tensor([0.0, 1.0, 2.0]))
    torch.testing.assert_close(c[:, 0], torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(c[:, 1:3], torch.stack([(race[0] + race[1]) / 2, race[0]]))
    torch.testing.assert_close(c[:, 3], torch.tensor([0.7, -2.0]))


@pytest.mark.parametrize("w", [1.0, 3.0])
def test_a_component_beyond_the_labels_is_guidance(
    flow: DiffusionFlow, w: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From c = −1 to w: z' = z + w (m(1) − m(−1)) (1 − 1 / ratio), as of the guide."""
    flow.guide.solver_steps, flow.guide.noise = 60, 2.0
    monkeypatch.setattr(flow.guide, "denoise", of_normal_latents(flow))
    monkeypatch.setattr(flow, "read", lambda z: torch.tensor([[-1.0, 0, 0, 0]]).repeat(len(z), 1))
    latents = torch.randn(4, 64)
    codes = flow(latents)
    codes[:2, 0] = w
    edited = flow.inverse(codes)
    torch.testing.assert_close(edited[2:], latents[2:], atol=1e-5, rtol=0)
    ratio = math.sqrt((DEVIATION**2 + 2.0**2) / (DEVIATION**2 + 0.05**2))
    shift = 2.0 * 0.8 * w * (1 - 1 / ratio)  # in the latents' own unit: the scale is 2
    torch.testing.assert_close(edited[:2], latents[:2] + shift, atol=0.03, rtol=0)


def test_guidance_stays_where_the_labels_say_something(flow: DiffusionFlow, monkeypatch: pytest.MonkeyPatch) -> None:
    difference = torch.full((2, 4, 6, 6), 0.01)
    difference[0, :, 4, 4], difference[1] = 3.0, 0.0
    m = edit_mask(difference)
    expected = torch.zeros(6, 6)
    expected[3:, 3:] = 1.0
    torch.testing.assert_close(m[0, 0], expected)
    assert (m[1] == 0).all()

    def denoise(x: Tensor, level: Tensor, y: Tensor, known: Tensor) -> Tensor:
        moved = torch.zeros_like(x)
        moved[:, :, 0, 0], moved[:, :, 3, 3] = y[:, :1], 0.05 * y[:, :1]  # glasses, and what comes along with them
        return moved

    monkeypatch.setattr(flow.guide, "denoise", denoise)
    x, c = torch.zeros(1, *SHAPE), torch.zeros(1, 4)
    ends = {w: flow.integrate(x, c + torch.tensor([w, 0, 0, 0]))[0, 0] for w in (1.0, 1.002, 3.0)}
    torch.testing.assert_close(ends[1.002], ends[1.0], atol=5e-3, rtol=0)  # there is no jump
    assert ends[3.0][0, 0] > 2 * ends[1.0][0, 0] > 0 and ends[3.0][3, 3] < 0 < ends[1.0][3, 3]


def test_many_classes_are_guided_away_from_the_label_unknown(
    flow: DiffusionFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Tensor, Tensor]] = []

    def denoise(x: Tensor, level: Tensor, y: Tensor, known: Tensor) -> Tensor:
        told.append((y[0].clone(), known[0].clone()))
        return x

    monkeypatch.setattr(flow.guide, "denoise", denoise)
    labels = flow.guide.labels
    c = torch.cat([torch.ones(1, 1), 3 * labels.embed(1, torch.tensor([2.0])), torch.zeros(1, 1)], 1)
    flow.integrate(torch.zeros(1, *SHAPE), c)
    (y, known), (other, other_known) = told[:2]
    torch.testing.assert_close(y[1:3], labels.embed(1, torch.tensor([2.0]))[0])
    assert known.tolist() == [1, 1, 1, 1] and other_known.tolist() == [1, 0, 0, 1]
    assert other.tolist() == [1, 0, 0, 0], "glasses are told as they are"


def test_the_density_of_normal_latents_is_known(flow: DiffusionFlow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow.guide, "denoise", of_normal_latents(flow))
    monkeypatch.setattr(flow, "read", lambda z: torch.zeros(len(z), 4))
    latents = 0.3 + 2.0 * DEVIATION * torch.randn(16, 64)
    expected = -torch.distributions.Normal(0.3, 2.0 * DEVIATION).log_prob(latents).sum(1) / (64 * math.log(2))
    torch.testing.assert_close(flow.bits(latents, steps=200), expected, atol=0.03, rtol=0)
    with torch.inference_mode():
        assert flow.bits(latents, steps=2).isfinite().all()


def test_an_iin_of_it_edits_one_factor_and_leaves_alone_what_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    iin = IIN(64, FACTORS, shape=SHAPE, diffusion={"width": 8, "solver_steps": 2, "guidance": [4.0, 3.0, 2.0]}).eval()
    assert isinstance(iin.flow, DiffusionFlow)
    perturbed(iin.flow.guide)
    latents = torch.randn(40, 64)
    values = torch.stack([torch.arange(40) % 2, torch.arange(40) % 3, torch.rand(40)], 1).float()
    iin.start(latents, torch.zeros(40, 64), values)
    iin.flow.guide.labels.fit(values)
    iin.calibrate(latents, values)

    def reads(z: Tensor) -> Tensor:
        race = iin.labels.embed(1, (z[:, 1] > 0).float()) * z[:, 2:3].tanh().abs()
        return torch.cat([(2 * z[:, :1]).tanh(), race, z[:, 3:4]], 1)

    monkeypatch.setattr(iin.flow, "read", reads)
    read = iin.read(latents)
    assert set(read[:, 0].nan_to_num(0).tolist()) == {0.0, 1.0} and read[:, 1].nan_to_num(0).max() <= 2
    for factor in (0, 1):
        sure = ~read[:, factor].isnan()
        assert sure.any()
        same = iin.edit(latents[sure], factor, read[sure, factor])
        torch.testing.assert_close(same, latents[sure], atol=0, rtol=0)
    sure = ~read[:, 0].isnan()
    assert (iin.edit(latents, 0, 1 - read[:, 0].nan_to_num(0)) - latents).abs().amax(1)[sure].min() > 1e-4
    torch.testing.assert_close(iin.edit(latents, 1, torch.zeros(40), strength=0.0), latents, atol=1e-5, rtol=0)
    assert iin.set_component(latents, 0, 3.0).isfinite().all()
    assert iin.sample(3, {0: 1.0}, torch.Generator().manual_seed(0)).shape == (3, 64)
    swapped = iin.swap(latents, latents.flip(0), 0)
    c = iin.flow.read(latents)[:, 0]
    alike = c * c.flip(0) >= SURE * c.flip(0).square()
    torch.testing.assert_close(swapped[alike], latents[alike], atol=0, rtol=0)


def test_training_learns_the_reading_and_leaves_the_diffusion_model() -> None:
    torch.manual_seed(0)
    values = torch.stack([torch.randint(2, (256,)), torch.randint(3, (256,)), torch.rand(256)], 1).float()
    latents = torch.randn(256, *SHAPE)
    latents[:, 0] += 1.5 * values[:, 0, None, None]
    iin = IIN(64, FACTORS, shape=SHAPE, diffusion={"width": 8}).train()
    assert isinstance(iin.flow, DiffusionFlow) and not iin.flow.guide.training
    iin.start(latents.flatten(1), torch.zeros(256, 64), values)
    kept = {name: tensor.clone() for name, tensor in iin.flow.guide.state_dict().items()}
    optimizer = torch.optim.Adam([weight for weight in iin.flow.parameters() if weight.requires_grad], 3e-3)
    for _ in range(60):
        loss = iin.reading_term(iin.flow.read(latents.flatten(1)), values)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    iin.eval()
    assert (iin.read(latents.flatten(1))[:, 0] == values[:, 0]).float().mean() > 0.9
    for name, tensor in iin.flow.guide.state_dict().items():
        torch.testing.assert_close(tensor, kept[name], atol=0, rtol=0)


@pytest.mark.parametrize("settings", [{"shape": ()}, {"shape": SHAPE, "objective": "likelihood"}])
def test_where_there_is_nothing_to_diffuse_it_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"iin\.coupling=diffusion for spatial latents"):
        IIN(64, FACTORS, coupling="diffusion", **settings)  # type: ignore[arg-type]


def test_an_edit_goes_as_far_as_it_takes_until_it_is_read(flow: DiffusionFlow, monkeypatch: pytest.MonkeyPatch) -> None:
    """g reads the mean of the latents; rows that start further from the threshold need more guidance."""
    flow.guide.solver_steps, flow.guide.noise = 40, 2.0
    monkeypatch.setattr(flow.guide, "denoise", of_normal_latents(flow))

    def reads(latents: Tensor) -> Tensor:
        return torch.nn.functional.pad((latents.mean(1, keepdim=True) / 2).clamp(-1, 1), (0, 3))

    monkeypatch.setattr(flow, "read", lambda latents: torch.tensor([[-1.0, 0, 0, 0]]).repeat(len(latents), 1))
    monkeypatch.setattr(flow, "read_noisy", reads)
    latents = torch.tensor([0.5, -1.0, -3.0, -90.0])[:, None].repeat(1, 64)
    codes = flow(latents)
    far = flow.reach(codes, 0, torch.ones(4, 1))
    codes[:, :1] = far
    shown = reads(flow.inverse(codes))[:, 0]
    assert (far[:3].diff(dim=0) > 0).all() and far[3] == MAX_GUIDANCE, "a face that never shows it goes all the way"
    assert (shown[:3] >= REACHED).all()
    codes[:, :1] = far / MAX_GUIDANCE ** (1 / 2**BISECTIONS)  # one step less
    assert (reads(flow.inverse(codes))[:3, 0] < REACHED).all()


def test_a_continuous_factor_is_moved_from_where_it_is(flow: DiffusionFlow, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = torch.randn(3, flow.codes)
    monkeypatch.setattr(flow, "inverse", lambda codes: codes[:, :64])
    monkeypatch.setattr(flow, "read_noisy", lambda codes: codes[:, :4])  # what is set is read
    goal = codes[:, 3:4] + torch.tensor([[0.5], [-0.5], [0.0]])
    far = flow.reach(codes, 2, goal)
    torch.testing.assert_close((far - codes[:, 3:4])[2], torch.zeros(1))
    share = ((far - codes[:, 3:4]) / (goal - codes[:, 3:4]))[:2]
    assert (share >= 1).all() and (share <= MAX_GUIDANCE ** (1 / 2**BISECTIONS) + 1e-3).all(), "the smallest step"
