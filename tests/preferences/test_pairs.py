"""Which responses are compared."""

from orchestrator.labelling import Outcome
from orchestrator.stages.pairs import best_against_worst, pairings, pairs_of
from trueline.v1 import types_pb2


def answers(*texts: str, scores: tuple[float | None, ...] = ()) -> list[types_pb2.Rollout]:
    made = []
    for index, text in enumerate(texts):
        rollout = types_pb2.Rollout(prompt_id="p", sample_index=index, response_text=text)
        score = scores[index] if scores else None
        if score is not None:
            rollout.score.value.normalised = rollout.score.value.raw = score
        made.append(rollout)
    return made


def test_pairs_that_share_no_response_come_first_and_none_comes_twice() -> None:
    for count in range(2, 9):
        found = pairings(count)
        assert len({frozenset(pair) for pair in found}) == len(found) == count * (count - 1) // 2
        first = [place for pair in found[: count // 2] for place in pair]
        assert len(set(first)) == len(first)


def test_equal_texts_are_no_pair_and_give_their_place_to_the_next() -> None:
    row = {"prompt_id": "p", "text": "?"}
    made = pairs_of([row] * 4, answers("a", "b", "b", "a"), 4, 2, scored=False)
    assert [pair.item for pair in made] == ["p/0-2", "p/3-1"], "0-3 and 1-2 are of equal texts"
    assert pairs_of([row] * 2, answers("a", "a"), 2, 1, scored=False) == []


def test_the_best_stands_against_the_worst_and_a_missing_score_last() -> None:
    assert best_against_worst(answers(*"abcd", scores=(1.0, 4.0, 2.0, 3.0))) == [(1, 0), (3, 2)]
    assert best_against_worst(answers(*"abc", scores=(1.0, None, 2.0))) == [(2, 1)]


def test_a_pair_without_a_label_carries_its_reason_and_no_number() -> None:
    row = {"prompt_id": "p", "text": "?"}
    (pair,) = pairs_of([row] * 2, answers("a", "b"), 2, 1, scored=False)
    failed = pair.as_message(Outcome(None, "unscored", "no score"))
    assert failed.WhichOneof("preference") == "error" and failed.error.reason == "unscored"
    assert pair.as_message(Outcome(0.25)).probability == 0.25
