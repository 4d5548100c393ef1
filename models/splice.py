"""SpLiCE: decompose an embedding into a sparse, non-negative sum of the embeddings of texts, without training.

Bhalla, Oesterling, Srinivas, Calmon, Lakkaraju 2024, "Interpreting CLIP with Sparse Linear Concept Embeddings",
https://arxiv.org/abs/2402.10376, implemented from the paper. Symbols: x a row and c_j a text of the vocabulary, both
scaled to unit length, centred, and scaled to unit length again; w ≥ 0 the weights, which minimise
½‖x − Σ_j w_j c_j‖² + λ Σ_j w_j. This is scikit-learn's Lasso(alpha=λ / d, positive=True, fit_intercept=False) of
d-dimensional rows.

The solver is exact. Each row has a small working set: the texts with a weight and those whose weight would decrease the
objective most. The quadratic program of the working set is solved by block principal pivoting (Portugal, Júdice,
Vicente 1994, https://doi.org/10.1090/S0025-5718-1994-1250776-4; for many programs at once: Kim and Park 2011,
https://doi.org/10.1137/110821172). The set grows until no other text would decrease the objective.
"""

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from models import UserError
from models.sae import Codes, combination

__all__ = ["SpLiCE", "nonnegative_lasso", "nonnegative_quadratic", "penalty_at"]

CHUNK = 256  # rows that are solved in parallel
ADDED = 16  # texts that are added to a working set at a time
SLACK = 1e-6  # gains below it, for a row of unit length, are rounding errors
RIDGE = 1e-10  # added to squared lengths, so that equal texts share their weight
PATIENCE = 3  # exchanges that may fail to improve, as in the paper on block principal pivoting
LEAST_PENALTY = 1e-3  # lower bound of the search for a penalty
ROUNDS = 200  # more than any program needed; it stops programs that rounding errors keep from converging


def nonnegative_quadratic(
    gram: Float64[Tensor, "n p p"], target: Float64[Tensor, "n p"], passive: Bool[Tensor, "n p"]
) -> Float64[Tensor, "n p"]:
    """Return argmin ½ wᵀGw − qᵀw over w ≥ 0 of n programs; `passive` is a guess of the w above 0.

    In each round the passive w are solved for and the others are 0. Then every variable whose w or gradient Gw − q has
    the wrong sign changes sets: all of them at once while their number decreases, otherwise only the last one, which
    always terminates.

    >>> one = torch.ones(1, 1, 1, dtype=torch.float64)
    >>> nonnegative_quadratic(one, 2 * one[0], one[0] > 0)
    tensor([[2.]], dtype=torch.float64)
    """
    n, p = target.shape
    weights, passive, number = torch.zeros_like(target), passive.clone(), torch.arange(p)
    fewest, patience = torch.full((n,), p + 1), torch.full((n,), PATIENCE)
    rows = torch.arange(n)
    for _ in range(ROUNDS):
        inside, g, q = passive[rows], gram[rows], target[rows]
        both = inside[:, :, None] & inside[:, None, :]
        factor = torch.linalg.cholesky(g * both + torch.diag_embed((~inside).double()))
        w = torch.cholesky_solve((q * inside)[..., None], factor)
        gradient = (g @ w)[..., 0] - q
        weights[rows] = w[..., 0]
        wrong = torch.where(inside, w[..., 0] < 0, gradient < -1e-12)
        count = wrong.sum(1)
        better = count < fewest[rows]
        patience[rows] = torch.where(better, PATIENCE, patience[rows] - 1)
        fewest[rows] = torch.minimum(count, fewest[rows])
        last = number == (wrong * (number + 1)).argmax(1, keepdim=True)
        passive[rows] = inside ^ torch.where((patience[rows] >= 0)[:, None], wrong, wrong & last)
        rows = rows[count > 0]
        if not len(rows):
            break
    return weights.clamp_min(0)


def nonnegative_lasso(rows: Float[Tensor, "n d"], directions: Float[Tensor, "m d"], penalty: float) -> Codes:
    """Return argmin ½‖x − Σ_j w_j c_j‖² + λ Σ_j w_j over w ≥ 0 of each row.

    Raises:
        UserError: the penalty is not above 0.

    >>> nonnegative_lasso(torch.tensor([[1.0, 0.0]]), torch.eye(2), 0.25).dense(2)
    tensor([[0.7500, 0.0000]])
    """
    if not penalty > 0:
        raise UserError(f"Expected a penalty above 0, got {penalty}: 0.1 to 0.3 leave few texts.")
    parts = [solve(part, directions, penalty) for part in rows.split(CHUNK)]
    width = max((codes.values.shape[1] for codes in parts), default=0)
    padded = [[pad(each, (0, width - each.shape[1])) for each in codes] for codes in parts]
    return Codes(torch.cat([values for values, _ in padded]), torch.cat([units for _, units in padded]))


