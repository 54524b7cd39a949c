"""A stage is refused before its first draw where the policy's engine cannot do what it needs."""

import pytest

from orchestrator.engine_plan import lacks
from orchestrator.recipe_settings import SamplingSettings
from trueline.v1 import policy_pb2, types_pb2

ABLE = {
    "engine": "tgi",
    "logprob_kinds": [types_pb2.LOGPROB_KIND_PROCESSED],
    "hot_swap": False,
    "restarts": True,
    "stop_texts": 4,
    "top_k": True,
    "seeds": True,
}


@pytest.mark.parametrize(
    ("changes", "sampling", "versions", "said"),
    [
        ({}, {}, 30, []),
        ({}, {"stop": ["a"] * 5}, 1, ["5 texts, and it takes 4"]),
        ({"top_k": False}, {"top_k": 5}, 1, ["top_k is set"]),
        ({"top_k": False}, {}, 1, []),
        ({"seeds": False}, {}, 1, ["no seed"]),
        ({"logprob_kinds": [types_pb2.LOGPROB_KIND_RAW]}, {}, 1, ["not of what it draws from"]),
        ({"restarts": False}, {}, 1, []),
        ({"restarts": False}, {}, 31, ["31 versions"]),
        ({"restarts": False, "hot_swap": True}, {}, 31, []),
        ({"restarts": False, "seeds": False}, {"stop": ["a"] * 5}, 2, ["takes 4", "no seed", "2 versions"]),
    ],
)
def test_what_an_engine_lacks_is_named(changes, sampling, versions, said):
    able = policy_pb2.GetPolicyResponse(**{**ABLE, **changes})
    found = list(lacks(able, SamplingSettings(max_new_tokens=8, **sampling), versions))
    assert len(found) == len(said) and all(part in each for part, each in zip(said, found, strict=True))
