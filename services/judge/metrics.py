"""What the judge service shows of its own on /metrics."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from services.exported import exported
from services.judge.constitution import Constitution
from services.judge.records import Abstained, Reason, Usage
from services.judge.verdicts import Order, Outcome, Reading


class JudgeMetrics:
    """Verdicts, abstentions by reason, flips and slots, and what all of it cost."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def judge(name: str) -> Any:
            return exported(f"trueline_judge_{name}", registry)

        self._verdicts = judge("verdicts_total")
        self._scores = judge("scores_total")
        self._texts = judge("texts_total")
        self._abstentions = judge("abstentions_total")
        self._slots = judge("slot_choices_total")
        self._flips = judge("order_flips_total")
        self._agreements = judge("order_agreements_total")
        self._orders = judge("order_pairs_total")
        self._calls = judge("calls_total")
        self._uncounted = judge("uncounted_calls_total")
        self._tokens = judge("tokens_total")
        self._reloads = judge("constitution_reloads_total")
        self._principles = judge("principles")
        self._info = judge("constitution_info")
        for reason in Reason:  # exported as 0 before the first, so that a rate can be taken
            self._abstentions.labels("compare", reason.value)
        for verdict in ("first", "second", "abstained"):
            self._verdicts.labels(verdict)
        for slot in ("first", "second"):
            self._slots.labels(slot)
        for outcome in ("changed", "unchanged", "refused"):
            self._reloads.labels(outcome)

    def compared(self, outcomes: Sequence[Outcome]) -> None:
        """Counts a batch of verdicts."""
        self._verdicts.labels("abstained").inc(self._abstained("compare", [each.value for each in outcomes]))
        for outcome in outcomes:
            if not isinstance(outcome.value, Abstained):
                self._verdicts.labels("first" if outcome.value > 0.5 else "second").inc()
            self._count_orders(outcome.readings)
            self._cost(outcome.usage)

    def scored(self, outcomes: Sequence[Outcome]) -> None:
        """Counts a batch of scores."""
        self._scores.inc(len(outcomes) - self._abstained("score", [each.value for each in outcomes]))
        for outcome in outcomes:
            self._cost(outcome.usage)

    def written(self, method: str, texts: Sequence[str | Abstained], usage: Usage) -> None:
        """Counts a batch of critiques or revisions."""
        self._texts.labels(method).inc(len(texts) - self._abstained(method, texts))
        self._cost(usage)

    def constitution(self, constitution: Constitution) -> None:
        """Shows which constitution is in force."""
        self._principles.set(len(constitution.principles))
        self._info.clear()
        self._info.labels(constitution.sha256).set(1)

    def reloaded(self, outcome: str) -> None:
        """Counts a reload."""
        self._reloads.labels(outcome).inc()

    def _abstained(self, method: str, values: Sequence[object]) -> int:
        reasons = Tally(value.reason for value in values if isinstance(value, Abstained))
        for reason, count in reasons.items():
            self._abstentions.labels(method, reason.value).inc(count)
        return sum(reasons.values())

    def _count_orders(self, readings: Sequence[Reading]) -> None:
        read: dict[str, dict[Order, float]] = {}
        for reading in readings:
            if not isinstance(reading.value, Abstained):
                read.setdefault(reading.principle, {})[reading.order] = reading.value
        for orders in read.values():
            for order, value in orders.items():
                if value != 0.5:
                    first_slot = (value > 0.5) == (order is Order.AS_GIVEN)
                    self._slots.labels("first" if first_slot else "second").inc()
            if len(orders) == 2:
                as_given, swapped = orders.values()
                self._orders.inc()
                self._flips.inc((as_given - 0.5) * (swapped - 0.5) < 0)
                self._agreements.inc((as_given - 0.5) * (swapped - 0.5) > 0)

    def _cost(self, usage: Usage) -> None:
        self._calls.inc(usage.calls)
        self._uncounted.inc(usage.uncounted_calls)
        self._tokens.labels("prompt").inc(usage.prompt_tokens)
        self._tokens.labels("completion").inc(usage.completion_tokens)
