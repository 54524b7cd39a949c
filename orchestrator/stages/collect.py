"""Collecting comparisons: sample several responses to a prompt, and have them compared."""

import math
import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from orchestrator.data import read_prompts
from orchestrator.fitting import fitting_prompts
from orchestrator.peers import in_parallel
from orchestrator.prompts import Asked, Row
from orchestrator.recipe_stages import CollectStage
from orchestrator.run import Run, Stopwatch
from orchestrator.sampling import Sampler, cut, score, values
from orchestrator.seeds import derive, shuffled
from orchestrator.shapes import prompt_part
from orchestrator.sources import read_rows
from trueline.v1 import types_pb2


async def run_collect(run: Run, name: str, settings: CollectStage) -> dict[str, Any]:
    """Keeps one collection of comparisons, whole; one that is kept is not drawn or labelled again."""
    watch = Stopwatch()
    if not run.ledger.all_comparisons(settings.output):
        run.ledger.add_comparisons(settings.output, await collect(run, name, settings))
    rows = run.ledger.all_comparisons(settings.output)
    run.mark(name, 1, "labelled", {"prompts": len(rows)}, watch)
    return {
        "prompts": len(rows),
        "comparisons": sum(len(row["preferences"]) for row in rows),
        "held_out_prompts": sum(1 for row in rows if row["held_out"]),
        "policy": settings.policy,
    }


async def collect(run: Run, name: str, settings: CollectStage) -> list[dict[str, Any]]:
    """Samples and labels; its prompts are split into those that train and those held out, not its pairs."""
    prompts: list[Row] = read_rows(run, read_prompts, settings.prompts, settings.prompt_limit)
    policy = await run.serve_policy(settings.policy)
    await run.serve_scorers(settings.label.scorer)
    seed = derive(run.recipe.seed, name)
    prompts = await fitting_prompts(run, name, "prompts", prompts, settings, policy)
    sampler = Sampler(run, name, 1, settings.sampling, seed, truncate=settings.too_long == "truncate")
    samples = settings.samples_per_prompt

    async def label(index: int, rows: Sequence[Row]) -> list[dict[str, Any]]:
        rollouts = await sampler.chunk(index, [Asked(row) for row in rows], samples, policy)
        answered = [row for row in rows for _ in range(samples)]
        scores = values(
            await score(run, settings.label.scorer, answered, [r.response_text for r in rollouts])
        )
        run.progress.step_done(name, min((index + 1) * len(rows), len(prompts)), len(prompts), {})
        return [
            compare(
                row,
                rollouts[i * samples : (i + 1) * samples],
                scores[i * samples : (i + 1) * samples],
                settings.label.scale,
                seed,
            )
            for i, row in enumerate(rows)
        ]

    chunks = cut(prompts, settings.prompts_per_chunk)
    labelled = await in_parallel(label(index, rows) for index, rows in enumerate(chunks))
    rows = [row for chunk in labelled for row in chunk if row["preferences"]]
    held_out = set(
        shuffled(len(rows), derive(seed, "held-out"))[: round(len(rows) * settings.held_out_share)]
    )
    return [
        {**row, "source": f"simulated:{settings.label.scorer}", "held_out": index in held_out}
        for index, row in enumerate(rows)
    ]


def compare(
    row: Row, rollouts: Sequence[types_pb2.Rollout], scores: Sequence[float | None], scale: float, seed: int
) -> dict[str, Any]:
    """One prompt's comparisons, drawn from scores with Bradley-Terry noise.

    P(i beats j) = sigmoid(scale * (score_i - score_j)). Two equal texts are no comparison, and a
    response without a score takes part in none.

        {"prompt_id": "p7", "responses": ["a", "b"], "preferences": [[1, 0, 1.0]], ...}    b beat a
    """
    responses = [each.response_text for each in rollouts]
    preferences = []
    for first, second in combinations(range(len(responses)), 2):
        better, worse = scores[first], scores[second]
        if responses[first] == responses[second] or better is None or worse is None:
            continue
        draw = random.Random(derive(seed, "label", row["prompt_id"], first, second)).random()
        first_wins = draw < sigmoid(scale * (better - worse))
        preferences.append([first, second, 1.0] if first_wins else [second, first, 1.0])
    version = rollouts[0].policy_version
    return {
        "prompt_id": row["prompt_id"],
        "prompt": prompt_part(row),
        "responses": responses,
        "preferences": preferences,
        "policy_version": {"model": version.model, "number": version.number, "sha256": version.sha256},
    }


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
