"""Collecting comparisons: sample several responses to a prompt, and have them compared."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from orchestrator.data import read_prompts
from orchestrator.fitting import fitting_prompts
from orchestrator.labelling import Outcome, Pair, label_pairs, mendable, serve_labellers
from orchestrator.peers import in_parallel
from orchestrator.prompts import Asked, Row
from orchestrator.recipe_stages import CollectStage
from orchestrator.run import Run, RunError, Stopwatch
from orchestrator.sampling import Sampler, cut, cut_prompts
from orchestrator.seeds import derive, shuffled
from orchestrator.shapes import opening, prompt_part
from orchestrator.sources import read_rows
from trueline.v1 import types_pb2


async def run_collect(run: Run, name: str, settings: CollectStage) -> dict[str, Any]:
    """Keeps one collection of comparisons on the stage's own prompts."""
    prompts = read_rows(run, read_prompts, settings.prompts, settings.prompt_limit)
    return await collect_on(run, name, settings, prompts)


async def collect_on(
    run: Run,
    name: str,
    settings: CollectStage,
    prompts: list[Row],
    held_out: Mapping[str, bool] | None = None,
) -> dict[str, Any]:
    """Keeps one collection of comparisons, whole; one that is kept is not drawn or labelled again.

    `held_out` says of prompts that were compared before, by what they began with, on which side they are:
    that is where they stay, and new ones that begin alike stay together.
    """
    watch = Stopwatch()
    if not run.ledger.all_comparisons(settings.output):
        rows, account = await collect(run, name, settings, prompts, held_out)
        run.mark(name, 1, "outcomes", account, watch)
        run.ledger.add_comparisons(settings.output, rows)
    rows = run.ledger.all_comparisons(settings.output)
    run.mark(name, 1, "labelled", {"prompts": len(rows)}, watch)
    return {
        "prompts": len(rows),
        "comparisons": sum(len(row["preferences"]) for row in rows),
        "held_out_prompts": sum(1 for row in rows if row["held_out"]),
        "policy": settings.policy,
        **(run.ledger.phase(name, 1, "outcomes") or {}),
    }


