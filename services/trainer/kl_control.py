"""How hard the policy is held to its reference, and when it has gone too far.

KL is always the mean over a round's rollouts of the SUM over a sequence, in nats: a target of 6 is 6 nats
per sequence. Controllers are updated once per round, after the round has used their coefficient.
"""

from __future__ import annotations

import math

State = dict[str, float]


class FixedKl:
    """A coefficient that stays as it is."""

    def __init__(self, coefficient: float) -> None:
        self.coefficient = coefficient

    def update(self, sequence_kl: float, episodes: int) -> float:
        """Return the coefficient of the next round; ValueError when the KL is not finite."""
        _finite(sequence_kl)
        return self.coefficient

    def state_dict(self) -> State:
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: State) -> None:
        self.coefficient = state["coefficient"]


class AdaptiveKl(FixedKl):
    """A coefficient that moves so that the KL comes to `target` nats per sequence.

    error = clip(kl / target - 1, -0.2, 0.2);  coefficient *= 1 + error * episodes / horizon.
    Source: Ziegler et al. 2019 (arXiv 1909.08593), section 2.2.

    >>> AdaptiveKl(0.15, target=6.0, horizon=10_000).update(sequence_kl=12.0, episodes=512)
    0.151536
    """

    LARGEST_ERROR = 0.2

    def __init__(self, coefficient: float, target: float, horizon: float) -> None:
        super().__init__(coefficient)
        self.target, self.horizon = target, horizon

    def update(self, sequence_kl: float, episodes: int) -> float:
        """Move, and return the coefficient of the next round.

        `episodes` is the round's number of rollouts. ValueError when the KL is not finite, or when the
        horizon is so short that the coefficient could reach 0 or change its sign.
        """
        if self.LARGEST_ERROR * episodes >= self.horizon:
            raise ValueError(
                f"kl_horizon: {self.horizon:g} is too short for rounds of {episodes} episodes; "
                f"it must be above {self.LARGEST_ERROR * episodes:g}"
            )
        error = _finite(sequence_kl) / self.target - 1
        error = max(-self.LARGEST_ERROR, min(self.LARGEST_ERROR, error))
        self.coefficient *= 1 + error * episodes / self.horizon
        return self.coefficient


class KlBudget:
    """Warns from `soft` nats per sequence on, and stops for good at `hard`; 0 turns either off.

    >>> budget = KlBudget(soft=8.0, hard=12.0)
    >>> [budget.observe(kl) for kl in (6.0, 9.0, 13.0, 11.0)]
    ['ok', 'warn', 'stop', 'stopped']
    """

    def __init__(self, soft: float, hard: float) -> None:
        self.soft, self.hard = soft or math.inf, hard or math.inf
        self.stopped = False

    def observe(self, sequence_kl: float) -> str:
        """ "ok", "warn", "stop" once, and "stopped" ever after; ValueError when the KL is not finite."""
        _finite(sequence_kl)
        if self.stopped:
            return "stopped"
        self.stopped = sequence_kl >= self.hard
        if self.stopped:
            return "stop"
        return "warn" if sequence_kl >= self.soft else "ok"

    def state_dict(self) -> State:
        return {"stopped": float(self.stopped)}

    def load_state_dict(self, state: State) -> None:
        self.stopped = bool(state["stopped"])


def _finite(sequence_kl: float) -> float:
    if not math.isfinite(sequence_kl):
        raise ValueError(f"sequence KL: {sequence_kl} is not finite")
    return sequence_kl
