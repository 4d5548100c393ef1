"""Invertible interpretation network: an invertible T whose first components are named factors.

Esser, Rombach, Ommer, "A Disentangling Invertible Interpretation Network for Explaining Latent Representations"
(2020), https://arxiv.org/abs/2004.13166, and the authors' code, https://github.com/CompVis/iin, whose weighting is
used where the two differ. Symbols: z a latent, T(z) its codes, F the factor that a pair shares, ρ the correlation.

Objectives:
    faithful: T is initialised with the linear solution and its components predict the labels. An edit, z' = T⁻¹(T(z)
        with the factor's component set), is trained towards the edited latents of the guide (`models/guide.py`); a
        small weight of the likelihood keeps the residual close to a standard normal, so that codes can be sampled.
    likelihood: the published objective, for pairs (`head="pairs"`), or for one label per component as in PluGeN
        (Wołczyk et al. 2022, https://arxiv.org/abs/2109.09011; `head="label"`). Without factors: plain likelihood.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from models import Count, Fraction, NotNegative, Positive, calibration, check_choice
from models.batches import labelled_batch
from models.diffusion_edits import UNREAD_REACH, encoded, moved, surely
from models.diffusion_flow import DiffusionFlow
from models.gaussian import draw
from models.guide import latent_nll, posterior_deviation
from models.iin_blocks import block_masks, blocks_of, check_blocks, correlations
from models.iin_flow import READING_RATE, build_flow, flow_optimizer, start_flow
from models.iin_losses import bits_per_dim, label_loss, pair_loss, residual_nll
from models.labels import Factor, LabelEmbedding

__all__ = ["IIN"]


class IIN(pl.LightningModule):
    """The network T, its training, and edits with it.

    Arguments:
        features: number of latents.
        factors: (name, kind, values) of each factor, as plain lists, so that checkpoints hold only plain types.
        objective, head: see the top of this file.
        block_sizes: code dimensions of each factor; by default those of its labels: 1 for a binary or continuous
            factor, classes − 1 for a categorical one. `faithful` and `head="label"` accept only the default.
        correlation: ρ of the pair loss, one number for all factors or one per factor.
        shape: (channels, height, width) of spatial latents; empty for flat ones.
        blocks, width, depth: size of the couplings; by default 6 blocks of 192 units and 2 layers, for spatial latents
            4 blocks of 128 channels and 3 layers.
        coupling: FrEIA's `glow` (the default) or `rnvp`; for spatial latents under `faithful` the default is
            `diffusion`, see `models/diffusion_flow.py`.
        diffusion: arguments of the diffusion model of coupling=diffusion, `models.spatial_guide.SpatialGuide`.
        linear_start: initialise T with within-class whitening, the factors' directions first (None: for `faithful`);
            for spatial latents with the factors' directions over all positions.
        label_deviation: σ of a component around its label.
        likelihood_weight: weight of the residual's likelihood under `faithful`.
        reach: under `faithful` an edit sets a component to `reach` times the label's value. A guide with a reader
            changes latents by more than the classes differ, so T, which is injective, needs codes outside the data's.
        optimizer: `muon` (see `models/muon.py`; the default for `faithful`) or the authors' `adam` (for `likelihood`,
            whose steps are so fast that Muon would take half as long again).
        learning_rate: by default 1e-2 for Muon and 1e-3 for Adam. It falls linearly to 0, with Muon from the start,
            with Adam over the second half. The reading network of `diffusion` is trained by AdamW at 3e-3.
        betas: betas of Adam.

    Raises:
        ValueError: the factors' dimensions leave no residual, or the block sizes do not fit the factors.
    """

    shared: Tensor
    rho: Tensor
    deviation: Tensor
    targets: Tensor
    knots: Tensor
    quantiles: Tensor
    prior_mean: Tensor
    prior_factor: Tensor

    def __init__(
        self,
        features: int,
        factors: Sequence[Sequence[Any]],
        objective: Literal["faithful", "likelihood"] = "faithful",
        head: Literal["pairs", "label"] = "pairs",
        block_sizes: list[Count] | Literal["auto"] | None = None,
        correlation: Fraction | list[Fraction] = 0.975,
        shape: Sequence[int] = (),
        blocks: Count | None = None,
        width: Count | None = None,
        depth: Count | None = None,
        coupling: Literal["rnvp", "glow", "diffusion"] | None = None,
        diffusion: Mapping[str, Any] | None = None,
        linear_start: bool | None = None,
        label_deviation: Positive = 0.2,
        likelihood_weight: NotNegative = 0.1,
        reach: Positive = 1.0,
        optimizer: Literal["muon", "adam"] | None = None,
        learning_rate: Positive | None = None,
        betas: Sequence[Fraction] = (0.9, 0.99),
    ) -> None:
        super().__init__()
        check_choice("iin.objective", objective, ("faithful", "likelihood"))
        check_choice("iin.head", head, ("pairs", "label"))
        check_choice("iin.coupling", coupling, (None, "rnvp", "glow", "diffusion"))
        check_choice("iin.optimizer", optimizer, (None, "muon", "adam"))
        self.save_hyperparameters()
        self.labels = LabelEmbedding(factors)
        self.objective, self.head, self.spatial = objective, head, len(shape) == 3
        self.blocks = self.labels.blocks if block_sizes is None else blocks_of(block_sizes)
        faithful = objective == "faithful"
        check_blocks(self.blocks, self.labels, features, by_label=faithful or head == "label")
        rho = correlations(correlation, len(self.factors))
        self.linear_start = faithful if linear_start is None else linear_start
        self.label_deviation, self.likelihood_weight, self.reach = label_deviation, likelihood_weight, reach
        self.optimizer = optimizer or ("muon" if faithful else "adam")
        self.betas = (betas[0], betas[1])
        self.flow = build_flow(
            coupling, features, factors, shape, self.residual, faithful, blocks, width, depth, diffusion
        )
        rates = {"muon": READING_RATE if isinstance(self.flow, DiffusionFlow) else 1e-2, "adam": 1e-3}
        self.learning_rate = rates[self.optimizer] if learning_rate is None else learning_rate
        self.register_statistics(features, rho)
        # For `faithful`: maps (latents, labels before, labels after) to the edited latents.
        self.transport: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def register_statistics(self, features: int, rho: Float[Tensor, " factors"]) -> None:
        """Register the statistics of training data, and the masks of the factors' codes, as buffers."""
        count, codes = len(self.factors), self.flow.codes if isinstance(self.flow, DiffusionFlow) else features
        self.register_buffer("shared", block_masks(self.blocks, codes))
        self.register_buffer("rho", rho)
        self.register_buffer("deviation", torch.ones(features))
        self.register_buffer("targets", torch.zeros(count, max(self.labels.dim + 1, calibration.KNOTS), codes))
        self.register_buffer("knots", torch.zeros(count, calibration.KNOTS))
        self.register_buffer("quantiles", torch.zeros(calibration.QUANTILES, codes))
        self.register_buffer("prior_mean", torch.zeros(codes - self.residual))
        self.register_buffer("prior_factor", torch.eye(codes - self.residual))

    @property
    def factors(self) -> tuple[Factor, ...]:
        return self.labels.factors

    @property
    def residual(self) -> int:
        """Index of the first code dimension that belongs to no factor."""
        return self.blocks[-1].stop if self.blocks else 0

    @torch.no_grad()
    def start(
        self, mean: Float[Tensor, "n d"], logvar: Float[Tensor, "n d"], labels: Float[Tensor, "n factors"]
    ) -> None:
        """Compute the latents' units and the label statistics from training data, and initialise T."""
        self.labels.fit(labels)
        self.deviation.copy_(posterior_deviation(logvar))
        if not isinstance(self.flow, DiffusionFlow):  # its weights come from the guide
            fits = self.factors and (not self.spatial or self.residual == self.labels.dim)
            start_flow(self.flow, mean, self.labels(labels) if self.linear_start and fits else None)

    def encode(self, latents: Float[Tensor, "batch d"]) -> Float[Tensor, "batch codes"]:
        return encoded(self.flow, latents) if isinstance(self.flow, DiffusionFlow) else self.flow(latents)[0]

    def components(self, latents: Float[Tensor, "batch d"]) -> Float[Tensor, "batch components"]:
        """Return codes that start with the factors'; a diffusion flow computes only these, without integrating."""
        return self.flow.read(latents) if isinstance(self.flow, DiffusionFlow) else self.encode(latents)

    def inverse(self, codes: Float[Tensor, "batch codes"]) -> Float[Tensor, "batch d"]:
        return self.flow.inverse(codes)

    def training_step(self, batch: Any, _: int) -> Tensor:
        """Return the loss of a batch: a dictionary as from `datamodules.pairs`, or a pair of latents and labels."""
        batch = labelled_batch(batch, len(self.factors))
        if isinstance(self.flow, DiffusionFlow):
            terms = {"label": self.reading_term(self.flow.read(batch["mean"]), batch["labels"], batch.get("sure"))}
        elif self.objective == "faithful":
            terms = self.faithful_terms(batch)
        elif self.head == "label" or not self.factors:
            codes, log_det = self.flow(draw(batch["mean"], batch["logvar"]))
            known = self.labels.known(batch["labels"])
            label = label_loss(codes[:, : self.residual], self.labels(batch["labels"]), known, self.label_deviation)
            terms = {"nll": (label + residual_nll(codes[:, self.residual :], log_det)).mean()}
        else:
            mean, logvar = (torch.cat([batch[key], batch[f"partner_{key}"]]) for key in ("mean", "logvar"))
            codes, log_det = self.flow(draw(mean, logvar))  # one pass over both halves is faster than two
            (a, b), (log_det_a, log_det_b) = codes.chunk(2), log_det.chunk(2)
            nll = pair_loss(a, b, log_det_a, log_det_b, self.shared[batch["factor"]], self.rho[batch["factor"]])
            terms = {"nll": nll.mean()}
        loss = torch.stack(list(terms.values())).sum()
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it by setattr
        if (self.global_step + 1) % every == 0:  # logging costs a twentieth of a small step
            self.log_dict({"iin/loss": loss, **{f"iin/{name}": term for name, term in terms.items()}})
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        """Log `val/label`, `val/nll_bits_per_dim` of posterior means and, of these, the objective as `val/loss`."""
        batch = labelled_batch(batch, len(self.factors))
        numbers = {"label": self.reading_term(self.components(batch["mean"])[:, : self.residual], batch["labels"])}
        if not isinstance(self.flow, DiffusionFlow):
            numbers["nll_bits_per_dim"] = bits_per_dim(*self.flow(batch["mean"])).mean()
        likelihood = self.objective == "likelihood" and len(numbers) > 1
        numbers["loss"] = numbers["nll_bits_per_dim" if likelihood else "label"]
        self.log_dict({f"val/{name}": value for name, value in numbers.items()}, batch_size=len(batch["mean"]))

    def faithful_terms(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        latents = draw(batch["mean"], batch["logvar"])
        codes, log_det = self.flow(latents)
        before = batch["labels"]
        if "target" in batch:  # the guide's edit of the mean; the sample's offset is added
            after, target = batch["after"], batch["target"] + latents - batch["mean"]
        else:
            if self.transport is None:
                raise RuntimeError("Expected a guide for objective=faithful: set `transport`, or objective=likelihood.")
            after = self.labels.change(before, batch["factor"])
            with torch.no_grad():
                target = self.transport(latents, before, after)
        wanted = torch.nn.functional.pad(self.reach * self.labels(after), (0, codes.shape[1] - self.residual))
        edited_codes = torch.where(self.shared[batch["factor"]] > 0, wanted, codes)
        edit = latent_nll(target, self.flow.inverse(edited_codes), self.deviation)
        reading = self.reading_term(codes[:, : self.residual], before)
        likelihood = residual_nll(codes[:, self.residual :], log_det)
        return {"edit": edit.mean(), "label": reading, "likelihood": self.likelihood_weight * likelihood.mean()}

    def reading_term(
        self,
        components: Float[Tensor, "batch components"],
        values: Float[Tensor, "batch factors"],
        sure: Float[Tensor, "batch factors"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the mean label loss, weighted by the confidence of each label. For photographs classes are balanced,
        because a rare value that is read as the common one would not be edited.
        """
        known = self.labels.balanced(values) if self.spatial else self.labels.known(values)
        if sure is not None:
            known = known * self.labels.spread(sure)
        return label_loss(components, self.labels(values), known, self.label_deviation).mean()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        steps = int(self.trainer.estimated_stepping_batches)
        return flow_optimizer(self.flow, self.optimizer, self.learning_rate, self.betas, steps)  # type: ignore[return-value]

    @torch.no_grad()
    def calibrate(self, latents: Float[Tensor, "n d"], labels: Float[Tensor, "n factors"]) -> None:
        """Estimate the codes of factor values and the quantiles of components from training data."""
        diffusion = isinstance(self.flow, DiffusionFlow)
        some = latents[:: max(1, len(latents) // calibration.MOST_ENCODED)] if diffusion else latents
        codes = torch.cat([self.encode(part) for part in some.split(4096)])
        self.quantiles.copy_(calibration.component_quantiles(codes))
        mean, root = calibration.fitted_normal(codes[:, self.residual :])
        self.prior_mean.copy_(mean)
        self.prior_factor.copy_(root)
        if diffusion:
            codes = torch.cat([self.components(part) for part in latents.split(4096)])
        for i, block in enumerate(self.blocks):
            known = ~labels[:, i].isnan()
            self.knots[i] = calibration.value_knots(labels[known, i])
            design = calibration.design(self.labels, i, labels[known, i], self.knots[i])
            self.targets[i] = 0
            self.targets[i, : design.shape[1], block] = calibration.fitted_targets(design, codes[known][:, block])

    def target(self, factor: int, value: Float[Tensor, " batch"]) -> Float[Tensor, "batch block"]:
        """Return the mean codes of a factor's block in training data with a value."""
        calibration.check_calibrated(self.quantiles)
        design = calibration.design(self.labels, factor, value, self.knots[factor])
        return design @ self.targets[factor, : design.shape[1], self.blocks[factor]]

    def destination(self, factor: int, value: Float[Tensor, " batch"]) -> Float[Tensor, "batch block"]:
        """Return the codes that an edit to a value sets: `reach` times those of data with the value."""
        reach = self.reach if self.objective == "faithful" else 1.0
        return (UNREAD_REACH if isinstance(self.flow, DiffusionFlow) else reach) * self.centre(factor, value)

    def centre(self, factor: int, value: Float[Tensor, " batch"]) -> Float[Tensor, "batch block"]:
        """Return the codes of data with a value: the label's embedding under `faithful`, else the estimated ones."""
        return self.labels.embed(factor, value) if self.objective == "faithful" else self.target(factor, value)

    @torch.no_grad()
    def edit(self, latents: Float[Tensor, "batch d"], factor: int, value: Float[Tensor, " batch"],
             strength: float = 1.0) -> Float[Tensor, "batch d"]:  # fmt: skip
        """Edit a factor of latents to a value; strength 1 is the full edit, 0 none.

        For a factor with classes, latents that clearly show the value already stay unchanged: their code is less than
        half as far from it as from any other. With a diffusion flow, latents that are read as the value with confidence
        stay unchanged, and others are edited with the smallest guidance that suffices (`DiffusionFlow.reach`).
        """
        if isinstance(self.flow, DiffusionFlow):
            return moved(self.flow, latents, factor, self.centre(factor, value), strength)
        codes, block = self.encode(latents), self.blocks[factor]
        wanted = torch.lerp(codes[:, block], self.destination(factor, value), strength)
        if self.factors[factor].kind != "continuous":
            _, distance = self.distances(codes, factor)
            own = distance.gather(1, value.long()[:, None])
            others = distance.scatter(1, value.long()[:, None], torch.inf).amin(1, keepdim=True)
            wanted = torch.where(own < others / 2, codes[:, block], wanted)
        codes[:, block] = wanted
        return self.inverse(codes)

    def distances(
        self, codes: Float[Tensor, "batch d"], factor: int
    ) -> tuple[Float[Tensor, " values"], Float[Tensor, "batch values"]]:
        """Return a factor's values (257 even steps if continuous), and the distance of codes to those of each value."""
        if self.factors[factor].kind == "continuous":
            values = torch.linspace(float(self.labels.low[factor]), float(self.labels.high[factor]), 257).to(codes)
        else:
            values = torch.arange(len(self.factors[factor].values)).to(codes)
        return values, torch.cdist(codes[:, self.blocks[factor]], self.centre(factor, values))

    @torch.no_grad()
    def read(self, latents: Float[Tensor, "batch d"]) -> Float[Tensor, "batch factors"]:
        """Predict each factor's value, in its own unit, by the nearest codes; NaN if a diffusion flow is not sure."""
        codes, columns = self.components(latents), []
        for i, (factor, block) in enumerate(zip(self.factors, self.blocks, strict=True)):
            values, distance = self.distances(codes, i)
            column = values[distance.argmin(1)]
            if isinstance(self.flow, DiffusionFlow) and factor.kind != "continuous":
                column = torch.where(surely(codes[:, block], self.centre(i, column)), column, torch.nan)
            columns.append(column)
        return torch.stack(columns, 1)

    @torch.no_grad()
    def set_component(
        self, latents: Float[Tensor, "batch d"], component: int, value: float
    ) -> Float[Tensor, "batch d"]:
        """Set one component of latents to the quantile Φ(value) of its distribution over training data.

        With a diffusion flow, a factor's component is set to `UNREAD_REACH` times that, the guidance of such an edit.
        """
        calibration.check_calibrated(self.quantiles)
        codes = self.encode(latents)
        reach = UNREAD_REACH if isinstance(self.flow, DiffusionFlow) and component < self.residual else 1.0
        codes[:, component] = reach * calibration.component_at(self.quantiles[:, component], value)
        return self.inverse(codes)

    @torch.no_grad()
    def swap(
        self, latents: Float[Tensor, "batch d"], donors: Float[Tensor, "batch d"], factor: int
    ) -> Float[Tensor, "batch d"]:
        """Replace a factor's block of codes by that of the donors."""
        if isinstance(self.flow, DiffusionFlow):
            return moved(self.flow, latents, factor, self.flow.read(donors)[:, self.blocks[factor]], 1.0)
        codes = self.encode(latents)
        codes[:, self.blocks[factor]] = self.encode(donors)[:, self.blocks[factor]]
        return self.inverse(codes)

    @torch.no_grad()
    def sample(
        self, n: int, values: dict[int, float], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n d"]:
        """Sample latents from the prior; a factor with a given value gets an edit's codes, others those of data."""
        calibration.check_calibrated(self.quantiles)
        codes = calibration.drawn_codes(n, self.quantiles, self.prior_mean, self.prior_factor, generator)
        for factor, value in values.items():
            codes[:, self.blocks[factor]] = self.destination(factor, codes.new_full((n,), value))
        return self.inverse(codes)
