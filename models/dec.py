"""Deep embedded clustering (DEC), and improved DEC, which keeps the reconstruction loss while it clusters.

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

from models import Count, Fraction, NotNegative, Positive, Share, UserError, check_whole
from models.autoencoder import CHUNK, Autoencoder, optimization
from models.batches import inputs_of

__all__ = ["DEC", "clustering_loss", "kmeans", "soft_assignment", "target_distribution"]


def soft_assignment(
    features: Float[Tensor, "n d"], centers: Float[Tensor, "k d"], alpha: float = 1.0
) -> Float[Tensor, "n k"]:
    """Return q_ij ∝ (1 + ‖z_i − μ_j‖² / α)^(−(α + 1) / 2), whose rows sum to 1: Student's t (equation 1).

    Features of half precision are converted to float32.

    >>> soft_assignment(torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0]]))
    tensor([[0.6667, 0.3333]])
    """
    precision = torch.promote_types(features.dtype, torch.float32)
    # The expansion ‖z‖² + ‖μ‖² − 2zμ would have a rounding error that grows with the distance from the origin.
    mode = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(features.to(precision), centers.to(precision), compute_mode=mode)
    return torch.softmax(-(alpha + 1) / 2 * torch.log1p(distances.square() / alpha), 1)


def target_distribution(
    assignment: Float[Tensor, "n k"], frequencies: Float[Tensor, " k"] | None = None
) -> Float[Tensor, "n k"]:
    """Return p_ij ∝ q_ij² / f_j, whose rows sum to 1 (equation 3); empty clusters stay at 0.

    f_j is the sum over the given rows, or `frequencies` if these are only a part of all rows.

    >>> target_distribution(torch.tensor([[0.8, 0.2], [0.4, 0.6]]))
    tensor([[0.9143, 0.0857],
            [0.2286, 0.7714]])
    """
    frequency = assignment.sum(0) if frequencies is None else frequencies
    weight = assignment * (assignment / frequency.clamp_min(torch.finfo(assignment.dtype).tiny))
    return weight / weight.sum(1, keepdim=True)


def clustering_loss(target: Float[Tensor, "n k"], assignment: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Return KL(P ‖ Q) = Σ_j p_ij log(p_ij / q_ij), averaged over rows, in nats (equation 2).

    >>> clustering_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]))
    tensor(0.6931)
    """
    log_assignment = assignment.clamp_min(torch.finfo(assignment.dtype).tiny).log()
    return nn.functional.kl_div(log_assignment, target, reduction="batchmean")


