"""TEMI's loss for one pair, retyped with loops from the paper's description, for comparison only.

Source: Adaloglou, Michels, Kalisch, Kollmann (BMVC 2023), https://arxiv.org/abs/2303.17896, sections 3.2 to 3.4: the
pointwise mutual information with the teacher's shares p̃, the exponent β, the weight averaged over heads, both orders.
"""

import math


def agreement(student: list[float], teacher: list[float], shares: list[float], beta: float) -> float:
    """log Σ_c (q_s(c|x) q_t(c|x′))^β / p̃(c)."""
    return math.log(sum((s * t) ** beta / p for s, t, p in zip(student, teacher, shares, strict=True)))


def pair_weight(teacher: list[list[float]], teacher_of_partner: list[list[float]]) -> float:
    """1/H Σ_h Σ_c q_t^h(c|x) q_t^h(c|x′)."""
    heads = zip(teacher, teacher_of_partner, strict=True)
    return sum(sum(a * b for a, b in zip(x, y, strict=True)) for x, y in heads) / len(teacher)


def pair_loss(
    student: tuple[list[float], list[float]],
    teacher: tuple[list[float], list[float]],
    shares: list[float],
    weight: float,
    beta: float,
) -> float:
    """One head's loss of one pair: what student and teacher say of x, then of x′."""
    there = agreement(student[0], teacher[1], shares, beta)
    back = agreement(student[1], teacher[0], shares, beta)
    return -weight * (there + back) / 2
