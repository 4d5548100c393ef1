"""The invertible network T, built from FrEIA's blocks, with workarounds for the library's defects.

T = (coupling blocks) ∘ (fixed linear start). Each block is ActNorm, an affine coupling and a fixed permutation, as
in the public IIN code (https://github.com/CompVis/iin). The last layer of every coupling's network is initialised to
zero, so T is linear before training: it whitens, with chosen directions on the first components.

Defects of FrEIA 0.2 that this module works around, each with a test: ActNorm initialises itself from the first batch
that it gets, even from an inverse pass or a single row, divides by zero where a feature is constant, and does not save
that it is initialised; PermuteRandom reseeds numpy's global generator; the default clamp is a lambda that cannot be
pickled; in bfloat16 the inverse is wrong by 0.07.
"""

from functools import partial
from typing import Literal

import FrEIA.framework as Ff
import FrEIA.modules as Fm
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.networks import damp, mlp

__all__ = ["Flow"]

NARROWEST = 1e-2  # smallest standard deviation that ActNorm scales to 1; that of a constant feature is 0
BLOCKS = {"rnvp": Fm.RNVPCouplingBlock, "glow": Fm.GLOWCouplingBlock}


def coupling_network(inputs: int, outputs: int, width: int, depth: int) -> nn.Sequential:
    """Return an MLP whose output is zero before training, so that its coupling is the identity at first."""
    return damp(mlp(inputs, outputs, width, depth), 0.0)


class Flow(nn.Module):
    """An invertible map between latents and codes, both (batch, features), always computed in float32.

    Arguments:
        features: d, the number of latents.
        blocks: number of coupling blocks; the IIN authors use 12.
        width, depth: hidden units and layers of the couplings' networks (the authors: 512 and 2).
        coupling: `rnvp` has separate networks for scale and shift, as in the authors' code; `glow` uses one network
            for both, at half the cost.
        seed: seed of the fixed permutations.
    """

    def __init__(
        self,
        features: int,
        blocks: int = 12,
        width: int = 512,
        depth: int = 2,
        coupling: Literal["rnvp", "glow"] = "rnvp",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if features < 2:
            raise ValueError(f"A flow needs at least 2 features, got {features}.")
        self.features = features
        self.inn = Ff.SequenceINN(features)
        self.inn.append(Fm.FixedLinearTransform, M=torch.eye(features), b=torch.zeros(features))
        network = partial(coupling_network, width=width, depth=depth)
        numpy_state = np.random.get_state()
        for block in range(blocks):
            self.inn.append(Fm.ActNorm)
            # tanh with clamp 1 is the authors' coupling, and unlike FrEIA's default it can be pickled.
            self.inn.append(BLOCKS[coupling], subnet_constructor=network, clamp=1.0, clamp_activation="TANH")
            self.inn.append(Fm.PermuteRandom, seed=seed * blocks + block)
        np.random.set_state(numpy_state)
        for module in self.actnorms():
            module.init_on_next_batch = False  # it is the identity until `initialise`, whatever batch comes first
            for hook in list(module._load_state_dict_pre_hooks):
                del module._load_state_dict_pre_hooks[hook]  # the hook is a closure, which cannot be pickled

    def actnorms(self) -> list[Fm.ActNorm]:
        return [module for module in self.inn.module_list if isinstance(module, Fm.ActNorm)]

    @torch.no_grad()
    def initialise(self, latents: Float[Tensor, "n features"], linear: Float[Tensor, "features features"],
                   offset: Float[Tensor, " features"]) -> None:  # fmt: skip
        """Initialise the linear layer, codes = linear · latents + offset, and ActNorm's statistics from the latents.

        While the couplings are zero, all of T equals this linear map up to ActNorm's scales: the rows of the matrix
        are reordered so that the fixed permutations after it cancel.
        """
        order = torch.arange(self.features, device=latents.device)
        for module in self.inn.module_list:
            if isinstance(module, Fm.PermuteRandom):
                order = order[module.perm]
        # The codes are (M z)[order], so row order[i] of M has to be row i of `linear`.
        rows = torch.argsort(order)
        start = self.inn.module_list[0]
        start.M.copy_(linear[rows].T)
        start.M_inv.copy_(torch.linalg.inv(linear[rows].double()).T)
        start.b.copy_(offset[rows][None])
        start.logDetM.copy_(torch.linalg.slogdet(linear.double())[1])
        x = (latents.float(),)
        for module in self.inn.module_list:
            if isinstance(module, Fm.ActNorm):
                deviation, mean = torch.std_mean(x[0], dim=0)
                module.scale.copy_(-deviation.clamp(min=NARROWEST).log()[None])
                module.bias.copy_(-(mean * module.scale[0].exp())[None])
            x = module(x, jac=False)[0]

    def forward(
        self, latents: Float[Tensor, "batch features"]
    ) -> tuple[Float[Tensor, "batch features"], Float[Tensor, " batch"]]:
        """Return the codes T(z) and log|det dT/dz| of each row, in nats."""
        with torch.autocast(latents.device.type, enabled=False):
            return self.inn(latents.float())

    def inverse(self, codes: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
        """Return the latents T⁻¹(c) of codes c."""
        with torch.autocast(codes.device.type, enabled=False):
            return self.inn(codes.float(), rev=True, jac=False)[0]
