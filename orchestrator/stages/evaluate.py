"""Before and after on the same held-out prompts: gold, proxy, length, win rate, sequence KL."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.data import read_prompts
from orchestrator.fitting import fitting_prompts
from orchestrator.payloads import Payload, read_payload, write_payload
from orchestrator.peers import in_parallel
from orchestrator.prompts import Asked, Row, as_text
from orchestrator.recipe_evaluation import Evaluated, EvaluateStage
from orchestrator.run import Run
from orchestrator.sampling import (
    Sampler,
    cut,
    cut_prompts,
    present,
    reference_logprobs,
    rollouts_path,
    score,
    values,
)
from orchestrator.seeds import derive
from orchestrator.sources import read_rows
from orchestrator.statistics import mean_interval, win_rate
from trueline.v1 import trainer_pb2, types_pb2

Scores = dict[str, list[float | None]]  # by role: "gold", "best", "proxy" and the names of the ceilings


@dataclass(frozen=True)
class Measured:
    """Held-out prompts, and by role ("before", "after") one response and its scores for each."""

    prompts: list[Row]
    sampled: dict[str, list[types_pb2.Rollout]]
    scored: dict[str, Scores]


async def run_evaluate(run: Run, name: str, settings: EvaluateStage) -> dict[str, Any]:
    """One sample per held-out prompt of either model, with the same fixed seeds, scored by every scorer."""
    if settings.sampling.is_filtered:
        run.ledger.note(f"{name}: no sequence KL, since top_p or top_k filters what is sampled")
    return before_and_after(settings, await measure(run, name, settings))


async def measure(run: Run, name: str, settings: Evaluated) -> Measured:
    """Draws and scores; a resume draws no chunk again."""
    prompts: list[Row] = read_rows(run, read_prompts, settings.prompts, settings.prompt_limit)
    scorers = {
        role: scorer
        for role, scorer in {
            "gold": settings.gold_scorer,
            "best": settings.best_scorer,
            "proxy": settings.proxy_scorer,
            **settings.ceilings,
        }.items()
        if scorer is not None
    }
    reference = await run.serve_reference(settings.reference) if settings.reference else None
    await run.serve_scorers(*scorers.values())
    before = await run.serve_policy(settings.before)
    prompts = await fitting_prompts(run, name, "prompts", prompts, settings, before)
    found = Measured(prompts, {}, {})
    for role, model in (("before", settings.before), ("after", settings.after)):
        found.sampled[role] = await sample(run, name, role, model, settings, prompts, reference)
        found.scored[role] = await scores_of(run, name, role, scorers, prompts, found.sampled[role])
    return found


def before_and_after(settings: Evaluated, found: Measured) -> dict[str, Any]:
    """The figures of both models side by side."""
    return {
        "prompts": len(found.prompts),
        "temperature": settings.sampling.temperature,
        "before": settings.before,
        "after": settings.after,
        "models": {
            getattr(settings, role): figures(found.sampled[role], found.scored[role])
            for role in ("before", "after")
        },
        **against_gold(settings, found.scored),
        "sequence_kl": sequence_kl(found.sampled["after"]) if settings.reference else {},
        "examples": examples(settings.examples, found.prompts, found.sampled, found.scored),
    }


async def sample(
    run: Run,
    name: str,
    role: str,
    model: str,
    settings: Evaluated,
    prompts: list[Row],
    reference: types_pb2.ModelVersion | None,
) -> list[types_pb2.Rollout]:
    """One sample per prompt, with log-probs under the reference; durable as one payload."""

    async def produce() -> dict[str, Any]:
        policy = await run.serve_policy(model)
        seed, truncate = derive(run.recipe.seed, name), settings.too_long == "truncate"
        sampler = Sampler(run, name, 1, settings.sampling, seed, label=f"{role}-", truncate=truncate)

        async def fill(index: int, rows: Sequence[Row]) -> list[types_pb2.Rollout]:
            rollouts = await sampler.chunk(index, [Asked(row) for row in rows], 1, policy)
            if reference is not None:
                await reference_logprobs(run, rollouts, reference)
            return rollouts

        chunks = cut_prompts(prompts, settings.prompts_per_chunk, samples=1)
        filled = await in_parallel(fill(index, rows) for index, rows in enumerate(chunks))
        batch = trainer_pb2.PpoBatch(rollouts=[each for rollouts in filled for each in rollouts])
        run.progress.note(f"{name}: sampled {len(batch.rollouts)} responses of {model}")
        return write_payload(rollouts_path(run, name, 1) / f"{role}.pb", batch).as_row()

    payload = Payload(**await run.durable(name, 1, role, produce))
    return list(read_payload(payload, trainer_pb2.PpoBatch).rollouts)


async def scores_of(
    run: Run,
    name: str,
    role: str,
    scorers: dict[str, str],
    prompts: list[Row],
    rollouts: list[types_pb2.Rollout],
) -> Scores:
    """Every scorer's scores of one model's responses; durable, so that a resume asks no scorer again."""
    texts = [each.response_text for each in rollouts]

    async def produce() -> dict[str, Any]:
        return {each: await score_all(run, scorer, prompts, texts) for each, scorer in scorers.items()}

    return await run.durable(name, 1, f"{role}-scored", produce)


async def score_all(run: Run, scorer: str, prompts: list[Row], texts: list[str]) -> list[float | None]:
    """Every response's score by one scorer; raw for a rule, normalised for what models have a part in."""
    learned = scorer not in run.recipe.services.reward.rules
    chunks = list(zip(cut(prompts, 256), cut(texts, 256), strict=True))
    scores = await in_parallel(score(run, scorer, rows, responses) for rows, responses in chunks)
    return values([each for chunk in scores for each in chunk], normalised=learned)


