"""Deep embedded clustering, and improved deep embedded clustering, which goes on reconstructing.

DEC: Xie, Girshick, Farhadi (2016), https://arxiv.org/abs/1511.06335, and the authors' https://github.com/piiswrong/dec.
IDEC: Guo, Gao, Liu, Yin (IJCAI 2017), https://github.com/XifengGuo/IDEC. Symbols: z_i a code, μ_j a cluster's centre,
q_ij the soft assignment, p_ij its target, f_j = Σ_i q_ij a cluster's frequency over all rows.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from models import UserError
from models.autoencoder import CHUNK, Autoencoder, optimization
from models.batches import inputs_of

__all__ = ["DEC", "clustering_loss", "kmeans", "soft_assignment", "target_distribution"]


def soft_assignment(
    features: Float[Tensor, "n d"], centers: Float[Tensor, "k d"], alpha: float = 1.0
) -> Float[Tensor, "n k"]:
    """q_ij ∝ (1 + ‖z_i − μ_j‖² / α)^(−(α + 1) / 2), rows sum to 1: Student's t (the paper's equation 1).

    In the precision of the features, of half precision in float32.
    """
    precision = torch.promote_types(features.dtype, torch.float32)
    # Not ‖z‖² + ‖μ‖² − 2zμ, whose rounding error grows with the distance from the origin.
    mode = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(features.to(precision), centers.to(precision), compute_mode=mode)
    return torch.softmax(-(alpha + 1) / 2 * torch.log1p(distances.square() / alpha), 1)


def target_distribution(
    assignment: Float[Tensor, "n k"], frequencies: Float[Tensor, " k"] | None = None
) -> Float[Tensor, "n k"]:
    """p_ij ∝ q_ij² / f_j, rows sum to 1 (equation 3). What no row is in, stays at 0.

    f_j is the sum over the rows given, or `frequencies` where these are only some of the rows.
    """
    frequency = assignment.sum(0) if frequencies is None else frequencies
    weight = assignment * (assignment / frequency.clamp_min(torch.finfo(assignment.dtype).tiny))
    return weight / weight.sum(1, keepdim=True)


def clustering_loss(target: Float[Tensor, "n k"], assignment: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """KL(P ‖ Q) = Σ_j p_ij log(p_ij / q_ij), mean over rows, in nats (equation 2)."""
    log_assignment = assignment.clamp_min(torch.finfo(assignment.dtype).tiny).log()
    return nn.functional.kl_div(log_assignment, target, reduction="batchmean")


def kmeans(codes: Float[Tensor, "n d"], clusters: int, seed: int) -> Float[Tensor, "clusters d"]:
    """Centres of k-means, the best of 20 starts: of a single one it ends in a poor local minimum too often.

    Raises:
        UserError: more clusters than rows, or than different rows.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    if clusters > len(codes):
        raise UserError(f"Expected at most as many clusters as the {len(codes)} rows, got {clusters}: set a lower k.")
    # Threads add up their sums in whichever order they end; one thread gives the same centres every time.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(clusters, n_init=20, random_state=seed).fit(codes.cpu().numpy())
    distinct = len(set(found.labels_.tolist()))
    if distinct < clusters:
        raise UserError(f"Expected codes that make {clusters} clusters, got only {distinct} different ones: set a "
                        "lower k, or look whether the features are all the same.")  # fmt: skip
    return torch.as_tensor(found.cluster_centers_, dtype=codes.dtype, device=codes.device)


