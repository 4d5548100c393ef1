"""Properties that every flow has, and FrEIA's traps."""

import copy
import pickle

import numpy as np
import pytest
import torch

from models.flow import Flow

CONFIGURATIONS = [("glow", 2, 6), ("rnvp", 3, 6), ("glow", 4, 17)]


def trained(coupling: str, blocks: int, features: int) -> Flow:
    """A flow that is not the identity any more."""
    torch.manual_seed(0)
    flow = Flow(features, blocks, width=16, depth=2, coupling=coupling)  # type: ignore[arg-type]
    latents = torch.randn(300, features) * 2 + 1
    flow.initialise(latents, torch.diag(1 / latents.std(0)), -latents.mean(0) / latents.std(0))
    with torch.no_grad():
        for parameter in flow.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return flow


@pytest.fixture(params=CONFIGURATIONS, ids=lambda c: f"{c[0]}-{c[1]}x{c[2]}")
def flow(request: pytest.FixtureRequest) -> Flow:
    return trained(*request.param)


def test_inverse_returns_the_latents(flow: Flow) -> None:
    latents = torch.randn(50, flow.features)
    codes, _ = flow(latents)
    assert not torch.allclose(codes, latents, atol=0.1)
    assert (flow.inverse(codes) - latents).abs().max() < 1e-4


def test_log_determinant_is_autograds(flow: Flow) -> None:
    latents = torch.randn(3, flow.features)
    _, log_det = flow(latents)
    for row, expected in zip(latents, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda z: flow(z[None])[0][0], row)
        assert torch.linalg.slogdet(jacobian)[1].item() == pytest.approx(expected.item(), abs=1e-3)


def test_a_batch_of_one_is_the_row_of_a_larger_batch(flow: Flow) -> None:
    latents = torch.randn(5, flow.features)
    torch.testing.assert_close(flow(latents[:1])[0], flow(latents)[0][:1])
    fresh = Flow(flow.features, 2, 8)
    assert fresh(latents[:1])[0].isfinite().all()
    assert fresh.inverse(latents[:1]).isfinite().all()


def test_pickling_copying_and_state_keep_the_map(flow: Flow) -> None:
    latents = torch.randn(5, flow.features)
    codes = flow(latents)[0]
    torch.testing.assert_close(pickle.loads(pickle.dumps(flow))(latents)[0], codes)
    torch.testing.assert_close(copy.deepcopy(flow)(latents)[0], codes)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_loaded_flow_does_not_initialise_itself_again(configuration: tuple[str, int, int]) -> None:
    flow = trained(*configuration)
    loaded = Flow(configuration[2], configuration[1], 16, 2, configuration[0])  # type: ignore[arg-type]
    loaded.load_state_dict(flow.state_dict())
    far = torch.randn(40, flow.features) * 30 - 100
    torch.testing.assert_close(loaded.inverse(far), flow.inverse(far))
    torch.testing.assert_close(loaded(far)[0], flow(far)[0])


def test_same_result_under_autocast(flow: Flow) -> None:
    latents = torch.randn(20, flow.features)
    with torch.autocast("cpu", torch.bfloat16):
        codes, log_det = flow(latents)
        back = flow.inverse(codes)
    assert codes.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(codes, flow(latents)[0])
    assert (back - latents).abs().max() < 1e-4


def test_starts_at_the_linear_map_up_to_scale_and_offset() -> None:
    torch.manual_seed(1)
    latents, linear = torch.randn(400, 5), torch.randn(5, 5)
    flow = Flow(5, 3, 8)
    flow.initialise(latents, linear, torch.ones(5))
    codes, expected = flow(latents)[0], latents @ linear.T + 1
    correlation = torch.corrcoef(torch.cat([codes, expected], 1).T)[:5, 5:]
    torch.testing.assert_close(correlation.diagonal(), torch.ones(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(codes.std(0), torch.ones(5), atol=1e-3, rtol=0)


def test_numpys_random_state_is_left_alone() -> None:
    np.random.seed(7)
    expected = np.random.rand()
    np.random.seed(7)
    Flow(8, 3, 8)
    assert np.random.rand() == expected


def test_gradients_reach_every_parameter(flow: Flow) -> None:
    codes, log_det = flow(torch.randn(20, flow.features))
    (codes.square().sum() - log_det.sum()).backward()
    for name, parameter in flow.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_one_feature_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 features, got 1"):
        Flow(1)


def test_a_constant_feature_stays_finite_and_invertible() -> None:
    latents = torch.randn(200, 4)
    latents[:, 2] = 0.7
    flow = Flow(4, 2, 8)
    flow.initialise(latents, torch.eye(4), -latents.mean(0))
    codes, log_det = flow(latents)
    assert codes.isfinite().all() and log_det.isfinite().all()
    torch.testing.assert_close(flow.inverse(codes), latents, atol=1e-4, rtol=0)


def test_the_start_gives_every_layer_features_of_mean_0_and_deviation_1() -> None:
    latents = torch.randn(500, 4) @ torch.randn(4, 4) + 3
    flow = Flow(4, 3, 8)
    flow.initialise(latents, torch.eye(4), torch.zeros(4))
    codes = flow(latents)[0]
    torch.testing.assert_close(codes.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(codes.std(0), torch.ones(4), atol=1e-4, rtol=0)
