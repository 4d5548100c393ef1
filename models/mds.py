"""Neural multidimensional scaling: a map g to fewer dimensions that keeps distances, or only their order.

Isometric: e(g(x_i), g(x_j)) = d(x_i, x_j) for pairs (Kruskal 1964, https://doi.org/10.1007/BF02289565; by a network:
Pai, Talmon, Kimmel 2017, https://arxiv.org/abs/1711.06011). Isotonic: d(x_i, x_j) < d(x_k, x_l) implies
e(g(x_i), g(x_j)) < e(g(x_k), g(x_l)) for quadruplets (Agarwal et al. 2007, generalized non-metric MDS; Terada and von
Luxburg 2014, soft ordinal embedding). d and e are Euclidean, between rows or between rows scaled to unit length, where
d² = 2 − 2 cos.

Both d and g take rows relative to the mean of their kind: the offset between texts and images does not tell which of
them belong together, and keeping it would take a dimension. For a linear g, and data that are symmetric about their
axes, the isometric optimum lies in the subspace of the principal components. g is initialised there, so PCA is the
baseline.
"""

from collections.abc import Sequence
from typing import Literal

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import normalize

from models import Count, NotNegative, Positive, UserError, check_choice
from models.autoencoder import fully_connected
from models.reduction import METRICS, fit_reduction, half_cosine, squared_distances

__all__ = ["NeuralMDS", "distances", "order_loss", "stress"]

FLOOR = 1e-9  # smallest squared distance, because the gradient of the root is infinite at 0


def distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Return Euclidean distances, with a gradient that is finite everywhere.

    >>> distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[5.]])
    """
    return squared_distances(x, y).clamp_min(FLOOR).sqrt()


def stress(target: Float[Tensor, "*pairs"], mapped: Float[Tensor, "*pairs"]) -> Float[Tensor, ""]:
    """Return Kruskal's normalised raw stress Σ (d − e)² / Σ d² of distances d (target) and e (mapped).

    It is 0 if all distances are kept.

    >>> stress(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
    tensor(0.2000)
    """
    return (target - mapped).square().sum() / target.square().sum()


def order_loss(target: Float[Tensor, "quadruplets 2"], mapped: Float[Tensor, "quadruplets 2"],
               margin: float) -> Float[Tensor, ""]:  # fmt: skip
    """Return the mean of max(0, m + e_near − e_far) over quadruplets, in units of the mean e.

    The two pairs of a quadruplet are named near and far by their distances d (target); e are the mapped distances.
    Quadruplets with equal d count as 0. The loss is 0 if the order is kept everywhere by the margin m.

    >>> order_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 3.0]]), margin=0.05)
    tensor(0.)
    """
    sign = (target[:, 1] - target[:, 0]).sign()
    gap = sign * (mapped[:, 1] - mapped[:, 0]) / mapped.mean()
    return (sign.abs() * (margin - gap).clamp_min(0)).mean()


class NeuralMDS(pl.LightningModule):
    """The map g(x) = W (x − mean) + h(x − mean), for one or two kinds of rows.

    W is initialised with the principal axes, and the network h to 0. Call `start` with the training rows before
    training. Batches are {"x": (b, d)}, or for two kinds {"x": (b, d), "y": (b, d)}.

    Arguments:
        features: dimension of the rows.
        width: dimension of the codes.
        kinds: 1, or 2 for texts and images.
        objective: isometric or isotonic.
        pairs: pairs of rows of a batch: `all`, whatever their kind; `cross`, a row of one kind with one of the other;
            `knn`, a row with its nearest neighbours in the batch, for two kinds with those of the other kind. A
            quadruplet is two pairs; with `knn` the second one is the same row with any other row.
        shared: use one map for both kinds, or else one for each.
        metric: metric of d and e: euclidean, or cosine, for which rows and codes are scaled to unit length first.
        hidden: widths of the hidden layers of h; with an empty list g is linear.
        initial: initialisation of W: `pca` for principal axes, or `random`.
        quadruplets: number of quadruplets drawn per batch.
        margin: margin of `order_loss`.
        neighbours: neighbours per row with pairs=knn.
        learning_rate: initial learning rate of Adam, which falls to 0 by a half cosine.

    Raises:
        UserError: a choice is unknown, the width is not between 1 and `features`, cross pairs are requested for one
            kind, or the number of quadruplets, neighbours or hidden units is below 1.
    """

    mean: Tensor

    def __init__(
        self,
        features: int,
        width: int,
        kinds: int = 1,
        objective: Literal["isometric", "isotonic"] = "isometric",
        pairs: Literal["all", "cross", "knn"] = "all",
        shared: bool = True,
        metric: Literal["cosine", "euclidean"] = "euclidean",
        hidden: Sequence[Count] = (512,),
        initial: Literal["pca", "random"] = "pca",
        quadruplets: Count = 16_384,
        margin: NotNegative = 0.05,
        neighbours: Count = 10,
        learning_rate: Positive = 1e-3,
    ) -> None:
        super().__init__()
        check_choice("mds.objective", objective, ("isometric", "isotonic"))
        check_choice("mds.pairs", pairs, ("all", "cross", "knn"))
        check_choice("mds.initial", initial, ("pca", "random"))
        check_choice("mds.metric", metric, METRICS)
        if not 1 <= width <= features:
            raise UserError(f"Expected from 1 to {features} dimensions, as the rows have, got {width}: choose fewer.")
        if pairs == "cross" and kinds < 2:
            raise UserError("Expected pairs of texts and images for mds.pairs=cross, got one kind: choose all or knn.")
        if quadruplets < 1 or neighbours < 1:
            raise UserError("Expected mds.quadruplets and mds.neighbours of at least 1, got "
                            f"{quadruplets} and {neighbours}: choose more.")  # fmt: skip
        hidden = list(hidden)
        if min(hidden, default=1) < 1:
            raise UserError(f"Expected mds.hidden to be widths of at least 1, got {hidden}: [] is none.")
        self.save_hyperparameters()
        self.metric = metric
        maps = 1 if shared else kinds
        self.linear = nn.ModuleList(nn.Linear(features, width, bias=False) for _ in range(maps))
        self.network = nn.ModuleList(fully_connected([features, *hidden, width]) for _ in range(maps if hidden else 0))
        for network in self.network:
            nn.init.zeros_(network[-1].weight)  # type: ignore[index]  # a Sequential
        self.register_buffer("mean", torch.zeros(kinds, features))

    @torch.no_grad()
    def start(self, x: Float[Tensor, "n d"], y: Float[Tensor, "n d"] | None = None) -> None:
        """Set the mean of each kind, and initialise W with the principal axes around the means."""
        fitted = fit_reduction("centred_pca", x, y)
        self.mean.copy_(fitted.mean)
        if self.hparams["initial"] == "pca":
            for linear in self.linear:
                axes = fitted.weight[0, :, : self.hparams["width"]]
                linear.weight.copy_(axes.T)  # type: ignore[operator]  # a Linear

    def forward(self, rows: Float[Tensor, "n d"], kind: int = 0) -> Float[Tensor, "n width"]:
        return self.mapped(rows - self.mean[kind], kind)

    def mapped(self, centred: Float[Tensor, "n d"], kind: int) -> Float[Tensor, "n width"]:
        """Map rows of a kind whose mean has been subtracted."""
        index = min(kind, len(self.linear) - 1)
        linear = self.linear[index](centred)
        return linear + self.network[index](centred) if self.network else linear

    def select_pairs(self, d: Float[Tensor, "n m"], one_kind: bool) -> tuple[Int64[Tensor, " q"], Int64[Tensor, " q"]]:
        """Return the pairs (i, j) of a batch that enter the loss, given all distances d within or between kinds."""
        n, m = d.shape
        k = self.hparams["neighbours"]
        if self.hparams["pairs"] != "knn":
            every = torch.ones_like(d, dtype=torch.bool)
            return (every.triu(1) if one_kind else every).nonzero(as_tuple=True)  # type: ignore[return-value]
        if one_kind:
            itself = torch.eye(n, dtype=torch.bool, device=d.device)
            near = d.masked_fill(itself, torch.inf).topk(min(k, n - 1), largest=False).indices
            return torch.arange(n, device=near.device).repeat_interleave(near.shape[1]), near.flatten()
        of_rows, of_columns = (each.topk(min(k, each.shape[1]), largest=False).indices for each in (d, d.T))
        rows = torch.arange(n, device=d.device).repeat_interleave(of_rows.shape[1])
        columns = torch.arange(m, device=d.device).repeat_interleave(of_columns.shape[1])
        return torch.cat([rows, of_columns.flatten()]), torch.cat([of_rows.flatten(), columns])

    def terms(self, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
        """Return the loss of a batch."""
        rows = [batch[name] - self.mean[kind] for kind, name in enumerate("xy") if name in batch]
        codes = [self.mapped(part, kind) for kind, part in enumerate(rows)]
        if self.hparams["pairs"] == "all":
            rows, codes = [torch.cat(rows)], [torch.cat(codes)]
        if self.metric == "cosine":
            rows, codes = ([normalize(part, dim=1) for part in parts] for parts in (rows, codes))
        target, mapped = (distances(parts[0], parts[-1]) for parts in (rows, codes))
        isometric = self.hparams["objective"] == "isometric"
        if isometric and self.hparams["pairs"] != "knn":
            return stress(target, mapped)  # each pair counts twice; a row with itself adds nothing
        i, j = self.select_pairs(target, len(rows) == 1)
        if isometric:
            return stress(target[i, j], mapped[i, j])
        first, second = torch.randint(len(i), (2, self.hparams["quadruplets"]), device=i.device)
        k, m = i[second], j[second]
        if self.hparams["pairs"] == "knn":  # Two distant pairs would tell little about who is a neighbour of whom.
            k, m = i[first], torch.randint_like(second, target.shape[1])
            m = torch.where((m == k) & (len(rows) == 1), j[first], m)  # a row's distance to itself becomes a tie
        quadruplets = torch.stack([i[first], k], 1), torch.stack([j[first], m], 1)
        return order_loss(target[quadruplets], mapped[quadruplets], self.hparams["margin"])

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        loss = self.terms(batch)
        self.log(f"{self.hparams['objective']}/{self.hparams['width']}", loss)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        steps = int(self.trainer.estimated_stepping_batches)
        return half_cosine(self.parameters(), self.hparams["learning_rate"], steps)
