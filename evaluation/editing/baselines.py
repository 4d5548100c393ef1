"""Linear editors as baselines of the flow: mean difference and linear SVM, fitted on training latents and labels.

Each has the editor interface of docs/architecture.md and stays on the device of the latents it was fitted on. The
present value of an image is estimated from its latents by a linear classifier or regression, not taken from its label.
"""

import warnings
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC, LinearSVR
from torch import Tensor
from torch.nn import functional

from datamodules.factors import FactorTable
from models import UserError
from models.interfaces import Editor
from models.labels import Factor

__all__ = ["AtStrength", "LinearSVM", "MeanDifference"]

RIDGE = 1e-3  # added to covariances, as a share of their mean variance
MOST_ROWS = 20_000  # liblinear takes seconds on these, minutes on all of CelebA


class Classes(NamedTuple):
    """Class means, and the linear discriminant scores · z + offsets whose softmax is P(class | z)."""

    means: Float[Tensor, "classes features"]
    scores: Float[Tensor, "classes features"]
    offsets: Float[Tensor, " classes"]
    present: Bool[Tensor, " classes"]


class Slope(NamedTuple):
    """The `step` of the latents for one unit of a continuous factor, and its estimate weights · z + offset."""

    step: Float[Tensor, " features"]
    weights: Float[Tensor, " features"]
    offset: Float[Tensor, ""]


class Normals(NamedTuple):
    """Unit normals of one-against-rest hyperplanes in standardised latents, and each class's mean projection."""

    normals: Float[Tensor, "classes features"]
    projections: Float[Tensor, " classes"]
    present: Bool[Tensor, " classes"]


def known_rows(
    latents: Float[Tensor, "n features"], labels: Float[Tensor, " n"], factor: Factor
) -> tuple[Float[Tensor, "known features"], Float[Tensor, " known"]]:
    """Select latents and labels of the rows with a label.

    Raises:
        UserError: the known labels do not vary.
    """
    labels = labels.to(latents.device)
    known = ~labels.isnan()
    if len(labels[known].unique()) < 2:
        raise UserError(
            f"Expected factor {factor.name!r} to vary over the training images with a label, got "
            f"{int(known.sum())} labels of one value or none: use more images or leave the factor out."
        )
    return latents[known].float(), labels[known]


def class_numbers(
    values: Float[Tensor, " batch"], present: Bool[Tensor, " classes"], factor: Factor
) -> Int64[Tensor, " batch"]:
    """Convert target values to class numbers.

    Raises:
        UserError: a class without a training image.
    """
    classes = values.long()
    absent = classes[~present[classes]].unique().tolist()
    if absent:
        raise UserError(
            f"Expected a value of {factor.name!r} that training images have, got {factor.values[absent[0]]!r}: "
            "choose another value."
        )
    return classes


def number_of_classes(factor: Factor) -> int:
    """Count the classes of a factor that is not continuous."""
    return 2 if factor.kind == "binary" else len(factor.values)


def with_ridge(covariance: Float[Tensor, "features features"]) -> Float[Tensor, "features features"]:
    """Add a share of the mean variance to the diagonal of a covariance, so that it can be inverted."""
    return covariance + RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), device=covariance.device)


def discriminant(z: Float[Tensor, "n features"], labels: Float[Tensor, " n"], classes: int) -> Classes:
    """Fit a linear discriminant of classes of equal weight with one covariance Σ: scores Σ⁻¹m, offsets −½ mᵀΣ⁻¹m."""
    onehot = functional.one_hot(labels.long(), classes).float()
    counts = onehot.sum(0)
    means = onehot.T @ z / counts.clamp(min=1)[:, None]
    within = z - means[labels.long()]
    scores = torch.linalg.solve(with_ridge(within.T @ within / len(z)), means.T).T
    offsets = torch.where(counts > 0, -0.5 * (scores * means).sum(1), -torch.inf)
    return Classes(means, scores, offsets, counts > 0)


def slope(z: Float[Tensor, "n features"], labels: Float[Tensor, " n"]) -> Slope:
    """Fit the step cov(z, y) / var(y), by regression of the latents on the label, and ridge regression of y on z."""
    centre, mean = z.mean(0), labels.mean()
    z, y = z - centre, labels - mean
    shared = z.T @ y / len(y)
    weights = torch.linalg.solve(with_ridge(z.T @ z / len(y)), shared)
    return Slope(shared / y.square().mean(), weights, mean - weights @ centre)


