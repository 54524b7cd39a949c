"""Several answers to one prompt: for diversity, and for the best of n."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.evaluation import best_of_n
from orchestrator.evaluation.overoptimisation import BEST_OF_N, Law, fit
from orchestrator.evaluation.texts import variety_of_a_prompt
from orchestrator.peers import in_parallel
from orchestrator.prompts import Asked, Row
from orchestrator.recipe_evaluation import AssessStage
from orchestrator.run import Run
from orchestrator.sampling import Sampler, cut, cut_prompts
from orchestrator.seeds import derive
from orchestrator.stages.evaluate import score_all
from orchestrator.statistics import mean_interval
from trueline.v1 import types_pb2

Scored = list[list[tuple[float, float | None]]]  # by prompt and answer: proxy, and gold where there is one
RESAMPLES = 400


async def draw(
    run: Run, name: str, label: str, model: str, settings: AssessStage, prompts: Sequence[Row], samples: int
) -> list[list[types_pb2.Rollout]]:
    """`samples` answers of a model to each prompt, by prompt; each chunk is durable."""
    policy = await run.serve_policy(model)
    seed, truncate = derive(run.recipe.seed, name, label), settings.too_long == "truncate"
    sampler = Sampler(run, name, 1, settings.sampling, seed, label=f"{label}-", truncate=truncate)
    chunks = cut_prompts(prompts, max(1, settings.prompts_per_chunk // samples), samples)
    drawn = await in_parallel(
        sampler.chunk(index, [Asked(row) for row in rows], samples, policy)
        for index, rows in enumerate(chunks)
    )
    rollouts = [each for chunk in drawn for each in chunk]
    run.progress.note(f"{name}: {len(rollouts)} responses of {model}, {samples} a prompt")
    return [list(group) for group in cut(rollouts, samples)]


async def measure_diversity(
    run: Run, name: str, settings: AssessStage, prompts: Sequence[Row]
) -> dict[str, Any]:
    """By model: how alike several answers to one prompt are."""
    if settings.diversity is None:
        return {}
    asked, samples = prompts[: settings.diversity.prompt_limit], settings.diversity.samples
    found = {}
    for role, model in (("before", settings.before), ("after", settings.after)):
        groups = await draw(run, name, f"{role}-diverse", model, settings, asked, samples)
        texts = [[each.response_text for each in group] for group in groups]
        found[model] = {"prompts": len(asked), **variety_of_a_prompt(texts)}
    return found


async def measure_best_of_n(
    run: Run, name: str, settings: AssessStage, prompts: Sequence[Row]
) -> dict[str, Any] | None:
    """The curve of gold and proxy over the distance, by best of n, and the law that is fitted to it."""
    wanted = settings.best_of_n
    if wanted is None:
        return None
    asked = list(prompts[: wanted.prompt_limit])
    groups = await draw(run, name, "best-of-n", wanted.model, settings, asked, wanted.n)
    scored = await _scored(run, name, settings, asked, groups)
    excluded = len(asked) * wanted.n - sum(map(len, scored))
    different = [len({each.response_text for each in group}) for group in groups]
    return {
        "n": wanted.n,
        "model": wanted.model,
        "prompts": len(asked),
        "excluded": excluded,
        "different_texts": mean_interval(different).as_dict(),
        **curve(scored, best_of_n.doublings(wanted.n), derive(run.recipe.seed, name, "resamples")),
    }


async def _scored(
    run: Run, name: str, settings: AssessStage, asked: list[Row], groups: list[list[types_pb2.Rollout]]
) -> Scored:
    """(proxy, gold) of each answer that has both; one that lacks any is left out of its prompt."""
    rows = [row for row, group in zip(asked, groups, strict=True) for _ in group]
    texts = [each.response_text for group in groups for each in group]
    scorers = {"proxy": settings.proxy_scorer, "gold": settings.gold_scorer}
    given = {role: scorer for role, scorer in scorers.items() if scorer is not None}

    async def produce() -> dict[str, Any]:
        return {role: await score_all(run, scorer, rows, texts) for role, scorer in given.items()}

    scores = await run.durable(name, 1, "best-of-n-scored", produce)
    golds = scores.get("gold", [None] * len(texts))
    pairs = list(zip(scores["proxy"], golds, strict=True))
    whole = [p is not None and (g is not None or "gold" not in scores) for p, g in pairs]
    size = len(groups[0])
    return [
        [pair for pair, kept in zip(pairs[at : at + size], whole[at : at + size], strict=True) if kept]
        for at in range(0, len(pairs), size)
    ]


def curve(scored: Scored, counts: Sequence[int], seed: int) -> dict[str, Any]:
    """Points over the distance; gold's gain is that over one answer to the same prompts.

    {"points": [{"n": 4, "kl": 0.64, "distance": 0.8, "proxy": 1.2, "gold": 0.9, "gain": 0.4, "prompts": 64}]}
    """
    proxies = [[proxy for proxy, _ in group] for group in scored]
    whole = [[gold for _, gold in group if gold is not None] for group in scored]
    golds = whole if any(whole) else None  # an answer without one is left out, unless none has one
    points = best_of_n.curve(proxies, golds, counts)
    shown = [_shown(point) for point in points if point.prompts]
    found: dict[str, Any] = {"points": shown, "gold_at_start": None, "law": None}
    if golds is None or not shown:
        return found
    ones = {place: math.fsum(group) / len(group) for place, group in enumerate(golds) if group}
    gains = [_gains(point, ones) for point in points if point.prompts]
    for row, by_prompt in zip(shown, gains, strict=True):
        row["gain"] = math.fsum(by_prompt.values()) / len(by_prompt)
    distances = [row["distance"] for row in shown]
    law = fit(BEST_OF_N, distances, [row["gain"] for row in shown])
    found["gold_at_start"] = shown[0]["gold"]
    if law is not None:
        found["law"] = law.as_dict(max(distances)) | _resampled(distances, gains, len(scored), seed)
    return found


def _shown(point: best_of_n.Point) -> dict[str, Any]:
    row: dict[str, Any] = {"n": point.n, "kl": point.kl, "distance": math.sqrt(point.kl)}
    for series, values in (("proxy", point.proxies), ("gold", point.golds)):
        if values is not None:
            interval = mean_interval(values)
            row |= {series: interval.mean, f"{series}_low": interval.low, f"{series}_high": interval.high}
    return row | {"prompts": len(point.prompts)}


def _gains(point: best_of_n.Point, ones: Mapping[int, float]) -> dict[int, float]:
    """By prompt: the gold of its best of n over that of one answer."""
    assert point.golds is not None
    return {place: gold - ones[place] for place, gold in zip(point.prompts, point.golds, strict=True)}


def _resampled(
    distances: Sequence[float], gains: Sequence[dict[int, float]], prompts: int, seed: int
) -> dict[str, Any]:
    """How sure the law is: Efron's percentile bootstrap over the prompts."""
    draw, laws = random.Random(seed), list[Law]()
    for _ in range(RESAMPLES):
        places = [draw.randrange(prompts) for _ in range(prompts)]
        means = [[by_prompt[place] for place in places if place in by_prompt] for by_prompt in gains]
        pairs = [(d, math.fsum(m) / len(m)) for d, m in zip(distances, means, strict=True) if m]
        law = fit(BEST_OF_N, [d for d, _ in pairs], [gain for _, gain in pairs])
        if law is not None:
            laws.append(law)
    if not laws:
        return {}
    farthest = max(distances)
    within = sum(1 for law in laws if law.peak is not None and law.peak <= farthest)
    found: dict[str, Any] = {"peak_measured_share": within / len(laws)}
    for name in ("alpha", "beta"):
        values = sorted(getattr(law, name) for law in laws)
        found[f"{name}_low"] = values[round(0.025 * (len(values) - 1))]
        found[f"{name}_high"] = values[round(0.975 * (len(values) - 1))]
    return found
