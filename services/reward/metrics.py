"""What the reward service shows of its own on /metrics."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

from services.reward.scorers import Outcome, Scored

DISAGREEMENTS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)  # normalised scores spread by about 1


class RewardMetrics:
    """Items by what came of them, and tokens."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._items = Counter(
            "trueline_reward_items_total",
            "Items by what came of them: scored, or the reason why not.",
            ("scorer", "outcome"),
            registry=registry,
        )
        self._tokens = Counter(
            "trueline_reward_tokens_total",
            "Tokens that scorers read.",
            ("scorer",),
            registry=registry,
        )
        self._truncated = Counter(
            "trueline_reward_truncated_items_total",
            "Items that were longer than the scorer's context.",
            ("scorer",),
            registry=registry,
        )
        self._disagreement = Histogram(
            "trueline_reward_disagreement",
            "Standard deviation of an ensemble's members over one item, in normalised scores.",
            ("scorer",),
            buckets=DISAGREEMENTS,
            registry=registry,
        )

    def observe(self, scorer: str, outcomes: Sequence[Outcome]) -> None:
        """Counts a batch."""
        scored = [outcome for outcome in outcomes if isinstance(outcome, Scored)]
        words = Tally("scored" if isinstance(one, Scored) else one.reason for one in outcomes)
        for word, count in words.items():
            self._items.labels(scorer, word).inc(count)
        self._tokens.labels(scorer).inc(sum(outcome.tokens for outcome in scored))
        self._truncated.labels(scorer).inc(sum(outcome.truncated for outcome in scored))
        for outcome in scored:
            if outcome.disagreement is not None:
                self._disagreement.labels(scorer).observe(outcome.disagreement)
