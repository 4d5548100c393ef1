"""Properties of the flow of latents with places: one to one, its density, and a start that is the mean difference."""

import copy
import pickle

import pytest
import torch

from models.spatial_flow import SpatialFlow, discriminants

SHAPES = [("glow", (4, 4, 4)), ("rnvp", (3, 4, 4)), ("glow", (4, 16, 16)), ("glow", (5, 3, 3))]


def world(shape: tuple[int, ...], n: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents in which the first label moves one place and the second one another, and the labels −1 or 1."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (n, 2), generator=generator).float() * 2 - 1
    places = 0.5 * torch.randn(n, *shape, generator=generator) + 0.3
    places[:, 0, 1, 1] += labels[:, 0]
    places[:, 1, 2, 1] += 2 * labels[:, 1]
    return places.flatten(1), labels


def trained(coupling: str, shape: tuple[int, int, int]) -> SpatialFlow:
    """A flow that is not linear any more."""
    torch.manual_seed(0)
    flow = SpatialFlow(shape, 2, blocks=2, width=8, depth=1, coupling=coupling)  # type: ignore[arg-type]
    flow.initialise(*world(shape))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return flow.eval()


@pytest.fixture(params=SHAPES, ids=lambda c: f"{c[0]}-{c[1]}")
def flow(request: pytest.FixtureRequest) -> SpatialFlow:
    return trained(*request.param)


def test_inverse_returns_the_latents(flow: SpatialFlow) -> None:
    latents = world(flow.shape)[0][:20]
    codes, _ = flow(latents)
    assert not torch.allclose(codes, latents, atol=0.1)
    assert (flow.inverse(codes) - latents).abs().max() < 1e-4


def test_every_code_can_be_set_and_is_read_again(flow: SpatialFlow) -> None:
    codes = torch.randn(20, flow.features)
    torch.testing.assert_close(flow(flow.inverse(codes))[0], codes, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("coupling", "shape"), SHAPES[:2] + SHAPES[3:])
def test_log_determinant_is_autograds(coupling: str, shape: tuple[int, int, int]) -> None:
    flow = trained(coupling, shape)
    for row in world(shape)[0][:2]:
        jacobian = torch.autograd.functional.jacobian(lambda z: flow(z[None])[0][0], row)
        expected = torch.linalg.slogdet(jacobian.double())[1].item()
        assert flow(row[None])[1].item() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("shape", [(4, 4, 4), (4, 16, 16)])
def test_at_the_start_a_component_reads_its_label_and_an_edit_is_the_mean_difference(
    shape: tuple[int, int, int],
) -> None:
    latents, labels = world(shape)
    flow = SpatialFlow(shape, 2, blocks=2, width=8, depth=1)
    flow.initialise(latents, labels)
    codes = flow(latents)[0]
    correlation = torch.corrcoef(torch.cat([codes[:, :2], labels], 1).T)[:2, 2:]
    assert correlation.diag().min() > 0.8 and correlation.flip(0).diag().abs().max() < 0.15
    edited = codes.clone()
    edited[:, 0] += 2
    change = (flow.inverse(edited) - latents).unflatten(1, shape)
    effect = torch.linalg.lstsq(labels - labels.mean(0), latents - latents.mean(0)).solution[0].unflatten(0, shape)
    torch.testing.assert_close(change, (2 * effect).expand_as(change), atol=1e-3, rtol=1e-3)


def test_without_labels_it_is_one_to_one_and_has_components_all_the_same() -> None:
    latents, _ = world((4, 4, 4))
    for components in (0, 3):
        flow = SpatialFlow((4, 4, 4), components, blocks=2, width=8, depth=1)
        flow.initialise(latents, None)
        torch.testing.assert_close(flow.inverse(flow(latents)[0]), latents, atol=1e-4, rtol=1e-4)


def test_one_channel_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 channels, got 1"):
        SpatialFlow((1, 8, 8), 2)


def test_pickling_copying_and_state_keep_the_map(flow: SpatialFlow) -> None:
    latents = world(flow.shape)[0][:5]
    codes = flow(latents)[0]
    torch.testing.assert_close(pickle.loads(pickle.dumps(flow))(latents)[0], codes)
    torch.testing.assert_close(copy.deepcopy(flow)(latents)[0], codes)


def test_gradients_reach_every_parameter_from_an_edit_and_a_reading() -> None:
    flow = trained("glow", (4, 4, 4)).train()
    codes, log_det = flow(world((4, 4, 4))[0][:8])
    edited = torch.cat([codes[:, :1] + 1, codes[:, 1:]], 1)
    (flow.inverse(edited).square().sum() + codes[:, :2].sum() + log_det.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in flow.parameters())


def test_discriminants_read_the_effects_as_one_each() -> None:
    generator = torch.Generator().manual_seed(0)
    effects = torch.randn(2, 10, generator=generator)
    reading = discriminants(torch.randn(500, 10, generator=generator), effects)
    torch.testing.assert_close(reading @ effects.T, torch.eye(2), atol=1e-5, rtol=1e-5)
