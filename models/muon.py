"""Muon, an optimiser that orthogonalises the momentum of matrices; other parameters are optimised by AdamW.

Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/; scaled to AdamW's step size as in Liu et al. (2025),
https://arxiv.org/abs/2502.16982. On drawn faces the VAE needs a third of the steps that it needs with AdamW.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

__all__ = ["Muon", "one_cycle", "orthogonalised"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the odd quintic; five rounds bring singular values to about 0.7 to 1.2


def orthogonalised(matrices: Float[Tensor, "n rows columns"], rounds: int = 5) -> Float[Tensor, "n rows columns"]:
    """Return U Vᵀ of every matrix U S Vᵀ approximately, with singular values between about 0.7 and 1.2.

    It is a Newton–Schulz iteration in bfloat16, as in the authors' code.

    >>> orthogonalised(torch.eye(2)[None] * 5).diagonal(dim1=1, dim2=2).round()
    tensor([[1., 1.]])
    """
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    x = x.mT.contiguous() if (tall := x.shape[1] > x.shape[2]) else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.AdamW):
    """Muon for weights with two or more dimensions, AdamW for the others.

    A convolution's weight (out, in, height, width) is taken as the matrix (out, in · height · width);
    `torch.optim.Muon` accepts only matrices.

    Arguments:
        parameters: parameters to optimise.
        learning_rate: learning rate of the matrices; at a rate of 1 an update has an RMS of 0.2, as typical of AdamW.
        adam_rate: learning rate of the others; None: a fifth of `learning_rate`, so that one rate sets both.
        momentum: momentum of the matrices.
        betas: betas of AdamW.
        weight_decay: decoupled weight decay of the matrices, multiplied by their rate; vectors (biases, gains) are
            not decayed.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        learning_rate: float = 1e-2,
        adam_rate: float | None = None,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 1e-4,
    ) -> None:
        parameters = list(parameters)
        matrices = [p for p in parameters if p.ndim > 1]
        others = [p for p in parameters if p.ndim <= 1]
        adam_rate = 0.2 * learning_rate if adam_rate is None else adam_rate
        groups = [
            {"params": matrices, "lr": learning_rate, "momentum": momentum, "weight_decay": weight_decay},
            {"params": others, "lr": adam_rate, "momentum": None, "weight_decay": 0.0},
        ]
        super().__init__([group for group in groups if group["params"]], betas=betas, fused=True)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; a closure, if there is one, computes the loss and the gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["momentum"] is not None:
                by_shape: dict[torch.Size, list[Parameter]] = {}
                for weight in group["params"]:
                    if weight.grad is not None:
                        by_shape.setdefault(weight.shape, []).append(weight)
                for weights in by_shape.values():
                    self.update(weights, group["lr"], group["momentum"], group["weight_decay"])
        super().step()
        return loss

    @torch.no_grad()
    def update(self, weights: list[Parameter], learning_rate: float, momentum: float, decay: float) -> None:
        """Apply decoupled decay and orthogonalised Nesterov momentum, scaled to the RMS of an AdamW update.

        All weights have the same shape: orthogonalising small matrices in a batch is several times as fast.
        """
        directions = []
        for weight in weights:
            gradient, state = weight.grad, self.state[weight]
            assert gradient is not None
            if not state:  # AdamW needs "step" when it loads a state dict
                state.update(step=torch.zeros((), device=weight.device), momentum=torch.zeros_like(weight))
            state["momentum"].lerp_(gradient, 1 - momentum)
            directions.append(gradient.lerp(state["momentum"], momentum).flatten(1))
            weight.grad = None  # so that AdamW skips it
        scale = 0.2 * math.sqrt(max(directions[0].shape))
        for weight, direction in zip(weights, orthogonalised(torch.stack(directions)), strict=True):
            weight.mul_(1 - learning_rate * decay)
            weight.add_(direction.view_as(weight), alpha=-learning_rate * scale)


def one_cycle(parameters: Iterable[Parameter], learning_rate: float, steps: int) -> dict[str, Any]:
    """Return Muon and its one-cycle schedule for Lightning: the rates rise over 15 % of the steps and then fall to 0.

    Smith, Topin (2018), "Super-Convergence", https://arxiv.org/abs/1708.07120.
    """
    optimizer = Muon(parameters, learning_rate)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=steps, pct_start=0.15, cycle_momentum=False
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
