"""How a stage calls the judge: one judge from its first call to its last, few calls at once, none with more
questions than are answered in time.
"""

import asyncio
from typing import Any, Literal, Protocol

from orchestrator.recipe_labels import JudgeLabel
from orchestrator.run import Run, RunError
from trueline.v1 import judge_pb2, types_pb2

CALLS_AT_ONCE = 2  # for each replica
# Of a call's deadline, which its requests are planned to take: what is tried again takes its turn once more,
# and calls are spread over replicas in turn, not by who is free.
PLANNED_SHARE = 0.5
# Abstentions that say how the endpoint was, not what the judge thought: it may answer when asked again.
UNANSWERED = frozenset({"endpoint_failed", "endpoint_refused", "rate_limited", "timed_out"})


async def judge_expected(
    run: Run, stage: str, version: types_pb2.ModelVersion | None, turn: int = 0
) -> dict[str, Any]:
    """What every call of a stage expects of the judge: the constitution and the version of its first call.

    Fields of the judge's requests. The ledger keeps them, so that a resume expects the same; `turn` tells
    judges in rotation apart, and an endpoint has no version.
    """
    kept = run.ledger.phase(stage, 0, "judge")
    if kept is None:
        constitution = (await run.ask("judge", lambda: run.peers.judge.get_constitution())).constitution
        found = {"sha256": constitution.sha256, "constitution": constitution.name}
        kept = run.ledger.finish_phase(stage, 0, "judge", found)
    expected: dict[str, Any] = {"expected_constitution_sha256": kept["sha256"]}
    if version is not None:
        place = f"judge-{turn % len(run.recipe.services.judge.judges)}"
        served = {"model": version.model, "number": version.number, "sha256": version.sha256}
        first = run.ledger.phase(stage, 0, place) or run.ledger.finish_phase(stage, 0, place, served)
        expected["expected_version"] = types_pb2.ModelVersion(**first)
    return expected


def few_at_once(run: Run) -> asyncio.Semaphore:
    """What a call holds while it is under way: behind many others at the judge it would miss its deadline."""
    return asyncio.Semaphore(CALLS_AT_ONCE * max(1, run.peers.count("judge")))


async def items_per_call(run: Run, label: JudgeLabel, purpose: Literal["compare", "score"]) -> int:
    """`pairs_per_call`, or as many as the recipe's requests_per_minute lets through in time.

    RunError where that is not even one: its questions would be given up, call by call.
    """
    judge = run.recipe.services.judge
    if judge.requests_per_minute is None or judge.model is not None:
        return label.pairs_per_call
    requests = await requests_of_an_item(run, label, purpose)
    in_time = PLANNED_SHARE * run.deadline * judge.requests_per_minute / 60 / CALLS_AT_ONCE
    if in_time < requests:
        raise RunError(
            f"services.judge.requests_per_minute: {judge.requests_per_minute:g} let each of {CALLS_AT_ONCE} "
            f"calls make {in_time:.3g} requests within half of supervision.call_seconds "
            f"({run.deadline:g}), and one item takes {requests}: raise one of the two, or ask by fewer "
            "principles"
        )
    return min(label.pairs_per_call, int(in_time // requests))


async def requests_of_an_item(run: Run, label: JudgeLabel, purpose: Literal["compare", "score"]) -> int:
    """How often the endpoint is asked for one verdict, or one score: scores are by all principles."""
    by = 1
    if purpose == "score" or label.choice == "ensemble":
        in_force = await run.ask("judge", lambda: run.peers.judge.get_constitution())
        by = sum(
            bool(each.compare or (purpose == "score" and each.score))
            for each in selected(in_force.constitution, label)
        )
    if purpose == "score":
        return max(1, by)
    return max(1, by) * 2 * (2 if label.chain_of_thought else 1)


class Selecting(Protocol):
    """Settings that take some principles of a constitution: those of these names and tags; empty is any."""

    principles: list[str]
    tags: list[str]


def selected(constitution: judge_pb2.Constitution, by: Selecting) -> list[judge_pb2.Principle]:
    """The principles that settings take, whatever texts they have."""
    return [
        each
        for each in constitution.principles
        if (not by.principles or each.name in by.principles)
        and (not by.tags or set(by.tags) & set(each.tags))
    ]
