"""What the ledger keeps of rollouts for good: whose they are and how long, when their payloads are gone.

account_of(rollouts)    {"rollouts": 3, "names_sha256": "5f...", "lengths": [12, 7, 32]}
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from trueline.v1 import types_pb2

Name = tuple[str, int]  # prompt id and sample index, which name a rollout within its stage


def name_of_rollout(rollout: types_pb2.Rollout) -> Name:
    """The rollout's name: ("p17", 0)."""
    return rollout.prompt_id, rollout.sample_index


def names_sha256(names: Iterable[Name]) -> str:
    """One digest for rollouts in their order."""
    return hashlib.sha256(json.dumps([list(name) for name in names]).encode()).hexdigest()


def account_of(rollouts: Sequence[types_pb2.Rollout]) -> dict[str, Any]:
    """How many, whose, and how many tokens each response has, in the batch's order."""
    return {
        "rollouts": len(rollouts),
        "names_sha256": names_sha256(map(name_of_rollout, rollouts)),
        "lengths": [len(each.response_ids) for each in rollouts],
    }
