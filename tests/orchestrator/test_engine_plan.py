"""A stage is refused before its first draw where the policy's engine cannot do what it needs."""

import asyncio
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.drive import run_stages
from orchestrator.engine_plan import check_tokens, lacks, sampled_starts
from orchestrator.mending import Mending
from orchestrator.peers import Peers
from orchestrator.progress import PlainProgress
from orchestrator.recipe_settings import SamplingSettings, Supervision
from orchestrator.run import Run, RunError
from tests.model_services import policy_service
from tests.orchestrator.written_run import RunWriter
from tests.policy.test_loading import REFUSED, written
from trueline import CallError
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


def told(service: str, *tokenizers: str) -> dict[str, Any]:
    async def ask(tokenizer: str) -> Any:
        return SimpleNamespace(tokenizer_sha256=tokenizer)

    asks = {"policy": "get_policy", "reference": "get_reference"}
    return {each: SimpleNamespace(**{asks[service]: partial(ask, each)}) for each in tokenizers}


@pytest.mark.parametrize("reference", ["one", "other"])
async def test_a_reference_that_reads_other_tokens_than_the_policy_is_refused(reference: str) -> None:
    async def ask(service: str, call: Any) -> Any:
        return await call()

    direct = {"policy": told("policy", "one"), "reference": told("reference", reference)}
    run: Any = SimpleNamespace(ask=ask, peers=SimpleNamespace(direct=direct))
    if reference == "one":
        await check_tokens(run, "dpo")
    else:
        with pytest.raises(RunError, match="stages.dpo: the reference's tokenizer is not the policy's"):
            await check_tokens(run, "dpo")


def test_a_policy_made_of_itself_starts_where_the_first_one_did() -> None:
    def stage(**fields: object) -> SimpleNamespace:
        return SimpleNamespace(services={"policy"}, **fields)

    stages = {
        "sft": SimpleNamespace(services={"trainer"}, init="base", output="sft"),
        "first": stage(policy="sft", output="policy"),
        "second": stage(policy="policy", output="policy"),
        "other": stage(policy="teacher"),
    }
    recipe: Any = SimpleNamespace(stages=stages, models={"base": "a", "teacher": "b", "unused": "c"})
    assert sampled_starts(recipe) == ["base", "teacher"]


async def test_a_run_ends_before_it_trains_what_its_policy_cannot_sample(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    assert sampled_starts(writer.recipe) == ["start"], "sft of start, and ppo of sft"
    written(tmp_path / "start", "mamba", REFUSED["mamba"])
    async with policy_service() as (_, server):
        nobody: dict[str, list[str]] = {name: [] for name in ("reference", "reward", "trainer")}
        async with Peers({**nobody, "policy": [server.address]}) as peers:
            mending = Mending(Supervision(), asyncio.Event(), print)
            run = Run(
                writer.recipe, writer.directory, writer.ledger, peers, PlainProgress(sys.stderr), mending
            )
            with pytest.raises(CallError, match="cannot sample this architecture"):
                await run_stages(run)
    assert [(row["stage"], row["status"]) for row in writer.ledger.all_stages()] == [("sft", "running")]
