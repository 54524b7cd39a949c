"""The mathematics of labels: from what a judge said in both orders to one probability, one score.

A probability is always that the item's FIRST response is better, whichever stood first before the judge.
"""

import math
from collections.abc import Mapping, Sequence

# Reasoning makes a judge's probabilities extreme; Bai et al. (2212.08073) clamp what follows it to 40-60 %.
REASONED_LOW, REASONED_HIGH = 0.4, 0.6
# 0.55 - 0.5 is a hair more than 0.05.
_ROUNDING = 1e-12


def option_mass(logprobs: Sequence[float]) -> float:
    """Probability of all options together; the rest went to answers that are none of them."""
    return math.fsum(map(math.exp, logprobs))


def option_probabilities(logprobs: Sequence[float]) -> list[float]:
    """The options' probabilities, renormalised over them: softmax of their log-probs, in nats."""
    highest = max(logprobs)
    if not math.isfinite(highest):
        raise ValueError(f"no option has a probability: {list(logprobs)}")
    weights = [math.exp(logprob - highest) for logprob in logprobs]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def first_is_better(logprobs: Sequence[float], *, swapped: bool) -> float:
    """P(first response is better) from the two options' log-probs; swapped, option 1 is the second response.

    Lee et al. 2023 (2309.00267), section 3.1: the softmax over the two option tokens is the soft label.
    """
    first_slot, second_slot = option_probabilities(logprobs)
    return second_slot if swapped else first_slot


def both_orders(as_given: float, swapped: float) -> float:
    """The soft label: the mean of both orders (2309.00267, section 3.1); it cancels a liking for a slot."""
    return (as_given + swapped) / 2


def orders_disagree(as_given: float, swapped: float, tolerance: float) -> bool:
    """True when the orders prefer different responses and differ by more than `tolerance`."""
    return (as_given - 0.5) * (swapped - 0.5) < 0 and abs(as_given - swapped) > tolerance


def is_tie(probability: float, band: float) -> bool:
    """True within `band` of 0.5, the edge included: with a band of 0 exactly one half is a tie."""
    return abs(probability - 0.5) <= band + _ROUNDING


def clamp_reasoned(probability: float, low: float = REASONED_LOW, high: float = REASONED_HIGH) -> float:
    """The probability held between low and high; for answers that follow reasoning only."""
    return min(max(probability, low), high)


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """sum(w v) / sum(w): what an ensemble of principles says."""
    return math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)


def expected_level(logprobs: Sequence[float]) -> float:
    """sum of level * P(level) over levels 1, 2, ..., renormalised over them (2309.00267, section 3.3)."""
    return math.fsum(level * p for level, p in enumerate(option_probabilities(logprobs), start=1))


def option_logprobs(spellings: Sequence[Mapping[tuple[int, ...], float]]) -> list[float]:
    """Log-prob of each option from the log-probs of its spellings, token sequence by token sequence.

    A spelling that goes on to be another one counts for what it is when it does not: where "10" is written as
    "1" "0", P(1) = P("1") - P("1", "0"). Spellings of one option add up.

        [{(1,): log 0.5}, {(1, 0): log 0.2}] -> [log 0.3, log 0.2]
    """
    probability = {ids: math.exp(logprob) for option in spellings for ids, logprob in option.items()}

    def alone(ids: tuple[int, ...]) -> float:
        longer = [other for other in probability if len(other) > len(ids) and other[: len(ids)] == ids]
        nearest = [
            other
            for other in longer
            if not any(
                len(ids) < cut < len(other) and other[:cut] in probability for cut in range(len(other))
            )
        ]
        return max(0.0, probability[ids] - math.fsum(probability[other] for other in nearest))

    masses = [math.fsum(alone(ids) for ids in option) for option in spellings]
    return [math.log(mass) if mass else -math.inf for mass in masses]
