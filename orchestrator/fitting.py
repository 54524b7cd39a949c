"""Prompts that leave no room for an answer: found before anything is drawn, dealt with as the recipe says."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from orchestrator.data import MOST_FAULTS
from orchestrator.engine_plan import check_engines
from orchestrator.prompts import Row, prompt_message
from orchestrator.recipe_settings import SampledSettings
from orchestrator.run import Run, RunError
from orchestrator.sampling import cut
from trueline.v1 import types_pb2

PROMPTS_A_CALL = 512


async def fitting_prompts(
    run: Run,
    name: str,
    what: str,
    prompts: Sequence[Row],
    settings: SampledSettings,
    policy: types_pb2.ModelVersion,
) -> list[Row]:
    """The prompts to draw from, by the stage's too_long: those that fit, or all. `what` names the phase.

    Counted once and kept: a resume goes on with the same prompts. RunError where they are to be refused, and
    where the policy's engine cannot draw as the stage wants.
    """
    await check_engines(run, name, settings.sampling, 1 + getattr(settings, "rounds", 0))

    async def produce() -> dict[str, Any]:
        tokens, context = await tokens_of(run, prompts, policy)
        room = context - settings.sampling.max_new_tokens
        too_long = {row["prompt_id"]: n for row, n in zip(prompts, tokens, strict=True) if n > room}
        return {"too_long": too_long, "context_length": context}

    found = await run.durable(name, 0, f"fitting-{what}", produce)
    too_long, context = found["too_long"], found["context_length"]
    if not too_long:
        return list(prompts)
    new_tokens = settings.sampling.max_new_tokens
    said = (
        f"stages.{name}: {len(too_long)} of {len(prompts)} {what} leave no room for {new_tokens} new "
        f"tokens in the policy's context of {context}: {_named(too_long)}"
    )
    kept = [row for row in prompts if row["prompt_id"] not in too_long]
    everything = new_tokens >= context or (settings.too_long == "drop" and not kept)
    if settings.too_long == "refuse" or everything:
        others = [each for each in ("truncate", "drop") if each != settings.too_long and not everything]
        instead = f", or set too_long: {' or '.join(others)}" if others else ""
        raise RunError(f"{said}. Shorten them or sampling.max_new_tokens{instead}")
    what_became = "lose their oldest tokens" if settings.too_long == "truncate" else "are left out"
    run.ledger.note(f"{said}; they {what_became}")
    return list(prompts) if settings.too_long == "truncate" else kept


async def tokens_of(
    run: Run, prompts: Sequence[Row], policy: types_pb2.ModelVersion
) -> tuple[list[int], int]:
    """(tokens of each prompt as the policy reads it, the policy's context)."""
    tokens: list[int] = []
    context = 0
    for chunk in cut(prompts, PROMPTS_A_CALL):
        messages = [prompt_message(row) for row in chunk]
        count = partial(run.peers.policy.count_prompt_tokens, prompts=messages, expected_version=policy)
        reply = await run.ask("policy", count)
        tokens += reply.tokens
        context = reply.context_length
    return tokens, context


def _named(too_long: dict[str, int]) -> str:
    """`p1 (70 tokens), p9 (81 tokens) and 3 more`"""
    first = [f"{name} ({tokens} tokens)" for name, tokens in list(too_long.items())[:MOST_FAULTS]]
    more = f" and {len(too_long) - MOST_FAULTS} more" if len(too_long) > MOST_FAULTS else ""
    return ", ".join(first) + more