def figures(rollouts: list[types_pb2.Rollout], scores: Scores) -> dict[str, Any]:
    """One model's row of the table; a score that is missing is left out and counted."""
    ended = [each.finish_reason != types_pb2.FINISH_REASON_LENGTH for each in rollouts]
    row: dict[str, Any] = {
        "response_tokens_mean": sum(len(each.response_ids) for each in rollouts) / len(rollouts),
        "ended_share": sum(ended) / len(ended),
        "excluded": sum(1 for role in ("gold", "proxy") for each in scores.get(role, []) if each is None),
    }
    for role in ("gold", "proxy"):
        if present(scores.get(role, [])):
            row[role] = mean_interval(present(scores[role])).as_dict()
    return row


def against_gold(settings: Evaluated, scored: dict[str, Scores]) -> dict[str, Any]:
    """Win rate, best possible gold, ceilings, and the share of the gap to the best that was closed."""
    before, after = scored["before"].get("gold", []), scored["after"].get("gold", [])
    best = scored["before"].get("best", [])
    counted = [i for i, pair in enumerate(zip(before, after, strict=True)) if None not in pair]
    if not counted:
        return {}
    # A prompt without one of the scores is as if it were not there, for every figure that it is part of.
    sides = [present([side[i] for i in counted]) for side in (before, after)]
    found: dict[str, Any] = {"win_rate": win_rate(*sides).as_dict()}
    found["ceilings"] = {
        name: mean_interval(present([scored["before"][name][i] for i in counted])).mean
        for name in settings.ceilings
    }
    reachable = [i for i in counted if best and best[i] is not None]
    if reachable:
        start, end, top = (sum(present([side[i] for i in reachable])) for side in (before, after, best))
        start, end, found["best_gold"] = (total / len(reachable) for total in (start, end, top))
        gap = found["best_gold"] - start
        found["gap_closed"] = (end - start) / gap if gap > 0 else None
    return found


def sequence_kl(rollouts: list[types_pb2.Rollout]) -> dict[str, Any]:
    """KL of the policy to the reference in nats per sequence, by both estimators (Schulman's k1 and k3).

    Nothing where top-p or top-k filtered what was drawn: those log-probs are the sampler's, not the policy's,
    and their distance from the reference is above 0 where the two are one model.
    """
    if any(is_filtered(each.sampling) for each in rollouts):
        return {}
    k1, k3 = [], []
    for each in rollouts:
        ratios = [r - p for p, r in zip(each.policy_logprobs, each.reference_logprobs, strict=True)]
        k1.append(-sum(ratios))
        k3.append(
            sum(math.exp(min(ratio, 20.0)) - 1 - ratio for ratio in ratios)
        )  # exp(20) is no sample's weight
    return {"k1": mean_interval(k1).as_dict(), "k3": mean_interval(k3).as_dict()}


def is_filtered(sampling: types_pb2.SamplingParameters) -> bool:
    """True where not every token could be drawn."""
    return sampling.top_k > 0 or 0.0 < sampling.top_p < 1.0


def examples(
    count: int, prompts: list[Row], sampled: dict[str, list[types_pb2.Rollout]], scored: dict[str, Scores]
) -> list[dict[str, Any]]:
    """The first prompts with both answers, chosen by nobody."""
    return [
        {
            "prompt": as_text(prompts[i]),
            **{role: sampled[role][i].response_text for role in ("before", "after")},
            **{
                f"gold_{role}": scored[role]["gold"][i]
                for role in ("before", "after")
                if "gold" in scored[role]
            },
        }
        for i in range(min(count, len(prompts)))
    ]
