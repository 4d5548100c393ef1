"""Invertible interpretation network: an invertible T whose first components are named factors.

Esser, Rombach, Ommer, "A Disentangling Invertible Interpretation Network for Explaining Latent Representations"
(2020), https://arxiv.org/abs/2004.13166, and the authors' code, https://github.com/CompVis/iin, whose weighting is
used where the two differ. Symbols: z a latent, T(z) its codes, F the factor that a pair shares, ρ the correlation.

Objectives:
    faithful: T starts at the linear solution, its components are the labels, and an edit, z' = T⁻¹(T(z) with the
        factor's component set), is drawn to where the guide (`models/guide.py`) says that this edit should end; a
        light likelihood keeps the residual close to a standard normal, so that codes can be sampled.
    likelihood: what was published, from pairs (`head="pairs"`), or from one label per component as PluGeN does
        (Wołczyk et al. 2022, https://arxiv.org/abs/2109.09011; `head="label"`). Without factors: plain likelihood.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from models import check_choice
from models.diffusion_flow import DiffusionFlow
from models.flow import Flow
from models.guide import latent_nll, posterior_deviation, within_class_whitening
from models.labels import Factor, LabelEmbedding
from models.muon import Muon
from models.spatial_flow import SpatialFlow
from models.vae import draw

__all__ = ["IIN", "block_sizes_from_pairs", "label_loss", "pair_loss", "residual_nll"]

QUANTILES = 257
KNOTS = 9
SURE = 0.8  # of the way to a label's embedding: what a diffusion flow reads beyond is surely that label
UNREAD_REACH = 3.0  # of samples and of single components under a diffusion flow, which nobody reads while they are made
READING_RATE, READING_DECAY = 3e-3, 0.1  # of AdamW, for what a diffusion flow reads
PART = 512  # rows that a diffusion flow encodes at a time
MOST_ENCODED = 2048  # training rows that the residual of a diffusion flow is taken from, which is slow to find


def pair_loss(
    codes_a: Float[Tensor, "batch d"],
    codes_b: Float[Tensor, "batch d"],
    log_det_a: Float[Tensor, " batch"],
    log_det_b: Float[Tensor, " batch"],
    shared: Float[Tensor, "*batch d"],
    correlation: float | Float[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """−log p(z_a, z_b) of a pair that shares a factor, in nats up to a constant.

    ½‖T(z_a)‖² − log|T'(z_a)| + Σ_k ½ (T(z_b)_k − m_k ρ T(z_a)_k)² / (1 − m_k ρ²) − log|T'(z_b)|,

    m the mask `shared` of the factor's dimensions, (d,) or (batch, d); ρ one number or one per pair. The factor ½ on
    every square is in the authors' code and missing in the paper, where log|T'| would be half as heavy as a Gaussian
    has it.
    """
    rho = torch.as_tensor(correlation, dtype=codes_a.dtype, device=codes_a.device).reshape(-1, 1)
    first = 0.5 * codes_a.square().sum(1) - log_det_a
    deviation = (codes_b - shared * rho * codes_a).square() / (1 - shared * rho.square())
    return first + 0.5 * deviation.sum(1) - log_det_b


def label_loss(
    codes: Float[Tensor, "batch label"],
    labels: Float[Tensor, "batch label"],
    known: Float[Tensor, "batch label"],
    deviation: float,
) -> Float[Tensor, " batch"]:
    """−log p(codes | labels) per row, in nats up to a constant: N(label, deviation²) where known, else N(0, 1).

    `known` is 0 or 1, or how much a known label weighs.
    """
    return 0.5 * torch.where(known > 0, known * ((codes - labels) / deviation).square(), codes.square()).sum(1)


def residual_nll(
    residual: Float[Tensor, "batch residual"], log_det: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """½‖residual‖² − log|T'| per row: −log likelihood of the residual codes, in nats up to a constant."""
    return 0.5 * residual.square().sum(1) - log_det


