"""A win rate with the advantage of length taken out (Dubois et al. 2024, length-controlled AlpacaEval).

The chance that `after` wins a pair is modelled as sigmoid(theta + phi * tanh(difference / spread)), where the
difference is that of the two lengths and the spread its standard deviation over the pairs. The rate is then
sigmoid(theta): what is left where both answers are as long. The paper's third term, the difficulty of the
instruction, is estimated over many models; with one pair it cannot be told from theta and is left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.statistics import Z95

MOST_STEPS = 50
TOLERANCE = 1e-12
FARTHEST = 15.0  # sigmoid(15) is 1 within 3e-7: a coefficient beyond it is on its way to infinity


@dataclass(frozen=True)
class LengthControlled:
    """The rate with its 95% interval, and phi: how many logits a much longer answer is worth.

    `why` says why there is no rate; the numbers are None then.
    """

    rate: float | None
    low: float | None
    high: float | None
    length_coefficient: float | None
    n: int
    why: str = ""

    def as_dict(self) -> dict[str, float | int | str | None]:
        """The fields by name."""
        return dict(vars(self))


def length_controlled(outcomes: Sequence[float], differences: Sequence[float]) -> LengthControlled:
    """The length-controlled rate of `outcomes`: 1 where after won, 0 where it lost, 0.5 for a tie.

    `differences` are length after less length before, pair by pair. Soft outcomes in [0, 1] are allowed.
    Where all differences are equal there is no length to control for, and the rate is the plain mean.
    """
    if len(outcomes) != len(differences):
        raise ValueError(
            f"outcomes and differences must pair up, have {len(outcomes)} and {len(differences)}"
        )
    for index, outcome in enumerate(outcomes):
        if not 0 <= outcome <= 1:
            raise ValueError(f"outcomes[{index}]: must be in [0, 1], is {outcome}")
    n = len(outcomes)
    if n < 2:
        return LengthControlled(None, None, None, None, n, "fewer than two pairs")
    terms = length_terms(differences)
    fitted = fit_logistic(outcomes, terms)
    if fitted is None:
        why = "wins and losses are told apart without error, so that no finite fit exists"
        return LengthControlled(None, None, None, None, n, why)
    theta, phi, spread = fitted
    low, high = theta - Z95 * spread, theta + Z95 * spread
    return LengthControlled(sigmoid(theta), sigmoid(low), sigmoid(high), phi, n)


def length_terms(differences: Sequence[float]) -> list[float]:
    """tanh(difference / standard deviation of the differences); all 0 where the differences do not vary."""
    mean = math.fsum(differences) / len(differences)
    spread = math.sqrt(math.fsum((each - mean) ** 2 for each in differences) / len(differences))
    if spread <= 1e-12 * max(1.0, abs(mean)):
        return [0.0] * len(differences)
    return [math.tanh(each / spread) for each in differences]


def fit_logistic(outcomes: Sequence[float], terms: Sequence[float]) -> tuple[float, float, float] | None:
    """(theta, phi, standard error of theta) of the likeliest sigmoid(theta + phi * term), by Newton's method.

    The error is that of the inverse Fisher information. Terms that are all 0 leave phi at 0. None where the
    likelihood has no finite maximum.
    """
    with_phi = any(terms)
    theta = phi = 0.0
    for _ in range(MOST_STEPS):
        gradient, information = _slope(outcomes, terms, theta, phi)
        inverse = _inverse(information, with_phi)
        if inverse is None:
            return None
        (a, b), (_, d) = inverse
        step = a * gradient[0] + b * gradient[1], b * gradient[0] + d * gradient[1]
        size = max(abs(step[0]), abs(step[1]))
        shrink = min(1.0, 2.0 / size) if size else 1.0  # a full step from a bad start may overshoot
        theta, phi = theta + shrink * step[0], phi + shrink * step[1]
        if abs(theta) > FARTHEST or abs(phi) > 4 * FARTHEST:
            return None
        if size < TOLERANCE * max(1.0, abs(theta), abs(phi)):
            return theta, phi, math.sqrt(a)
    return None


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


Pair = tuple[float, float]
Symmetric = tuple[float, float, float]  # of a 2 x 2 matrix: first, off the diagonal, last


def _slope(
    outcomes: Sequence[float], terms: Sequence[float], theta: float, phi: float
) -> tuple[Pair, Symmetric]:
    """Gradient of the log-likelihood, and the Fisher information."""
    chances = [sigmoid(theta + phi * term) for term in terms]
    misses = [outcome - chance for outcome, chance in zip(outcomes, chances, strict=True)]
    weights = [chance * (1 - chance) for chance in chances]
    gradient = math.fsum(misses), math.fsum(m * t for m, t in zip(misses, terms, strict=True))
    information = (
        math.fsum(weights),
        math.fsum(w * t for w, t in zip(weights, terms, strict=True)),
        math.fsum(w * t * t for w, t in zip(weights, terms, strict=True)),
    )
    return gradient, information


def _inverse(matrix: Symmetric, whole: bool) -> tuple[Pair, Pair] | None:
    """The inverse; of the first element alone where the second coefficient is held at 0."""
    first, off, last = matrix
    if not whole:
        return ((1 / first, 0.0), (0.0, 0.0)) if first > 1e-9 else None
    determinant = first * last - off * off
    if determinant <= 1e-12 * first * last or first <= 0:
        return None
    return (last / determinant, -off / determinant), (-off / determinant, first / determinant)
