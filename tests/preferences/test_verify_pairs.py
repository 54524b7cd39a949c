"""What `verify` says of a round's pairs: each inconsistency under its name."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.payloads import write_payload
from orchestrator.schema import metadata
from orchestrator.verify_findings import Rows
from orchestrator.verify_pairs import PairCount, check_account, check_labels, check_sides
from trueline.v1 import trainer_pb2, types_pb2

Pairs = list[trainer_pb2.PreferencePair]


def rollout(prompt: str, sample: int) -> types_pb2.Rollout:
    return types_pb2.Rollout(prompt_id=prompt, sample_index=sample, response_ids=[sample + 3])


SAMPLED = [rollout(prompt, sample) for prompt in ("p", "q") for sample in range(2)]


def batch() -> Pairs:
    pairs = []
    for prompt in ("p", "q"):
        first, second = rollout(prompt, 0), rollout(prompt, 1)
        first.reference_logprobs.append(-1.0)  # what came after sampling is nobody's concern here
        sampled = trainer_pb2.SampledPair(first=first, second=second)
        pairs.append(trainer_pb2.PreferencePair(prompt_id=prompt, sampled=sampled, probability=1.0))
    pairs[1].error.reason = "unscored"
    return pairs


LABELLED = {"pairs": 3, "left_out": {"tie": 1}, "missing": {"unscored": 1}}
TRAINED = {"trained": True, "excluded_rows": [[1, "preference_failed"]]}


def findings(pairs: Pairs) -> list[str]:
    found = [
        *check_sides("dpo 1 paired", pairs, SAMPLED),
        *check_account("dpo 1 paired", pairs, LABELLED),
        *check_labels("dpo 1 trained", pairs, TRAINED),
    ]
    return [each.kind for each in found]


def test_a_clean_round_has_no_findings() -> None:
    assert findings(batch()) == []


def another_token(pairs: Pairs) -> None:
    pairs[0].sampled.first.response_ids[0] = 9


def an_unknown_rollout(pairs: Pairs) -> None:
    pairs[0].sampled.second.sample_index = 7


def two_prompts(pairs: Pairs) -> None:
    pairs[0].sampled.second.CopyFrom(rollout("q", 1))


def the_same_again(pairs: Pairs) -> None:
    pairs[1].sampled.CopyFrom(pairs[0].sampled)
    pairs[1].prompt_id = "p"


def a_label_from_nowhere(pairs: Pairs) -> None:
    pairs[1].probability = 1.0


def no_label_and_yet_trained(pairs: Pairs) -> None:
    pairs[0].error.reason = "unscored"


@pytest.mark.parametrize(
    ("plant", "kinds"),
    [
        (another_token, ["rollout_changed"]),
        (an_unknown_rollout, ["rollout_changed"]),
        (two_prompts, ["pair_mixed"]),
        (the_same_again, ["pair_repeated"]),
        (a_label_from_nowhere, ["pair_lost", "pair_left_out"]),
        (no_label_and_yet_trained, ["pair_lost", "pair_unlabelled"]),
    ],
)
def test_each_inconsistency_is_found(plant: Callable[[Pairs], None], kinds: list[str]) -> None:
    pairs = batch()
    plant(pairs)
    assert findings(pairs) == kinds


@pytest.mark.parametrize("gone", ["paired", "labelled", "trained"])
def test_a_phase_that_is_gone_is_left_to_its_own_finding(tmp_path: Path, gone: str) -> None:
    paired = write_payload(tmp_path / "paired.pb", trainer_pb2.PreferenceBatch(pairs=batch()))
    outputs = {
        "paired": paired.as_row(),
        "labelled": LABELLED,
        "trained": {**TRAINED, "excluded": {}, "metrics": {"rows": 1.0}, "batch_sha256": paired.sha256},
    }
    common = {"stage": "dpo", "round": 1, "sequence": 1, "finished_at": 1.0}
    phases = [{**common, "phase": name, "output": output} for name, output in outputs.items() if name != gone]
    count = object.__new__(PairCount)
    count.rows = Rows({name: [] for name in metadata.tables} | {"runs": [{}], "phases": phases})
    count.stage, count.sampled_lengths, count.trained_lengths = "dpo", [], []
    list(count._check_trained({"round": 1}, SAMPLED))
