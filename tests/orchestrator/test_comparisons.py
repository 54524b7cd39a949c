"""Comparisons drawn from scores, and the batches cut from them."""

import math

import pytest

from orchestrator.stages.collect import compare, sigmoid
from orchestrator.stages.reward import limited, order_pairs
from orchestrator.stages.supervised import steps_of, updates_of
from trueline.v1 import types_pb2


def rollouts(*texts: str) -> list[types_pb2.Rollout]:
    return [types_pb2.Rollout(response_text=text) for text in texts]


def row(index: int) -> dict[str, object]:
    return {"prompt_id": f"p{index}", "text": "hello"}


def test_labels_follow_bradley_terry() -> None:
    """P(first wins) = sigmoid(2 * 0.5) = 0.731 over 4,000 draws, within 4 standard errors."""
    wins = [
        compare(row(i), rollouts("a", "b"), [1.0, 0.5], scale=2.0, seed=0)["preferences"][0][0] == 0
        for i in range(4000)
    ]
    expected = sigmoid(1.0)
    assert sum(wins) / 4000 == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 4000))


def test_labels_are_the_same_whenever_they_are_drawn() -> None:
    one, other = (compare(row(7), rollouts("a", "b", "c"), [1.0, 0.9, 0.8], 1.0, seed=5) for _ in range(2))
    assert one == other and len(one["preferences"]) == 3


def test_equal_texts_and_missing_scores_make_no_comparison() -> None:
    assert compare(row(0), rollouts("a", "a"), [1.0, 1.0], 2.0, 0)["preferences"] == []
    kept = compare(row(0), rollouts("a", "b", "c"), [1.0, None, 2.0], 50.0, 0)["preferences"]
    assert kept == [[2, 0, 1.0]]


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
