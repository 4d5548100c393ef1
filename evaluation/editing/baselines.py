"""Linear editors that any flow has to beat. Fitted on training latents and labels, they see latents only.

Each has the editor interface of docs/architecture.md and lives on the device of the latents it was fitted on.
Every image's present value is read off its latents by a linear classifier or regression, never off its label.
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
    """The latents' `step` for one unit of a continuous factor, and its estimate weights · z + offset."""

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
    """Latents and labels of the rows with a label.

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
    """Wanted values as class numbers.

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
    return 2 if factor.kind == "binary" else len(factor.values)


def with_ridge(covariance: Float[Tensor, "features features"]) -> Float[Tensor, "features features"]:
    """The covariance plus a little of its mean variance on the diagonal, so that it can be inverted."""
    return covariance + RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), device=covariance.device)


def discriminant(z: Float[Tensor, "n features"], labels: Float[Tensor, " n"], classes: int) -> Classes:
    """Gaussian classes of equal weight and one covariance Σ: scores Σ⁻¹m, offsets −½ mᵀΣ⁻¹m."""
    onehot = functional.one_hot(labels.long(), classes).float()
    counts = onehot.sum(0)
    means = onehot.T @ z / counts.clamp(min=1)[:, None]
    within = z - means[labels.long()]
    scores = torch.linalg.solve(with_ridge(within.T @ within / len(z)), means.T).T
    offsets = torch.where(counts > 0, -0.5 * (scores * means).sum(1), -torch.inf)
    return Classes(means, scores, offsets, counts > 0)


def slope(z: Float[Tensor, "n features"], labels: Float[Tensor, " n"]) -> Slope:
    """The step cov(z, y) / var(y), regressing latents on the label; weights by ridge regression of y on z."""
    centre, mean = z.mean(0), labels.mean()
    z, y = z - centre, labels - mean
    shared = z.T @ y / len(y)
    weights = torch.linalg.solve(with_ridge(z.T @ z / len(y)), shared)
    return Slope(shared / y.square().mean(), weights, mean - weights @ centre)


class MeanDifference:
    """Moves by the mean of the target class minus the mean of the image's own class.

    The own class is the expectation under a linear discriminant's P(class | z), so an image that could be either
    moves half the way. A continuous factor moves by (target − estimate) · cov(z, y) / var(y).

    Arguments:
        latents: of the training images.
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
        """The latents with a factor moved towards the value, in the table's unit; see docs/architecture.md."""
        fitted = self.fitted[factor]
        value = value.to(latents.device)
        if isinstance(fitted, Slope):
            estimate = latents @ fitted.weights + fitted.offset
            return latents + strength * (value - estimate)[:, None] * fitted.step
        target = class_numbers(value, fitted.present, self.factors[factor])
        own = (latents @ fitted.scores.T + fitted.offsets).softmax(1) @ fitted.means
        return latents + strength * (fitted.means[target] - own)


def support_normals(z: Float[Tensor, "n features"], labels: Float[Tensor, " n"], classes: int, seed: int) -> Normals:
    """One LinearSVC per class against the rest; a binary factor's class 0 has the opposite normal of class 1."""
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
    """The fitted model's coefficients. That liblinear stopped at its iteration limit is no news to the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(z.cpu().numpy(), targets.cpu().numpy())
    return torch.from_numpy(model.coef_).flatten().to(z)


def support_slope(z: Float[Tensor, "n features"], labels: Float[Tensor, " n"], seed: int) -> Slope:
    """LinearSVR of the label; the step along its normal w that changes the estimate by one unit is w / |w|²."""
    mean, deviation = labels.mean(), labels.std()
    model = LinearSVR(loss="squared_epsilon_insensitive", dual=False, random_state=seed)
    weights = fit_quietly(model, z, (labels - mean) / deviation) * deviation
    intercept = torch.as_tensor(model.intercept_).to(z).squeeze() * deviation + mean
    return Slope(weights / weights.square().sum(), weights, intercept)


class LinearSVM:
    """InterFaceGAN's edit: along the normal n of a linear SVM, https://arxiv.org/abs/1907.10786.

    In standardised latents, strength 1 moves the projection on n to the target class's mean projection (one class
    against the rest where there are several), or a continuous factor's estimate to the target value.

    Arguments:
        latents: of the training images.
        labels: of the same rows; NaN where unknown.
        seed: of the rows drawn where there are more than 20,000.
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
        """The latents with a factor moved towards the value, in the table's unit; see docs/architecture.md."""
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
    """An editor whose full edit is that of another one at a strength."""

    def __init__(self, editor: Editor, strength: float) -> None:
        self.editor, self.strength = editor, strength

    def edit(
        self,
        latents: Float[Tensor, "batch features"],
        factor: int,
        value: Float[Tensor, " batch"],
        strength: float = 1.0,
    ) -> Float[Tensor, "batch features"]:
        """The latents with a factor moved towards the value; see docs/architecture.md."""
        return self.editor.edit(latents, factor, value, strength * self.strength)
