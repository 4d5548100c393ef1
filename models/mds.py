"""Neural multidimensional scaling: a map g to fewer dimensions that keeps distances, or only their order.

Isometric: e(g(x_i), g(x_j)) = d(x_i, x_j) for pairs (Kruskal 1964, https://doi.org/10.1007/BF02289565; by a network:
Pai, Talmon, Kimmel 2017, https://arxiv.org/abs/1711.06011). Isotonic: d(x_i, x_j) < d(x_k, x_l) makes
e(g(x_i), g(x_j)) < e(g(x_k), g(x_l)) for quadruplets (Agarwal et al. 2007, generalized non-metric MDS; Terada and von
Luxburg 2014, soft ordinal embedding). d and e are Euclidean, either between rows as they are or between rows of unit
length, where d² = 2 − 2 cos.

Rows are around the mean of their kind, in d as in g: the offset between texts and images says nothing of which belong
together, and keeping it would take a dimension. With a linear g the isometric optimum of data that are symmetric about
their axes lies in the subspace of the principal components, which is where g starts: PCA is what it has to beat.
"""

from collections.abc import Sequence
from typing import Literal

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import normalize

from models import UserError, check_choice
from models.autoencoder import fully_connected
from models.reduction import METRICS, fit_reduction, half_cosine, squared_distances

__all__ = ["NeuralMDS", "distances", "order_loss", "stress"]

FLOOR = 1e-9  # of squared distances, whose root has no gradient at 0


def distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Euclidean, with a gradient that is finite everywhere."""
    return squared_distances(x, y).clamp_min(FLOOR).sqrt()


def stress(wanted: Float[Tensor, "*pairs"], found: Float[Tensor, "*pairs"]) -> Float[Tensor, ""]:
    """Σ (d − e)² / Σ d², Kruskal's normalised raw stress: 0 where all distances are kept."""
    return (wanted - found).square().sum() / wanted.square().sum()


def order_loss(wanted: Float[Tensor, "quadruplets 2"], found: Float[Tensor, "quadruplets 2"],
               margin: float) -> Float[Tensor, ""]:  # fmt: skip
    """Mean of max(0, m + e_near − e_far), near and far by the order of d, in units of the mean e.

    0 where all agree by the margin; ties of d say nothing.
    """
    sign = (wanted[:, 1] - wanted[:, 0]).sign()
    gap = sign * (found[:, 1] - found[:, 0]) / found.mean()
    return (sign.abs() * (margin - gap).clamp_min(0)).mean()