class DEC(pl.LightningModule):
    """Encoder and centres that are drawn to a target, sharper than what they say themselves of all rows.

    An epoch is an update interval: before it, P is computed from Q of all rows, and stays as it is while the epoch
    trains. Training stops where fewer than `tolerance` of the rows have changed their cluster since the last update.
    Before training call `start`.

    Arguments:
        features, hidden, code: of the auto-encoder.
        clusters: how many.
        alpha: degrees of freedom of Student's t.
        reconstruction_weight: 0 for DEC, whose decoder is kept but not trained, 1 for IDEC.
        clustering_weight: 1 for DEC, .1 for IDEC.
        tolerance: a share of the rows.
        learning_rate, momentum: of SGD.

    Raises:
        UserError: fewer than two clusters.
    """

    stopped: Tensor
    updates: Tensor
    changed: Tensor

    def __init__(
        self,
        features: int,
        clusters: int,
        hidden: Sequence[int] = (500, 500, 2000),
        code: int = 10,
        alpha: float = 1.0,
        reconstruction_weight: float = 0.0,
        clustering_weight: float = 1.0,
        tolerance: float = 1e-3,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        if clusters < 2:
            raise UserError(f"Expected at least 2 clusters, got {clusters}: set a higher k.")
        hidden = list(hidden)
        self.save_hyperparameters()
        self.alpha, self.tolerance = alpha, tolerance
        self.reconstruction_weight, self.clustering_weight = reconstruction_weight, clustering_weight
        self.autoencoder = Autoencoder(features, hidden, code)
        self.centers = nn.Parameter(torch.zeros(clusters, code))
        self.register_buffer("stopped", torch.tensor(False))
        self.register_buffer("updates", torch.tensor(0))
        self.register_buffer("changed", torch.tensor(1.0))  # share of the rows, at the last update
        self.rows: Tensor | None = None
        self.labels: Tensor | None = None  # of the rows, at the last update
        self.target: Tensor | None = None
        self.frequencies: Tensor | None = None  # Σ_i q_ij of all rows, at the last update
        self.spread: float | None = None  # of the codes that were assigned last

    @property
    def stop_reason(self) -> str:
        """`tolerance`, or `steps` where these ran out (or training goes on)."""
        return "tolerance" if self.stopped else "steps"

    def details(self) -> dict[str, float]:
        """How the training ended; `stop_reason` is 1 for the tolerance, 0 for the steps.

        Once rows have been assigned also `center_separation`, the smallest distance of two centres over the codes'
        root mean square distance from their mean: near 0 where centres have merged or the codes have left them.
        """
        smallest = float(torch.pdist(self.centers.detach()).min())
        details = {
            "stop_reason": float(self.stopped),
            "updates": float(self.updates),
            "changed": float(self.changed),
            "smallest_center_distance": smallest,
        }
        return details | ({} if self.spread is None else {"center_separation": smallest / max(self.spread, 1e-12)})

    @torch.no_grad()
    def start(self, autoencoder: Autoencoder, features: Float[Tensor, "n features"], seed: int) -> None:
        """Copy the auto-encoder, put the centres where k-means finds them in the codes of all rows, attach these.

        Raises:
            UserError: an auto-encoder of other widths; more clusters than (different) rows.
        """
        if autoencoder.widths != self.autoencoder.widths:
            raise UserError(f"Expected an auto-encoder of widths {self.autoencoder.widths}, got "
                            f"{autoencoder.widths}: train one with these, or set autoencoder.hidden.")  # fmt: skip
        self.autoencoder.load_state_dict(autoencoder.state_dict())
        self.centers.copy_(kmeans(autoencoder.embed(features), len(self.centers), seed))
        self.labels = None
        for state, value in ((self.stopped, False), (self.updates, 0), (self.changed, 1.0)):
            state.fill_(value)
        self.attach(features)

    def attach(self, features: Float[Tensor, "n features"]) -> None:
        """Keep, outside the state, the rows that are clustered: what `row` in a batch counts."""
        self.rows = features

    def encode(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch code"]:
        return self.autoencoder.encode(features)

    @torch.no_grad()
    def assign(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n clusters"]:
        """Soft assignment of any number of rows, wherever they lie, on the module's device."""
        codes = torch.cat([self.encode(part.to(self.device)) for part in features.split(CHUNK)])
        self.spread = float((codes - codes.mean(0)).square().sum(1).mean().sqrt())
        return torch.cat([soft_assignment(part, self.centers, self.alpha) for part in codes.split(CHUNK)])

    def on_train_epoch_start(self) -> None:
        if self.rows is None:
            raise RuntimeError("Call start or attach before training.")
        with self.trainer.precision_plugin.forward_context():  # as the steps see the rows, and as fast
            assignment = self.assign(self.rows)
        before, self.labels = self.labels, assignment.argmax(1)
        if before is not None:
            self.changed.copy_((self.labels != before.to(self.device)).float().mean())
        self.log("dec/changed", self.changed)
        if before is not None and self.changed < self.tolerance:
            self.stopped.fill_(True)
            self.trainer.should_stop = True  # before its first batch: the epoch trains nothing
        else:
            self.target, self.frequencies = target_distribution(assignment), assignment.sum(0)
            self.updates += 1

    def terms(self, batch: Any) -> dict[str, Float[Tensor, ""]]:
        """The weighed parts of the loss.

        A batch that has `row` numbers gets the targets of the last update. Of one that has none, as a user's own
        loader gives it, the target is that of its assignment now, with the frequencies of all rows.
        """
        features = inputs_of(batch, "features")
        codes = self.encode(features)
        assignment = soft_assignment(codes, self.centers, self.alpha)
        if isinstance(batch, Mapping) and "row" in batch:
            target = cast(Tensor, self.target)[batch["row"]]
        else:
            target = target_distribution(assignment.detach(), cast(Tensor, self.frequencies))
        terms = {"kl": self.clustering_weight * clustering_loss(target, assignment)}
        if self.reconstruction_weight:
            mse = self.autoencoder.reconstruction_loss(features, codes)
            terms["reconstruction"] = self.reconstruction_weight * mse
        return terms

    def training_step(self, batch: Any, _: int) -> Tensor:
        terms = self.terms(batch)
        loss = torch.stack(list(terms.values())).sum()
        self.log_dict({"dec/loss": loss, **{f"dec/{name}": term for name, term in terms.items()}})
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        trained = self.autoencoder if self.reconstruction_weight else self.autoencoder.encoder
        parameters = [*trained.parameters(), self.centers]
        return optimization(parameters, "sgd", self.hparams["learning_rate"], self.hparams["momentum"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["labels"] = self.labels

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.labels = checkpoint.get("labels")