class MeanDifference:
    """The mean-difference editor: latents move by the mean of the target class minus that of the image's own class.

    The mean of the own class is the expectation under P(class | z) of a linear discriminant, so that an ambiguous image
    moves by half of the difference. A continuous factor moves by (target − estimate) · cov(z, y) / var(y).

    Arguments:
        latents: latents of the training images.
        labels: of the same rows; NaN where unknown.
    """

    def __init__(self, latents: Float[Tensor, "n features"], labels: FactorTable) -> None:
        self.factors = labels.factors
        self.fitted: list[Classes | Slope] = []
        for i, factor in enumerate(self.factors):
            z, y = known_rows(latents, labels.values[:, i], factor)
            self.fitted.append(
                slope(z, y) if factor.kind == "continuous" else discriminant(z, y, number_of_classes(factor))
            )

    @torch.no_grad()
    def edit(
        self,
        latents: Float[Tensor, "batch features"],
        factor: int,
        value: Float[Tensor, " batch"],
        strength: float = 1.0,
    ) -> Float[Tensor, "batch features"]:
        """Move a factor of latents towards the value, in the unit of the table; see docs/architecture.md."""
        fitted = self.fitted[factor]
        value = value.to(latents.device)
        if isinstance(fitted, Slope):
            estimate = latents @ fitted.weights + fitted.offset
            return latents + strength * (value - estimate)[:, None] * fitted.step
        target = class_numbers(value, fitted.present, self.factors[factor])
        own = (latents @ fitted.scores.T + fitted.offsets).softmax(1) @ fitted.means
        return latents + strength * (fitted.means[target] - own)


def support_normals(z: Float[Tensor, "n features"], labels: Float[Tensor, " n"], classes: int, seed: int) -> Normals:
    """Fit one LinearSVC per class against the rest; class 0 of a binary factor has the opposite normal of class 1."""
    normals, present = torch.zeros(classes, z.shape[1], device=z.device), labels.long().bincount(minlength=classes) > 0
    for c in range(1 if classes == 2 else 0, classes):
        if present[c]:
            model = LinearSVC(dual=False, class_weight="balanced", random_state=seed)
            normals[c] = fit_quietly(model, z, labels == c)
    if classes == 2:
        normals[0] = -normals[1]
    normals = functional.normalize(normals, dim=1)
    projections = torch.stack([(z[labels == c] @ normals[c]).mean() for c in range(classes)])
    return Normals(normals, projections, present)


def fit_quietly(
    model: LinearSVC | LinearSVR, z: Float[Tensor, "n features"], targets: Tensor
) -> Float[Tensor, " features"]:
    """Fit a model and return its coefficients, without the warning that liblinear stopped at its iteration limit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(z.cpu().numpy(), targets.cpu().numpy())
    return torch.from_numpy(model.coef_).flatten().to(z)


def support_slope(z: Float[Tensor, "n features"], labels: Float[Tensor, " n"], seed: int) -> Slope:
    """Fit a LinearSVR of the label; the step along its normal w that changes the estimate by one unit is w / |w|²."""
    mean, deviation = labels.mean(), labels.std()
    model = LinearSVR(loss="squared_epsilon_insensitive", dual=False, random_state=seed)
    weights = fit_quietly(model, z, (labels - mean) / deviation) * deviation
    intercept = torch.as_tensor(model.intercept_).to(z).squeeze() * deviation + mean
    return Slope(weights / weights.square().sum(), weights, intercept)


class LinearSVM:
    """The editor of InterFaceGAN: along the normal n of a linear SVM, https://arxiv.org/abs/1907.10786.

    In standardised latents, strength 1 moves the projection on n to the mean projection of the target class (one class
    against the rest where there are several), or the estimate of a continuous factor to the target value.

    Arguments:
        latents: latents of the training images.
        labels: labels of the same rows; NaN where unknown.
        seed: seed of the rows that are drawn where there are more than 20,000.
    """

    def __init__(self, latents: Float[Tensor, "n features"], labels: FactorTable, seed: int = 0) -> None:
        self.factors = labels.factors
        self.mean = latents.float().mean(0)
        self.deviation = latents.float().std(0).clamp(min=1e-6)
        self.fitted: list[Normals | Slope] = []
        for i, factor in enumerate(self.factors):
            z, y = known_rows(latents, labels.values[:, i], factor)
            order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))
            chosen = order[:MOST_ROWS].to(z.device)
            z, y = (z[chosen] - self.mean) / self.deviation, y[chosen]
            self.fitted.append(
                support_slope(z, y, seed)
                if factor.kind == "continuous"
                else support_normals(z, y, number_of_classes(factor), seed)
            )

    @torch.no_grad()
    def edit(
        self,
        latents: Float[Tensor, "batch features"],
        factor: int,
        value: Float[Tensor, " batch"],
        strength: float = 1.0,
    ) -> Float[Tensor, "batch features"]:
        """Move a factor of latents towards the value, in the unit of the table; see docs/architecture.md."""
        fitted, value = self.fitted[factor], value.to(latents.device)
        z = (latents - self.mean) / self.deviation
        if isinstance(fitted, Slope):
            move = (value - z @ fitted.weights - fitted.offset)[:, None] * fitted.step
        else:
            target = class_numbers(value, fitted.present, self.factors[factor])
            normals = fitted.normals[target]
            move = (fitted.projections[target] - (z * normals).sum(1))[:, None] * normals
        return latents + strength * move * self.deviation


class AtStrength:
    """An editor whose edit at strength 1 is that of another editor at a given strength."""

    def __init__(self, editor: Editor, strength: float) -> None:
        self.editor, self.strength = editor, strength

    def edit(
        self,
        latents: Float[Tensor, "batch features"],
        factor: int,
        value: Float[Tensor, " batch"],
        strength: float = 1.0,
    ) -> Float[Tensor, "batch features"]:
        """Move a factor of latents towards the value; see docs/architecture.md."""
        return self.editor.edit(latents, factor, value, strength * self.strength)