async def collect(
    run: Run, name: str, settings: CollectStage, prompts: list[Row], known: Mapping[str, bool] | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Samples and labels; its prompts are split into those that train and those held out, not its pairs.

    The second value counts the labels by source, and the pairs without one by reason.
    """
    policy = await run.serve_policy(settings.policy)
    await serve_labellers(run, settings.label)
    seed = derive(run.recipe.seed, name)
    prompts = await fitting_prompts(run, name, "prompts", prompts, settings, policy)
    drawn = await sampled(run, name, settings, prompts, policy, seed)
    pairs = [pair for row, rollouts in zip(prompts, drawn, strict=True) for pair in pairs_of(row, rollouts)]
    outcomes = await label_pairs(run, name, 1, pairs, settings.label, seed)
    with mendable(run, name, 1, pairs, outcomes):
        account = refuse_failures(name, outcomes, settings.max_missing_share)
    labelled = {pair.key: outcome for pair, outcome in zip(pairs, outcomes, strict=True)}
    compared = (compare(row, rollouts, labelled) for row, rollouts in zip(prompts, drawn, strict=True))
    rows = [row for row in compared if row["preferences"]]
    sides = held_out_sides(rows, settings.held_out_share, derive(seed, "held-out"), known)
    return [{**row, "held_out": side} for row, side in zip(rows, sides, strict=True)], account


def held_out_sides(
    rows: Sequence[Row], share: float, seed: int, known: Mapping[str, bool] | None
) -> list[bool]:
    """Whether each prompt is held out: about `share` of them, drawn; but for what `known` says of them."""
    drawn = set(shuffled(len(rows), seed)[: round(len(rows) * share)])
    if known is None:
        return [index in drawn for index in range(len(rows))]
    sides = dict(known)
    return [sides.setdefault(opening(row["prompt"]), index in drawn) for index, row in enumerate(rows)]


async def sampled(
    run: Run,
    name: str,
    settings: CollectStage,
    prompts: Sequence[Row],
    policy: types_pb2.ModelVersion,
    seed: int,
) -> list[list[types_pb2.Rollout]]:
    """The responses to each prompt, in order."""
    sampler = Sampler(run, name, 1, settings.sampling, seed, truncate=settings.too_long == "truncate")
    samples = settings.samples_per_prompt

    async def draw(index: int, rows: Sequence[Row]) -> list[types_pb2.Rollout]:
        rollouts = await sampler.chunk(index, [Asked(row) for row in rows], samples, policy)
        run.progress.step_done(name, min((index + 1) * len(rows), len(prompts)), len(prompts), {})
        return rollouts

    chunks = cut_prompts(prompts, settings.prompts_per_chunk, samples)
    drawn = await in_parallel(draw(index, rows) for index, rows in enumerate(chunks))
    everything = [each for rollouts in drawn for each in rollouts]
    return [list(answers) for answers in cut(everything, samples)]


def pairs_of(row: Row, rollouts: Sequence[types_pb2.Rollout]) -> list[Pair]:
    """Every pair of a prompt's responses; two equal texts are none."""
    texts, name = [each.response_text for each in rollouts], row["prompt_id"]
    return [
        Pair(f"{name}/{first}-{second}", row, texts[first], texts[second], (name, first, second))
        for first, second in combinations(range(len(texts)), 2)
        if texts[first] != texts[second]
    ]


def refuse_failures(name: str, outcomes: Sequence[Outcome], limit: float) -> dict[str, Any]:
    """Counts labels by source and pairs without one by reason; RunError where too many failed.

    Slow or odd answers would be the ones left out.
    """
    reasons = Counter(each.reason for each in outcomes if each.probability is None)
    failed = [each for each in outcomes if each.failed]
    if len(failed) > limit * len(outcomes):
        raise RunError(
            f"{name}: {len(failed)} of {len(outcomes)} pairs have no label, more than max_missing_share "
            f"({limit:g}) allows; the first: {failed[0].reason}: {failed[0].message}. Mend who labels "
            f"({failed[0].source}) and resume"
        )
    sources = Counter(each.source for each in outcomes if each.probability is not None)
    return {"sources": dict(sorted(sources.items())), "left_out": dict(sorted(reasons.items()))}


def compare(
    row: Row, rollouts: Sequence[types_pb2.Rollout], labelled: dict[tuple[Any, ...], Outcome]
) -> dict[str, Any]:
    """One prompt's comparisons: the likelier winner first, and how likely it is. No label, no comparison.

    {"prompt_id": "p7", "responses": ["a", "b"], "preferences": [[1, 0, 0.9]], ...}    b beats a, by 0.9
    """
    name, preferences, details = row["prompt_id"], [], []
    for first, second in combinations(range(len(rollouts)), 2):
        outcome = labelled.get((name, first, second))
        if outcome is None or outcome.probability is None:
            continue
        chance = outcome.probability
        preferences.append([first, second, chance] if chance >= 0.5 else [second, first, 1 - chance])
        details.append(details_of(outcome))
    version = rollouts[0].policy_version
    return {
        "prompt_id": name,
        "prompt": prompt_part(row),
        "responses": [each.response_text for each in rollouts],
        "preferences": preferences,
        "details": details,
        "source": "+".join(sorted({each["source"] for each in details})),
        "policy_version": {"model": version.model, "number": version.number, "sha256": version.sha256},
    }


def details_of(outcome: Outcome) -> dict[str, Any]:
    """Who labelled, and by how much the winner's score is above the other's; noise may make that negative."""
    told: dict[str, Any] = {"source": outcome.source}
    if outcome.annotator is not None:
        told["annotator"] = outcome.annotator
    if outcome.margin is not None and outcome.probability is not None:
        told["margin"] = outcome.margin if outcome.probability >= 0.5 else -outcome.margin
    return told
