"""DEC's formulas, retyped with loops from the paper, for comparison only.

Source: Xie, Girshick, Farhadi (2016), https://arxiv.org/abs/1511.06335, equations 1 to 5; rows and clusters one at a
time, in Python's own double precision.
"""

import math

Matrix = list[list[float]]


def kernel(z: list[float], mu: list[float], alpha: float) -> float:
    """1 + ‖z − μ‖² / α."""
    return 1 + sum((a - b) ** 2 for a, b in zip(z, mu, strict=True)) / alpha


def soft_assignment(z: Matrix, mu: Matrix, alpha: float) -> Matrix:
    """Equation 1."""
    q = [[kernel(row, center, alpha) ** (-(alpha + 1) / 2) for center in mu] for row in z]
    return [[value / sum(row) for value in row] for row in q]


def clustering_loss(p: Matrix, q: Matrix) -> float:
    """Equation 2, the sum over rows; a term with p = 0 is 0."""
    return sum(a * math.log(a / b) for row, other in zip(p, q, strict=True)
               for a, b in zip(row, other, strict=True) if a)  # fmt: skip


def target_distribution(q: Matrix) -> Matrix:
    """Equation 3."""
    f = [sum(row[j] for row in q) for j in range(len(q[0]))]
    p = [[value**2 / f[j] for j, value in enumerate(row)] for row in q]
    return [[value / sum(row) for value in row] for row in p]


def code_gradient(z: Matrix, mu: Matrix, p: Matrix, q: Matrix, alpha: float) -> Matrix:
    """Equation 4: ∂L/∂z_i, L the sum over rows."""
    gradient = [[0.0] * len(row) for row in z]
    for i, row in enumerate(z):
        for j, center in enumerate(mu):
            factor = (alpha + 1) / alpha / kernel(row, center, alpha) * (p[i][j] - q[i][j])
            for k in range(len(row)):
                gradient[i][k] += factor * (row[k] - center[k])
    return gradient


def center_gradient(z: Matrix, mu: Matrix, p: Matrix, q: Matrix, alpha: float) -> Matrix:
    """Equation 5: ∂L/∂μ_j, L the sum over rows."""
    gradient = [[0.0] * len(center) for center in mu]
    for i, row in enumerate(z):
        for j, center in enumerate(mu):
            factor = (alpha + 1) / alpha / kernel(row, center, alpha) * (p[i][j] - q[i][j])
            for k in range(len(row)):
                gradient[j][k] -= factor * (row[k] - center[k])
    return gradient
