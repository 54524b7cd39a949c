"""One reward out of several: ensembles of models, and objectives that have to hold together.

Plain numbers of one item, one per part; what they mean is told by the scorers that they come from. Every
function raises ValueError where there is nothing to combine: a missing part is never passed over here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean(scores_M: Sequence[float]) -> float:
    """The members' mean."""
    return math.fsum(_some(scores_M)) / len(scores_M)


def minimum(scores_M: Sequence[float]) -> float:
    """The lowest member: worst-case optimisation (Coste et al. 2023, arXiv 2310.02743)."""
    return min(_some(scores_M))


def variance(scores_M: Sequence[float]) -> float:
    """The members' population variance."""
    middle = mean(scores_M)
    return math.fsum((score - middle) ** 2 for score in scores_M) / len(scores_M)


def mean_minus_variance(scores_M: Sequence[float], weight: float) -> float:
    """mean - weight x population variance: uncertainty-weighted optimisation (Coste et al. 2023).

    They take a weight of 0.1 for PPO and of 0.5 for best-of-n.
    """
    return mean(scores_M) - weight * variance(scores_M)


def disagreement(scores_M: Sequence[float]) -> float:
    """The members' sample standard deviation (divided by M - 1); needs two of them."""
    if len(scores_M) < 2:
        raise ValueError("disagreement: needs at least two members")
    return math.sqrt(variance(scores_M) * len(scores_M) / (len(scores_M) - 1))


def weighted_sum(scores_M: Sequence[float], weights_M: Sequence[float]) -> float:
    """Objectives traded against each other: sum of weight x score."""
    return math.fsum(weight * score for weight, score in zip(weights_M, _some(scores_M), strict=True))


def log_sigmoid(score: float, reference: float) -> float:
    """log sigmoid(score - reference): what is above the reference adds little, what is below costs in full.

    Source: Wang et al. 2024 (arXiv 2402.00742), "log-sigmoid-centred" reward.
    """
    x = score - reference
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


def log_sigmoid_sum(scores_M: Sequence[float], references_M: Sequence[float]) -> float:
    """Objectives that must all hold, a soft AND: the sum of log_sigmoid(score, reference)."""
    pairs = zip(_some(scores_M), references_M, strict=True)
    return math.fsum(log_sigmoid(score, reference) for score, reference in pairs)


def gated(score: float, gate: float, threshold: float, otherwise: float) -> float:
    """The score where the gate's own is at least the threshold, else `otherwise` whatever the score is."""
    return score if gate >= threshold else otherwise


def _some(scores_M: Sequence[float]) -> Sequence[float]:
    if not scores_M:
        raise ValueError("there is nothing to combine")
    return scores_M
