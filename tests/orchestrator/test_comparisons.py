"""Comparisons drawn from scores, and the batches cut from them."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.labelling import Outcome, Pair, label_pairs, sigmoid
from orchestrator.recipe_labels import ScorerLabel, SimulatedLabel
from orchestrator.stages.collect import compare, pairs_of
from orchestrator.stages.reward import limited, order_pairs
from orchestrator.stages.supervised import steps_of, updates_of
from trueline.v1 import reward_pb2, types_pb2


def rollouts(*texts: str) -> list[types_pb2.Rollout]:
    return [types_pb2.Rollout(response_text=text) for text in texts]


def row(index: int) -> dict[str, object]:
    return {"prompt_id": f"p{index}", "text": "hello"}


class Scores:
    """A reward service as far as labels need one: a score for each text, or none."""

    def __init__(self, **scores: float | None) -> None:
        self.given = scores

    async def ask(self, service: str, call: Any) -> reward_pb2.ScoreResponse:
        return await call()

    async def score(self, scorer: str, items: Any, **_: Any) -> reward_pb2.ScoreResponse:
        found = [self.given[item.response] for item in items]
        return reward_pb2.ScoreResponse(
            scores=[
                types_pb2.Score(error=types_pb2.ItemError(reason="failed"))
                if each is None
                else types_pb2.Score(value=types_pb2.ScoreValue(raw=each, normalised=each))
                for each in found
            ]
        )

    @property
    def run(self) -> Any:
        time = SimpleNamespace(computed=lambda timing: None)
        peers = SimpleNamespace(reward=self)
        return SimpleNamespace(ask=self.ask, scorers={}, peers=peers, deadline=1.0, time=time)


def pair(index: int, first: str = "a", second: str = "b") -> Pair:
    return Pair(f"p{index}/0-1", row(index), first, second, (f"p{index}", 0, 1))


async def simulated(scores: Scores, asked: list[Pair], scale: float = 2.0) -> list[Outcome]:
    label = SimulatedLabel(kind="simulated", scorer="gold", scale=scale)
    return await label_pairs(scores.run, "collect", 1, asked, label, 0)


async def test_labels_follow_bradley_terry() -> None:
    """P(first wins) = sigmoid(2 * 0.5) = 0.731 over 4,000 draws, within 4 standard errors."""
    outcomes = await simulated(Scores(a=1.0, b=0.5), [pair(i) for i in range(4000)])
    expected = sigmoid(1.0)
    share = sum(each.probability == 1.0 for each in outcomes) / 4000
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 4000))


async def test_labels_are_the_same_whenever_they_are_drawn() -> None:
    asked = [pair(i) for i in range(50)]
    one, other = [await simulated(Scores(a=1.0, b=0.9), asked, 1.0) for _ in range(2)]
    assert one == other and {each.probability for each in one} == {0.0, 1.0}


async def test_a_missing_score_is_no_label() -> None:
    asked = [pair(0), pair(1, "a", "c"), pair(2, "b", "c")]
    outcomes = await simulated(Scores(a=1.0, b=None, c=-50.0), asked)
    assert [each.probability for each in outcomes] == [None, 1.0, None]
    assert outcomes[0].failed and outcomes[0].reason == "unscored"


async def test_a_scorer_decides_by_its_margin() -> None:
    label = ScorerLabel(kind="scorer", scorer="reward", min_margin=0.5)
    asked = [pair(0), pair(1, "b", "c"), pair(2, "c", "a")]
    run = Scores(a=1.0, b=0.6, c=0.0).run
    outcomes = await label_pairs(run, "collect", 1, asked, label, 0)
    assert [(each.probability, each.reason) for each in outcomes] == [(None, "tie"), (1.0, ""), (0.0, "")]


def test_equal_texts_and_missing_labels_make_no_comparison() -> None:
    assert pairs_of(row(0), rollouts("a", "a")) == []
    answers = rollouts("a", "b", "c")
    assert [each.key for each in pairs_of(row(0), answers)] == [("p0", 0, 1), ("p0", 0, 2), ("p0", 1, 2)]
    labelled = {
        ("p0", 0, 1): Outcome(None, "orders_disagree", source="judge"),
        ("p0", 0, 2): Outcome(0.25, source="judge"),
        ("p0", 1, 2): Outcome(1.0, source="person", annotator="ann"),
    }
    kept = compare(row(0), answers, labelled)
    assert kept["preferences"] == [[2, 0, 0.75], [1, 2, 1.0]] and kept["source"] == "judge+person"
    assert kept["details"] == [{"source": "judge"}, {"source": "person", "annotator": "ann"}]
    noisy = {("p0", 0, 1): Outcome(0.0, source="simulated:gold", margin=0.5)}
    assert compare(row(0), answers, noisy)["details"] == [{"source": "simulated:gold", "margin": -0.5}]


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid(-800.0) == 0.0 and sigmoid(800.0) == 1.0 and sigmoid(0.0) == 0.5


def test_a_limit_counts_comparisons_and_not_prompts() -> None:
    rows = [{"preferences": [[0, 1, 1.0], [1, 2, 1.0]]} for _ in range(5)]
    assert [len(each["preferences"]) for each in limited(rows, 5)] == [2, 2, 1]
    assert limited(rows, None) == rows


def test_agreement_pairs_leave_out_ties_and_missing_scores() -> None:
    assert order_pairs([1.0, 3.0, None, 1.0]) == [[1, 0, 1.0], [1, 3, 1.0]]


def test_steps_hold_every_row_once_an_epoch_and_drop_none() -> None:
    rows = [{"text": str(i)} for i in range(10)]
    steps = steps_of(rows, epochs=2, rows_per_step=4, seed=0)
    assert [len(step) for step in steps] == [4, 4, 2, 4, 4, 2]
    first, second = ([r["text"] for step in half for r in step] for half in (steps[:3], steps[3:]))
    assert sorted(first) == sorted(second) == sorted(str(i) for i in range(10)) and first != second
    assert updates_of(steps, minibatch_size=3) == 2 * (2 + 2 + 1)
