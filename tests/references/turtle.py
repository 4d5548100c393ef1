"""TURTLE's objective, retyped with loops from the paper's description, for comparison only.

Source: Gadetsky, Jiang, Brbić (ICML 2024), https://arxiv.org/abs/2406.07236: the task encoder τ with weight
normalisation, the inner and the outer cross-entropy, and the entropy of the mean label. The inner optimiser is Adam as
Kingma, Ba (2015), https://arxiv.org/abs/1412.6980, algorithm 1, has it.
"""

import math


def softmax(logits: list[float]) -> list[float]:
    largest = max(logits)
    exponentials = [math.exp(logit - largest) for logit in logits]
    return [e / sum(exponentials) for e in exponentials]


def soft_label(x: list[float], directions: list[list[float]], gains: list[float], offsets: list[float]) -> list[float]:
    """τ(x)_c ∝ exp(g_c v_c·x / ‖v_c‖ + b_c)."""
    logits = []
    for v, g, b in zip(directions, gains, offsets, strict=True):
        norm = math.sqrt(sum(value**2 for value in v))
        logits.append(g * sum(p * q for p, q in zip(v, x, strict=True)) / norm + b)
    return softmax(logits)


def cross_entropy(logits: list[list[float]], labels: list[list[float]]) -> float:
    """Rows of logits and of labels: −1/n Σ_x Σ_c τ_c(x) log softmax(logits(x))_c."""
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        total -= sum(t * math.log(p) for t, p in zip(label, softmax(row), strict=True))
    return total / len(logits)


def mean_entropy(labels: list[list[float]]) -> float:
    """H(1/n Σ_x τ(x))."""
    means = [sum(column) / len(labels) for column in zip(*labels, strict=True)]
    return -sum(p * math.log(p) for p in means if p > 0)


def fit_linear(rows: list[list[float]], labels: list[list[float]], steps: int, rate: float) -> list[list[float]]:
    """Weights (clusters, features + 1) after some steps of Adam from zero; the last weight is the offset."""
    rows = [[*row, 1.0] for row in rows]
    clusters, width = len(labels[0]), len(rows[0])
    weights = [[0.0] * width for _ in range(clusters)]
    m = [[0.0] * width for _ in range(clusters)]
    v = [[0.0] * width for _ in range(clusters)]
    for t in range(1, steps + 1):
        fitted = [softmax([sum(w * x for w, x in zip(weight, row, strict=True)) for weight in weights]) for row in rows]
        for c in range(clusters):
            for d in range(width):
                gradient = sum((p[c] - y[c]) * x[d] for p, y, x in zip(fitted, labels, rows, strict=True)) / len(rows)
                m[c][d] = 0.9 * m[c][d] + 0.1 * gradient
                v[c][d] = 0.999 * v[c][d] + 0.001 * gradient**2
                step = (m[c][d] / (1 - 0.9**t)) / (math.sqrt(v[c][d] / (1 - 0.999**t)) + 1e-8)
                weights[c][d] -= rate * step
    return weights