def solve(rows: Float[Tensor, "n d"], directions: Float[Tensor, "m d"], penalty: float) -> Codes:
    """Solve for the weights of a few rows, growing their working sets until no other text has a gain."""
    slack = SLACK * rows.norm(dim=1).clamp_min(1e-30)
    codes = Codes(rows.new_zeros(len(rows), 1), torch.zeros(len(rows), 1, dtype=torch.int64))
    open_ = torch.arange(len(rows))
    for _ in range(ROUNDS):
        own = codes.rows(open_)
        gains = (rows[open_] - combination(own, directions)) @ directions.T - penalty
        used = own.values > 0
        gains.scatter_reduce_(1, own.units, torch.where(used, -torch.inf, torch.inf).to(gains), "amin")
        gaining = (gains > slack[open_, None]).any(1)
        if not bool(gaining.any()):
            break
        open_, gains, used, own = open_[gaining], gains[gaining], used[gaining], own.rows(gaining)
        gains.scatter_reduce_(1, own.units, torch.where(used, torch.inf, -torch.inf).to(gains), "amax")
        most = int(used.sum(1).max())
        # More texts than dimensions are linearly dependent, and exchanging them makes no progress.
        size = min(len(directions), most + ADDED, max(most + 1, rows.shape[1]))
        gain, units = gains.topk(size, 1)
        weights = solve_within(rows[open_], directions, units, gain > slack[open_, None], gain.isinf(), penalty)
        wider = max(0, size - codes.values.shape[1])
        codes = Codes(pad(codes.values, (0, wider)), pad(codes.units, (0, wider)))
        codes.values[open_], codes.units[open_] = (
            pad(each, (0, codes.values.shape[1] - size)) for each in (weights, units)
        )
    values, order = codes.values.sort(1, descending=True)
    return Codes(values, codes.units.gather(1, order)).first(max(1, int((values > 0).sum(1).max())))


def solve_within(
    rows: Float[Tensor, "n d"], directions: Float[Tensor, "m d"], units: Int64[Tensor, "n p"],
    member: Bool[Tensor, "n p"], passive: Bool[Tensor, "n p"], penalty: float,
) -> Float[Tensor, "n p"]:  # fmt: skip
    """Solve for the weights of the working sets; texts that are no member of a set get a weight of 0."""
    texts = directions[units].double()
    gram = texts @ texts.mT + RIDGE * torch.eye(units.shape[1], dtype=torch.float64)
    gains = (texts @ rows.double()[..., None])[..., 0] - penalty
    # With a target of −∞, a weight of 0 is always optimal.
    target = torch.where(member, gains, -1e9)
    return nonnegative_quadratic(gram, target, passive).to(rows)


def penalty_at(rows: Float[Tensor, "n d"], directions: Float[Tensor, "m d"], active: int) -> float:
    """Search for the penalty that leaves `active` texts per row, or slightly fewer, on average over the rows.

    Raises:
        UserError: `active` is not above 0.

    >>> bool(0.5 < penalty_at(torch.tensor([[1.0, 0.5]]), torch.eye(2), active=1))
    True
    """
    if not active > 0:
        raise UserError(f"Expected active= above 0, the texts that a row is to have, got {active}.")

    def many(penalty: float) -> bool:
        return float((nonnegative_lasso(rows, directions, penalty).values > 0).sum(1).double().mean()) > active

    high = max(LEAST_PENALTY, float((rows @ directions.T).max()))  # this penalty leaves no text
    while high > LEAST_PENALTY and not many(0.7 * high):  # downwards, because small penalties take long
        high *= 0.7
    low = 0.7 * high
    for _ in range(6):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if many(middle) else (low, middle)
    return high


class SpLiCE(nn.Module):
    """Decomposes rows over a vocabulary; codes are weights of its texts.

    Arguments:
        vocabulary: embeddings of the texts.
        mean: mean of unit-length rows of the same kind, images or texts, because the two kinds have different means.
        penalty: λ.

    Raises:
        UserError: there are fewer than two texts, or the mean has another dimension than they.
    """

    directions: Tensor
    mean: Tensor

    def __init__(self, vocabulary: Float[Tensor, "m d"], mean: Float[Tensor, " d2"], penalty: float) -> None:
        super().__init__()
        if len(vocabulary) < 2 or vocabulary.shape[1] != len(mean):
            raise UserError(f"Expected two or more texts of {len(mean)} numbers, as the rows have, got an array of "
                            f"shape {tuple(vocabulary.shape)}: embed the vocabulary as the rows were.")  # fmt: skip
        units = normalize(vocabulary.float(), dim=1)
        self.register_buffer("directions", normalize(units - units.mean(0), dim=1))
        self.register_buffer("mean", mean.float())
        self.penalty = penalty

    def centred(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Scale rows to unit length, subtract the mean, and scale them to unit length again."""
        return normalize(normalize(rows.float(), dim=1) - self.mean, dim=1)

    @torch.no_grad()
    def encode(self, rows: Float[Tensor, "n d"]) -> Codes:
        return nonnegative_lasso(self.centred(rows), self.directions, self.penalty)

    @torch.no_grad()
    def decode(self, codes: Codes) -> Float[Tensor, "n d"]:
        """Reconstruct rows, of unit length."""
        return normalize(normalize(combination(codes, self.directions), dim=1) + self.mean, dim=1)