def block_sizes_from_pairs(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], factor: Int64[Tensor, " n"], count: int
) -> list[int]:
    """The authors' estimate of how many dimensions each factor needs (their `iterators/base.py`).

    s_F = Σ_i Cov(a_i, b_i | F) / Σ_i Var(z_i) over pairs that share F, s = 1 for the residual; each factor gets the
    softmax share of the d dimensions, rounded down but at least 1, and the residual the rest. As |s| ≤ 1, shares
    differ by at most e².
    """
    total = torch.cat([a, b]).var(0).sum()
    scores = []
    for f in range(count):
        x, y = a[factor == f], b[factor == f]
        scores.append(((x - x.mean(0)) * (y - y.mean(0))).mean(0).sum() / total)
    shares = torch.softmax(torch.stack([*scores, torch.ones_like(total)]), 0)[:-1]
    return [max(1, int(share * a.shape[1])) for share in shares]


class IIN(pl.LightningModule):
    """T, its training, and the edits it makes.

    Arguments:
        features: number of latents.
        factors: (name, kind, values) of each factor (plain lists, so that a checkpoint holds nothing else).
        objective, head: see the file's head.
        block_sizes: code dimensions of each factor; by default what its labels need: 1 for a binary or continuous
            factor, classes − 1 for a categorical one. `faithful` and `head="label"` take only the default.
        correlation: ρ of the pair loss, one for all or one per factor.
        shape: (channels, height, width) of latents with places.
        blocks, width, depth: of the couplings; by default 6 blocks of 192 units and 2 layers, for latents with places 4
            blocks of 128 channels and 3 layers.
        coupling: FrEIA's `glow` (the default) or `rnvp`; for latents with places under `faithful` the default is
            `diffusion`, see `models/diffusion_flow.py`.
        diffusion: settings of the diffusion model that `diffusion` needs, as `models.spatial_guide.SpatialGuide` takes
            them.
        linear_start: start T at within-class whitening with the factors' directions first (None: for `faithful`).
            For latents with places: at the factors' directions over all of them.
        label_deviation: σ of a component around its label.
        likelihood_weight: of the residual's likelihood under `faithful`.
        reach: under `faithful` an edit sets a component to `reach` times the label's value. A guide with a reader goes
            further than the labels' own distance, and T, one to one, needs room for that beyond where the data are.
        optimizer: `muon` (see `models/muon.py`; the default of `faithful`) or the authors' `adam` (of `likelihood`,
            whose steps are too short to carry another half of their time for the optimiser).
        learning_rate: by default 1e-2 for Muon and 1e-3 for Adam. It falls linearly to nothing, Muon's from the start,
            Adam's over the second half. What `diffusion` reads is trained by AdamW, at 3e-3.
        betas: of Adam.

    Raises:
        ValueError: more factor dimensions than latents leave a residual for, or sizes that do not fit the factors.
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
        block_sizes: list[int] | None = None,
        correlation: float | list[float] = 0.975,
        shape: Sequence[int] = (),
        blocks: int | None = None,
        width: int | None = None,
        depth: int | None = None,
        coupling: Literal["rnvp", "glow", "diffusion"] | None = None,
        diffusion: Mapping[str, Any] | None = None,
        linear_start: bool | None = None,
        label_deviation: float = 0.2,
        likelihood_weight: float = 0.1,
        reach: float = 1.0,
        optimizer: Literal["muon", "adam"] | None = None,
        learning_rate: float | None = None,
        betas: Sequence[float] = (0.9, 0.99),
    ) -> None:
        super().__init__()
        check_choice("iin.objective", objective, ("faithful", "likelihood"))
        check_choice("iin.head", head, ("pairs", "label"))
        check_choice("iin.coupling", coupling, (None, "rnvp", "glow", "diffusion"))
        check_choice("iin.optimizer", optimizer, (None, "muon", "adam"))
        self.save_hyperparameters()
        self.labels = LabelEmbedding(factors)
        self.objective, self.head = objective, head
        self.spatial = len(shape) == 3
        self.blocks = self.labels.blocks if block_sizes is None else blocks_of(block_sizes)
        self.check(features, block_sizes, correlation)
        self.linear_start = objective == "faithful" if linear_start is None else linear_start
        self.label_deviation, self.likelihood_weight, self.reach = label_deviation, likelihood_weight, reach
        self.optimizer = optimizer or ("muon" if objective == "faithful" else "adam")
        self.betas = (betas[0], betas[1])
        kind = coupling or ("diffusion" if self.spatial and self.factors and objective == "faithful" else "glow")
        if kind == "diffusion":
            if not self.spatial or not self.factors or objective != "faithful":
                raise ValueError(
                    "Expected iin.coupling=diffusion for latents with places (encoder=taesd), factors and "
                    "iin.objective=faithful: leave iin.coupling at null."
                )
            self.flow: Flow | SpatialFlow | DiffusionFlow = DiffusionFlow(features, factors, shape, **diffusion or {})
        elif self.spatial:
            self.flow = SpatialFlow(shape, self.residual, blocks or 4, width or 128, depth or 3, kind)
        else:
            self.flow = Flow(features, blocks or 6, width or 192, depth or 2, kind)
        rates = {"muon": READING_RATE if kind == "diffusion" else 1e-2, "adam": 1e-3}
        self.learning_rate = learning_rate or rates[self.optimizer]
        codes = self.flow.codes if isinstance(self.flow, DiffusionFlow) else features
        self.register_statistics(features, codes, correlation)
        # For `faithful`: (latents, labels before, labels after) -> where the edit should end.
        self.transport: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def register_statistics(self, features: int, codes: int, correlation: float | list[float]) -> None:
        """The buffers of what is taken from training data, and which codes belong to which factor."""
        count = len(self.factors)
        rho = [correlation] * count if isinstance(correlation, (int, float)) else list(correlation)
        shared = torch.zeros(count, codes)
        for i, block in enumerate(self.blocks):
            shared[i, block] = 1.0
        self.register_buffer("shared", shared)
        self.register_buffer("rho", torch.tensor(rho, dtype=torch.float32))
        self.register_buffer("deviation", torch.ones(features))
        self.register_buffer("targets", torch.zeros(count, max(self.labels.dim + 1, KNOTS), codes))
        self.register_buffer("knots", torch.zeros(count, KNOTS))
        self.register_buffer("quantiles", torch.zeros(QUANTILES, codes))
        self.register_buffer("prior_mean", torch.zeros(codes - self.residual))
        self.register_buffer("prior_factor", torch.eye(codes - self.residual))

    @property
    def factors(self) -> tuple[Factor, ...]:
        return self.labels.factors

    @property
    def residual(self) -> int:
        """The first code dimension that belongs to no factor."""
        return self.blocks[-1].stop if self.blocks else 0

    def check(self, features: int, block_sizes: list[int] | None, correlation: float | list[float]) -> None:
        sizes = [block.stop - block.start for block in self.blocks]
        if self.residual >= features:
            raise ValueError(
                f"Expected fewer factor dimensions than the {features} latents, got {self.residual} in blocks {sizes}; "
                "use smaller iin.block_sizes or a larger latent."
            )
        if len(self.blocks) != len(self.factors):
            raise ValueError(f"Expected one block size per factor ({len(self.factors)}), got {len(self.blocks)}.")
        needs_labels = self.objective == "faithful" or self.head == "label"
        if needs_labels and block_sizes is not None and self.blocks != self.labels.blocks:
            wanted = [block.stop - block.start for block in self.labels.blocks]
            raise ValueError(
                f"Expected block sizes {wanted}, one component per label dimension, got {sizes}; "
                "only iin.objective=likelihood iin.head=pairs takes others."
            )
        values = [correlation] if isinstance(correlation, (int, float)) else list(correlation)
        if not all(0 <= value < 1 for value in values) or len(values) not in (1, len(self.factors)):
            raise ValueError(f"Expected iin.correlation in [0, 1), one number or one per factor, got {correlation}.")

    @torch.no_grad()
    def start(
        self, mean: Float[Tensor, "n d"], logvar: Float[Tensor, "n d"], labels: Float[Tensor, "n factors"]
    ) -> None:
        """Set from training data what T starts from: units of the latents, label statistics, the linear start."""
        self.labels.fit(labels)
        self.deviation.copy_(posterior_deviation(logvar))
        if isinstance(self.flow, DiffusionFlow):
            return
        if isinstance(self.flow, SpatialFlow):
            fitting = self.linear_start and self.residual == self.labels.dim
            self.flow.initialise(mean, self.labels(labels) if fitting else None)
            return
        linear = torch.diag(1 / mean.std(0).clamp(min=1e-6))
        if self.linear_start and self.factors:
            whitening, effects = within_class_whitening(mean, self.labels(labels))
            # Labels read off whitened latents by least squares, then the directions that no label moves.
            reading = torch.linalg.solve(effects @ effects.T, effects)
            complement = torch.linalg.svd(effects, full_matrices=True)[2][self.labels.dim :]
            linear = torch.cat([reading @ whitening, complement @ whitening])
        self.flow.initialise(mean[:8192], linear, -(linear @ mean.mean(0)))

    def encode(self, latents: Float[Tensor, "batch d"]) -> Float[Tensor, "batch codes"]:
        if isinstance(self.flow, DiffusionFlow):  # in parts: an image takes ten and more passes of a U-Net
            return torch.cat([self.flow(part) for part in latents.split(PART)])
        return self.flow(latents)[0]

    def components(self, latents: Float[Tensor, "batch d"]) -> Float[Tensor, "batch components"]:
        """The codes of the factors, or more; of a diffusion flow without the way to the rest of them."""
        return self.flow.read(latents) if isinstance(self.flow, DiffusionFlow) else self.encode(latents)

    def inverse(self, codes: Float[Tensor, "batch codes"]) -> Float[Tensor, "batch d"]:
        return self.flow.inverse(codes)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
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
            factor = batch["factor"]
            (a, b), (log_det_a, log_det_b) = codes.chunk(2), log_det.chunk(2)
            nll = pair_loss(a, b, log_det_a, log_det_b, self.shared[factor], self.rho[factor])
            terms = {"nll": nll.mean()}
        loss = torch.stack(list(terms.values())).sum()
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # which Lightning sets by setattr
        if (self.global_step + 1) % every == 0:  # a call costs a twentieth of a small step
            self.log_dict({"iin/loss": loss, **{f"iin/{name}": term for name, term in terms.items()}})
        return loss

    def faithful_terms(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        latents = draw(batch["mean"], batch["logvar"])
        codes, log_det = self.flow(latents)
        before = batch["labels"]
        if "target" in batch:  # what the guide said of the mean is far from what a draw of it changes
            after, target = batch["after"], batch["target"] + latents - batch["mean"]
        else:
            assert self.transport is not None, "set `transport` before training"
            after = self.labels.change(before, batch["factor"])
            with torch.no_grad():
                target = self.transport(latents, before, after)
        wanted = pad(self.reach * self.labels(after), codes.shape[1])
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
        """The mean label loss, each label's times how sure it is. A rare value read as the common one cannot be edited
        away: of photographs every value weighs the same.
        """
        known = self.labels.balanced(values) if self.spatial else self.labels.known(values)
        if sure is not None:
            known = known * self.labels.spread(sure)
        return label_loss(components, self.labels(values), known, self.label_deviation).mean()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        kind: Any = Muon if self.optimizer == "muon" else partial(torch.optim.Adam, fused=True)
        if isinstance(self.flow, DiffusionFlow):
            kind = partial(torch.optim.AdamW, weight_decay=READING_DECAY)
        optimizer = kind(self.flow_parameters(), self.learning_rate, betas=self.betas)
        steps = int(self.trainer.estimated_stepping_batches)
        fall = 2 if self.optimizer == "adam" else 1  # Adam has not got far enough by half of the steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / 50, fall * (1 - step / max(1, steps)))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def flow_parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.flow.parameters() if parameter.requires_grad]

    @torch.no_grad()
    def calibrate(self, latents: Float[Tensor, "n d"], labels: Float[Tensor, "n factors"]) -> None:
        """Learn from training data what a value of a factor, and a value of a component, is in codes.

        A factor's value is the class-conditional mean of its block, for a continuous factor a path of straight pieces
        through the conditional means; a component's value v is its own quantile at Φ(v), so that −3 and +2 mean what
        they say. The prior of the residual is a normal fitted to its codes, which a light likelihood leaves narrower
        than the standard one and correlated.
        """
        diffusion = isinstance(self.flow, DiffusionFlow)
        some = latents[:: max(1, len(latents) // MOST_ENCODED)] if diffusion else latents
        codes = torch.cat([self.encode(part) for part in some.split(512 if diffusion else 4096)])
        steps = torch.linspace(0, 1, QUANTILES, device=codes.device)
        self.quantiles.copy_(torch.quantile(codes[:100_000], steps, dim=0))
        residual = codes[:, self.residual :].double()
        centred = residual - residual.mean(0)
        covariance = centred.T @ centred / len(residual)
        ridge = 1e-6 * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
        self.prior_mean.copy_(residual.mean(0))
        self.prior_factor.copy_(torch.linalg.cholesky(covariance + ridge))
        if isinstance(self.flow, DiffusionFlow):
            codes = torch.cat([self.flow.read(part) for part in latents.split(4096)])
        for i, block in enumerate(self.blocks):
            known = ~labels[:, i].isnan()
            values = labels[known, i]
            self.knots[i] = torch.quantile(values[:1_000_000], steps[:: (QUANTILES - 1) // (KNOTS - 1)])
            design = self.design(i, values).double()
            ridge = 1e-9 * len(design) * torch.eye(design.shape[1]).to(design)  # a knot that no row is near
            self.targets[i] = 0
            self.targets[i, : design.shape[1], block] = torch.linalg.solve(
                design.T @ design + ridge, design.T @ codes[known][:, block].double()
            ).float()

    def design(self, factor: int, value: Float[Tensor, " batch"]) -> Float[Tensor, "batch columns"]:
        """What `targets` weighs: a label's embedding and 1; of a continuous value its nearness to the two knots."""
        if self.factors[factor].kind != "continuous":
            embedded = self.labels.embed(factor, value)
            return torch.cat([embedded, torch.ones_like(embedded[:, :1])], 1)
        knots = self.knots[factor]
        upper = torch.searchsorted(knots, value.contiguous()).clamp(1, KNOTS - 1)[:, None]
        below, above = knots[upper - 1], knots[upper]
        position = ((value[:, None] - below) / (above - below).clamp(min=1e-12)).clamp(0, 1)
        return value.new_zeros(len(value), KNOTS).scatter(1, upper, position).scatter(1, upper - 1, 1 - position)

    def target(self, factor: int, value: Float[Tensor, " batch"]) -> Float[Tensor, "batch block"]:
        """The codes that a factor's block has in data of a value."""
        design = self.design(factor, value)
        return design @ self.targets[factor, : design.shape[1], self.blocks[factor]]

    def destination(self, factor: int, value: Float[Tensor, " batch"]) -> Float[Tensor, "batch block"]:
        """The codes that an edit to a value sets: those that it was trained for, at and beyond those of data."""
        return self.reach_of(factor) * self.centre(factor, value)

    def reach_of(self, factor: int) -> float:
        """How far an edit goes that is not read on the way, in distances of the labels."""
        if isinstance(self.flow, DiffusionFlow):
            return UNREAD_REACH
        return self.reach if self.objective == "faithful" else 1.0

    def centre(self, factor: int, value: Float[Tensor, " batch"]) -> Float[Tensor, "batch block"]:
        """Where the codes of data of a value are: at its label where T learnt that."""
        return self.labels.embed(factor, value) if self.objective == "faithful" else self.target(factor, value)

    @torch.no_grad()
    def edit(self, latents: Float[Tensor, "batch d"], factor: int, value: Float[Tensor, " batch"],
             strength: float = 1.0) -> Float[Tensor, "batch d"]:  # fmt: skip
        """The latents with a factor moved to a value; strength 1 is the full way, 0 none of it.

        Of a factor with classes, latents that clearly show the value already stay as they are: their code is less than
        half as far from it as from any other. Under a diffusion flow those that are surely read as the value stay, and
        an edit goes as far as it takes until the edited latents are read as it (`DiffusionFlow.reach`).
        """
        if isinstance(self.flow, DiffusionFlow):
            return self.towards(latents, factor, self.centre(factor, value), strength)
        codes, block = self.encode(latents), self.blocks[factor]
        moved = torch.lerp(codes[:, block], self.destination(factor, value), strength)
        if self.factors[factor].kind != "continuous":
            distance = self.distances(codes, factor)
            own = distance.gather(1, value.long()[:, None])
            others = distance.scatter(1, value.long()[:, None], torch.inf).amin(1, keepdim=True)
            moved = torch.where(own < others / 2, codes[:, block], moved)
        codes[:, block] = moved
        return self.inverse(codes)

    def towards(
        self, latents: Float[Tensor, "batch d"], factor: int, goal: Float[Tensor, "batch block"], strength: float
    ) -> Float[Tensor, "batch d"]:
        """The latents of a diffusion flow with a factor moved to an embedding, as `edit` does it."""
        assert isinstance(self.flow, DiffusionFlow)
        read, edited = self.flow.read(latents)[:, self.blocks[factor]], latents.clone()
        moves = torch.ones_like(read[:, 0], dtype=torch.bool)
        if self.factors[factor].kind != "continuous":
            moves = (read * goal).sum(1) < SURE * goal.square().sum(1)
        if moves.any():
            codes, block = self.encode(latents[moves]), self.blocks[factor]
            far = self.flow.reach(codes, factor, goal[moves])
            codes[:, block] = torch.lerp(codes[:, block], far, strength)
            edited[moves] = self.inverse(codes)
        return edited

    def distances(self, codes: Float[Tensor, "batch d"], factor: int) -> Float[Tensor, "batch classes"]:
        """From the codes of a factor with classes to where those of each class are."""
        classes = torch.arange(len(self.factors[factor].values), device=codes.device, dtype=codes.dtype)
        return torch.cdist(codes[:, self.blocks[factor]], self.centre(factor, classes))

    @torch.no_grad()
    def read(self, latents: Float[Tensor, "batch d"]) -> Float[Tensor, "batch factors"]:
        """The value of each factor, in its own unit, whose codes are nearest; NaN if a diffusion flow is not sure."""
        codes, columns = self.components(latents), []
        for i, factor in enumerate(self.factors):
            if factor.kind != "continuous":
                column = self.distances(codes, i).argmin(1).to(codes.dtype)
                if isinstance(self.flow, DiffusionFlow):
                    goal = self.centre(i, column)
                    sure = (codes[:, self.blocks[i]] * goal).sum(1) >= SURE * goal.square().sum(1)
                    column = torch.where(sure, column, torch.nan)
                columns.append(column)
            else:
                knots = torch.linspace(float(self.labels.low[i]), float(self.labels.high[i]), 257).to(codes)
                distance = torch.cdist(codes[:, self.blocks[i]], self.centre(i, knots))
                columns.append(knots[distance.argmin(1)])
        return torch.stack(columns, 1)

    @torch.no_grad()
    def set_component(
        self, latents: Float[Tensor, "batch d"], component: int, value: float
    ) -> Float[Tensor, "batch d"]:
        """The latents with one component at the quantile Φ(value) of its own distribution over training data.

        A factor's component under a diffusion flow is set to `UNREAD_REACH` times that, as far as an edit has to go.
        """
        codes, reach = self.encode(latents), 1.0
        if isinstance(self.flow, DiffusionFlow) and component < self.residual:
            reach = self.reach_of(next(i for i, block in enumerate(self.blocks) if component < block.stop))
        position = torch.special.ndtr(torch.tensor(float(value))) * (QUANTILES - 1)
        low = int(position.floor().clamp(max=QUANTILES - 2))
        below, above = self.quantiles[low, component], self.quantiles[low + 1, component]
        codes[:, component] = reach * torch.lerp(below, above, position.to(codes) - low)
        return self.inverse(codes)

    @torch.no_grad()
    def swap(
        self, latents: Float[Tensor, "batch d"], donors: Float[Tensor, "batch d"], factor: int
    ) -> Float[Tensor, "batch d"]:
        """The latents with a factor's block taken from the donors."""
        if isinstance(self.flow, DiffusionFlow):
            return self.towards(latents, factor, self.flow.read(donors)[:, self.blocks[factor]], 1.0)
        codes = self.encode(latents)
        codes[:, self.blocks[factor]] = self.encode(donors)[:, self.blocks[factor]]
        return self.inverse(codes)

    @torch.no_grad()
    def sample(
        self, n: int, values: dict[int, float], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n d"]:
        """Latents drawn from the prior; a factor with a chosen value is where an edit sets it, others as in data."""
        noise = torch.randn(n, len(self.prior_mean), generator=generator).to(self.quantiles)
        row = torch.randint(QUANTILES, (n, self.residual), generator=generator).to(self.quantiles.device)
        factors = self.quantiles[:, : self.residual].gather(0, row)
        codes = torch.cat([factors, self.prior_mean + noise @ self.prior_factor.T], 1)
        for factor, value in values.items():
            codes[:, self.blocks[factor]] = self.destination(factor, codes.new_full((n,), value))
        return self.inverse(codes)


def blocks_of(sizes: list[int]) -> list[slice]:
    ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
    return [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]


def pad(labels: Float[Tensor, "batch label"], features: int) -> Float[Tensor, "batch d"]:
    """Label embeddings as codes: the residual, which they say nothing of, at zero."""
    return torch.nn.functional.pad(labels, (0, features - labels.shape[1]))
