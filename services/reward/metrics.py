"""What the reward service shows of its own on /metrics."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Any

from prometheus_client import CollectorRegistry

from services.exported import exported
from services.reward.scorers import Outcome, Scored


class RewardMetrics:
    """Items by what came of them, tokens, and how scores spread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def reward(name: str) -> Any:
            return exported(f"trueline_reward_{name}", registry)

        self._items, self._tokens = reward("items_total"), reward("tokens_total")
        self._truncated = reward("truncated_items_total")
        self._scores, self._mean, self._stddev = reward("score"), reward("score_mean"), reward("score_stddev")
        self._disagreement = reward("disagreement")

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
        if scored:  # a batch without a score leaves mean and spread as they were, rather than make them 0
            self._spread(scorer, "raw", [outcome.raw for outcome in scored])
            self._spread(scorer, "normalised", [outcome.normalised for outcome in scored])

    def _spread(self, scorer: str, form: str, scores: list[float]) -> None:
        histogram = self._scores.labels(scorer, form)
        for score in scores:
            histogram.observe(score)
        self._mean.labels(scorer, form).set(fmean(scores))
        self._stddev.labels(scorer, form).set(pstdev(scores))
