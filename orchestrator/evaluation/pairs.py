"""Who wins, prompt by prompt: by gold, by the reward model, by a judge; and with length taken out."""

from collections.abc import Sequence
from typing import Any

from orchestrator.evaluation.length_control import length_controlled
from orchestrator.statistics import share_interval, win_rate_of_counts
from trueline.v1 import types_pb2

# A judge's abstentions that are verdicts: neither answer is better. All others count nowhere.
TIES = frozenset({"tie", "identical_responses"})

Outcomes = list[float | None]  # of `after`: 1 a win, 0 a loss, 0.5 a tie; None counts nowhere


def outcomes_of_scores(before: Sequence[float | None], after: Sequence[float | None]) -> Outcomes:
    """[1, 0.5, None] of before [1, 2, None] and after [2, 2, 5]."""
    return [
        None if b is None or a is None else 1.0 if a > b else 0.0 if a < b else 0.5
        for b, a in zip(before, after, strict=True)
    ]


def figures_of_pairs(
    outcomes: Sequence[float | None],
    before: Sequence[types_pb2.Rollout],
    after: Sequence[types_pb2.Rollout],
) -> dict[str, Any]:
    """Wins, losses, ties and rates with intervals; pairs without an outcome are left out and counted.

    Length is counted in characters, so that models of different tokenizers can be compared.
    """
    known = [
        (outcome, float(len(a.response_text) - len(b.response_text)))
        for outcome, b, a in zip(outcomes, before, after, strict=True)
        if outcome is not None
    ]
    decided = [outcome for outcome, _ in known]
    wins, losses = decided.count(1.0), decided.count(0.0)
    return {
        **win_rate_of_counts(wins, losses, len(known) - wins - losses).as_dict(),
        "wins_over_decided": share_interval(wins, wins + losses).as_dict("rate"),
        "length_controlled": length_controlled(decided, [length for _, length in known]).as_dict(),
        "excluded": len(outcomes) - len(known),
    }