class NeuralMDS(pl.LightningModule):
    """g(x) = W (x − mean) + h(x − mean), of one kind of rows or of two.

    W starts as the principal axes and h, a network, at 0. Call `start` with the training rows before training on
    batches {"x": (b, d)} or, of two kinds, {"x": (b, d), "y": (b, d)}.

    Arguments:
        features: of a row.
        width: of the map.
        kinds: 1, or 2 for texts and images.
        objective: isometric or isotonic.
        pairs: all of a batch's rows of whatever kind; cross, of one kind with the other; knn, rows with those that are
            nearest within the batch, of two kinds with the nearest of the other kind. A quadruplet is two pairs; with
            knn the second one is of the same row with any other.
        shared: one map for both kinds, or one for each.
        metric: of d and e: euclidean, or cosine, which puts rows and codes at unit length first.
        hidden: widths of h's layers; none leaves g linear.
        initial: of W: principal axes, pca; or random.
        quadruplets: drawn in a batch.
        margin: of `order_loss`.
        neighbours: of a row, with pairs=knn.
        learning_rate: of Adam, falling to 0 by a half cosine.

    Raises:
        UserError: an unknown choice; a width that the rows do not have; cross pairs of one kind; no quadruplet or
            neighbour.
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
        hidden: Sequence[int] = (512,),
        initial: Literal["pca", "random"] = "pca",
        quadruplets: int = 16_384,
        margin: float = 0.05,
        neighbours: int = 10,
        learning_rate: float = 1e-3,
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
        """Take the mean of each kind, and the principal axes around them."""
        fitted = fit_reduction("centred_pca", x, y)
        self.mean.copy_(fitted.mean)
        if self.hparams["initial"] == "pca":
            for linear in self.linear:
                axes = fitted.weight[0, :, : self.hparams["width"]]
                linear.weight.copy_(axes.T)  # type: ignore[operator]  # a Linear

    def forward(self, rows: Float[Tensor, "n d"], kind: int = 0) -> Float[Tensor, "n width"]:
        return self.mapped(rows - self.mean[kind], kind)

    def mapped(self, centred: Float[Tensor, "n d"], kind: int) -> Float[Tensor, "n width"]:
        place = min(kind, len(self.linear) - 1)
        linear = self.linear[place](centred)
        return linear + self.network[place](centred) if self.network else linear

    def chosen(self, wanted: Float[Tensor, "n m"], one_kind: bool) -> tuple[Int64[Tensor, " q"], Int64[Tensor, " q"]]:
        """The pairs (i, j) of a batch that the loss is of, from all distances within one kind or between two."""
        n, m = wanted.shape
        k = self.hparams["neighbours"]
        if self.hparams["pairs"] != "knn":
            inside = torch.ones_like(wanted, dtype=torch.bool)
            return (inside.triu(1) if one_kind else inside).nonzero(as_tuple=True)  # type: ignore[return-value]
        if one_kind:
            itself = torch.eye(n, dtype=torch.bool, device=wanted.device)
            near = wanted.masked_fill(itself, torch.inf).topk(min(k, n - 1), largest=False).indices
            return torch.arange(n, device=near.device).repeat_interleave(near.shape[1]), near.flatten()
        of_rows, of_columns = (d.topk(min(k, d.shape[1]), largest=False).indices for d in (wanted, wanted.T))
        rows = torch.arange(n, device=wanted.device).repeat_interleave(of_rows.shape[1])
        columns = torch.arange(m, device=wanted.device).repeat_interleave(of_columns.shape[1])
        return torch.cat([rows, of_columns.flatten()]), torch.cat([of_rows.flatten(), columns])

    def terms(self, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
        """The loss of a batch."""
        rows = [batch[name] - self.mean[kind] for kind, name in enumerate("xy") if name in batch]
        codes = [self.mapped(part, kind) for kind, part in enumerate(rows)]
        if self.hparams["pairs"] == "all":
            rows, codes = [torch.cat(rows)], [torch.cat(codes)]
        if self.metric == "cosine":
            rows, codes = ([normalize(part, dim=1) for part in parts] for parts in (rows, codes))
        wanted, found = (distances(parts[0], parts[-1]) for parts in (rows, codes))
        isometric = self.hparams["objective"] == "isometric"
        if isometric and self.hparams["pairs"] != "knn":
            return stress(wanted, found)  # each pair twice, and a row with itself, which is no error
        i, j = self.chosen(wanted, len(rows) == 1)
        if isometric:
            return stress(wanted[i, j], found[i, j])
        first, second = torch.randint(len(i), (2, self.hparams["quadruplets"]), device=i.device)
        k, m = i[second], j[second]
        if self.hparams["pairs"] == "knn":  # who is next to whom is what two far pairs say little of
            k, m = i[first], torch.randint_like(second, wanted.shape[1])
            m = torch.where((m == k) & (len(rows) == 1), j[first], m)  # a row's distance to itself: made a tie
        place = torch.stack([i[first], k], 1), torch.stack([j[first], m], 1)
        return order_loss(wanted[place], found[place], self.hparams["margin"])

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        loss = self.terms(batch)
        self.log(f"{self.hparams['objective']}/{self.hparams['width']}", loss)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        steps = int(self.trainer.estimated_stepping_batches)
        return half_cosine(self.parameters(), self.hparams["learning_rate"], steps)
