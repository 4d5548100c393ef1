import io

import pytest
import torch

from models.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(8, 8), (6, 40), (40, 6)])
def test_orthogonalised_keeps_directions_and_evens_out_their_strength(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    result, again = orthogonalised(torch.stack([matrix, 3 * matrix]))
    torch.testing.assert_close(result, again, atol=0.02, rtol=0)  # of any length, and each for itself
    assert result.shape == matrix.shape and result.dtype == matrix.dtype
    strengths = torch.linalg.svdvals(result)
    assert 0.5 < strengths.min() and strengths.max() < 1.3, "the input's range over a factor of ten and more"
    cosine = torch.nn.functional.cosine_similarity(result.flatten(), (u @ v).flatten(), dim=0)
    assert cosine > 0.97


def layer_and_vector() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.randn(4, 3, 2, 2)), torch.nn.Parameter(torch.randn(5))]


def test_matrices_move_by_muon_and_vectors_by_adamw() -> None:
    kernel, vector = layer_and_vector()
    twin = torch.nn.Parameter(vector.detach().clone())
    before = kernel.detach().clone()
    kernel.grad, vector.grad = torch.randn_like(kernel), torch.randn_like(vector)
    twin.grad = vector.grad.clone()
    gradient = kernel.grad.clone()
    Muon([kernel, vector], learning_rate=0.5, adam_rate=0.1).step()
    torch.optim.AdamW([twin], 0.1, betas=(0.9, 0.99), weight_decay=0.0, fused=True).step()
    torch.testing.assert_close(vector, twin)
    # The first Nesterov step points along the gradient.
    expected = -0.5 * 0.2 * 12**0.5 * orthogonalised(gradient.flatten(1)[None]).view_as(gradient)
    torch.testing.assert_close(kernel - before, expected, atol=2e-2, rtol=0.05)


def test_a_saved_state_goes_on_as_if_it_had_never_stopped() -> None:
    torch.manual_seed(1)
    parameters = layer_and_vector()
    optimiser = Muon(parameters)
    target = [torch.randn_like(p) for p in parameters]

    def step(parameters: list[torch.nn.Parameter], optimiser: Muon) -> None:
        optimiser.zero_grad()
        torch.stack([(p - t).square().sum() for p, t in zip(parameters, target, strict=True)]).sum().backward()
        optimiser.step()

    for _ in range(3):
        step(parameters, optimiser)
    copies = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    buffer = io.BytesIO()
    torch.save(optimiser.state_dict(), buffer)
    buffer.seek(0)
    resumed = Muon(copies)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    for _ in range(3):
        step(parameters, optimiser)
        step(copies, resumed)
    assert all(torch.equal(a, b) for a, b in zip(parameters, copies, strict=True))


def test_a_closure_is_called_once_with_gradients_on() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimiser, calls = Muon([weight]), []

    def closure() -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimiser.step(closure).item() == 4.0 and calls == [True]
    assert not torch.equal(weight, torch.ones(2, 2))


def test_matrices_decay_and_vectors_do_not() -> None:
    kernel, vector = layer_and_vector()
    before = [parameter.detach().clone() for parameter in (kernel, vector)]
    kernel.grad, vector.grad = torch.zeros_like(kernel), torch.zeros_like(vector)
    Muon([kernel, vector], 0.5, weight_decay=0.2).step()
    torch.testing.assert_close(kernel, 0.9 * before[0])
    torch.testing.assert_close(vector, before[1])