def kmeans(codes: Float[Tensor, "n d"], clusters: int, seed: int) -> Float[Tensor, "clusters d"]:
    """Return the centres of k-means, the best of 20 starts, because a single one often ends in a poor local minimum.

    Raises:
        UserError: there are more clusters than rows, or than different rows.

    >>> kmeans(torch.tensor([[0.0], [0.0], [4.0]]), 2, seed=0).sort(0).values
    tensor([[0.],
            [4.]])
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    if clusters > len(codes):
        raise UserError(f"Expected at most as many clusters as the {len(codes)} rows, got {clusters}: set a lower k.")
    # Several threads add their sums in a random order; a single thread gives the same centres every time.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(clusters, n_init=20, random_state=seed).fit(codes.cpu().numpy())
    distinct = len(set(found.labels_.tolist()))
    if distinct < clusters:
        raise UserError(f"Expected codes that make {clusters} clusters, got only {distinct} different ones: set a "
                        "lower k, or look whether the features are all the same.")  # fmt: skip
    return torch.as_tensor(found.cluster_centers_, dtype=codes.dtype, device=codes.device)


class DEC(pl.LightningModule):
    """An encoder and cluster centres, trained towards a target P that sharpens their own assignment Q.

    P is computed from Q of all rows before the first epoch that starts `interval` steps or more after the last update,
    and is fixed until the next one. Training stops when fewer than `tolerance` of the rows have changed their cluster
    since the last update. Call `start` before training.

    Arguments:
        features, hidden, code: widths of the auto-encoder.
        clusters: number of clusters.
        alpha: degrees of freedom of Student's t.
        reconstruction_weight: 0 for DEC, whose decoder is kept but not trained, 1 for IDEC.
        clustering_weight: 1 for DEC, .1 for IDEC.
        tolerance: share of the rows.
        interval: smallest number of steps between updates. After few steps hardly a row has changed its cluster, so a
            short epoch of an own loader must not be one.
        learning_rate, momentum: options of SGD.

    Raises:
        UserError: there are fewer than two clusters.
    """

    stopped: Tensor
    updates: Tensor
    changed: Tensor

    def __init__(
        self,
        features: int,
        clusters: int,
        hidden: Sequence[Count] = (500, 500, 2000),
        code: Count = 10,
        alpha: Positive = 1.0,
        reconstruction_weight: NotNegative = 0.0,
        clustering_weight: NotNegative = 1.0,
        tolerance: Share = 1e-3,
        learning_rate: Positive = 0.01,
        momentum: Fraction = 0.9,
        interval: Count = 140,
    ) -> None:
        super().__init__()
        check_whole("trainer.dec.interval", interval, 1)
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
        self.register_buffer("changed", torch.tensor(1.0))  # share of the rows that changed at the last update
        self.rows: Tensor | None = None
        self.labels: Tensor | None = None  # clusters of the rows at the last update
        self.target: Tensor | None = None
        self.frequencies: Tensor | None = None  # Σ_i q_ij of all rows at the last update
        self.updated = 0  # the step of the last update
        self.spread: float | None = None  # RMS distance of the last assigned codes from their mean

    @property
    def stop_reason(self) -> str:
        """`tolerance`, or `steps` if the steps ran out or training has not ended."""
        return "tolerance" if self.stopped else "steps"

    def details(self) -> dict[str, float]:
        """Return numbers about the end of the training; `stop_reason` is 1 for the tolerance, 0 for the steps.

        After rows have been assigned there is also `center_separation`, the smallest distance between two centres
        divided by the codes' root mean square distance from their mean: near 0 if centres have merged.
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
        """Copy the auto-encoder, initialise the centres by k-means on the codes of all rows, and attach the rows.

        Raises:
            UserError: the auto-encoder has other widths, or there are more clusters than (different) rows.
        """
        if autoencoder.widths != self.autoencoder.widths:
            raise UserError(f"Expected an auto-encoder of widths {self.autoencoder.widths}, got "
                            f"{autoencoder.widths}: train one with these, or set autoencoder.hidden.")  # fmt: skip
        self.autoencoder.load_state_dict(autoencoder.state_dict())
        self.centers.copy_(kmeans(autoencoder.embed(features), len(self.centers), seed))
        self.labels = self.target = None
        for state, value in ((self.stopped, False), (self.updates, 0), (self.changed, 1.0)):
            state.fill_(value)
        self.attach(features)

    def attach(self, features: Float[Tensor, "n features"]) -> None:
        """Attach the rows that are clustered, which `row` in a batch indexes; checkpoints do not hold them."""
        self.rows = features

    def encode(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch code"]:
        return self.autoencoder.encode(features)

    @torch.no_grad()
    def assign(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n clusters"]:
        """Return the soft assignment of any number of rows on any device; it is on the module's device."""
        codes = torch.cat([self.encode(part.to(self.device)) for part in features.split(CHUNK)])
        self.spread = float((codes - codes.mean(0)).square().sum(1).mean().sqrt())
        return torch.cat([soft_assignment(part, self.centers, self.alpha) for part in codes.split(CHUNK)])

    def on_train_epoch_start(self) -> None:
        if self.rows is None:
            raise RuntimeError("Call start or attach before training.")
        if self.target is not None and self.global_step - self.updated < self.hparams.get("interval", 1):
            return
        self.updated = self.global_step
        with self.trainer.precision_plugin.forward_context():  # the same precision as in the steps
            assignment = self.assign(self.rows)
        before, self.labels = self.labels, assignment.argmax(1)
        if before is not None:
            self.changed.copy_((self.labels != before.to(self.device)).float().mean())
        self.log("dec/changed", self.changed)
        if before is not None and self.changed < self.tolerance:
            self.stopped.fill_(True)
            self.trainer.should_stop = True  # before the epoch's first batch, so it trains nothing
        else:
            self.target, self.frequencies = target_distribution(assignment), assignment.sum(0)
            self.updates += 1

    def terms(self, batch: Any) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted terms of the loss.

        A batch with `row` indices gets the targets of the last update. For a batch without them, as a user's own
        loader yields it, the target is computed from its current assignment and the frequencies of all rows.
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
        checkpoint["update"] = {"step": self.updated, "target": self.target, "frequencies": self.frequencies}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.labels = checkpoint.get("labels")
        update = checkpoint.get("update", {"step": 0, "target": None, "frequencies": None})
        self.updated, self.target, self.frequencies = update["step"], update["target"], update["frequencies"]
