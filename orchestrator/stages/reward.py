"""Training a reward model from a collection of comparisons, and measuring it on held-out prompts."""

import itertools
from typing import Any

from orchestrator.labelling import SCORED_AT_ONCE
from orchestrator.prompts import answered_prompt, comparison_group
from orchestrator.recipe_stages import RewardStage
from orchestrator.run import Run, RunError
from orchestrator.sampling import cut, score, values
from orchestrator.seeds import derive
from orchestrator.stages.supervised import steps_of, updates_of
from orchestrator.training import TrainingStage, begin_request, measure, settings_message, trained_model
from trueline.v1 import trainer_pb2

NORMALISATION = ("gain", "bias", "raw_mean", "raw_stddev", "length_coefficient")

Row = dict[str, Any]  # a row of the comparisons table


async def run_reward(run: Run, name: str, settings: RewardStage) -> dict[str, Any]:
    """A reward model from its stage's own comparisons."""
    collected = run.ledger.all_comparisons(settings.comparisons)
    return await train_reward(run, name, settings, collected, to_train(collected))


async def train_reward(
    run: Run, name: str, settings: RewardStage, collected: list[Row], anchors: list[Row]
) -> dict[str, Any]:
    """Bradley-Terry steps on the training prompts, accuracy on the others, normalisation, a version.

    Scores are normalised on the responses of `anchors`, those of the model before any reward: so each version
    of a reward model has the same zero and the same unit.
    """
    training = training_rows(settings, collected)
    steps = reward_steps(run.recipe.seed, name, settings, collected)
    held_out = [row for row in collected if row["held_out"]]
    if not training:
        raise RunError(f"stages.{name}: collection {settings.comparisons!r} has no comparisons to train on")

    def request(number: int) -> trainer_pb2.RewardModelStepRequest:
        return trainer_pb2.RewardModelStepRequest(inline=comparison_batch(steps[number - 1]))

    fields = {"minibatch_size", "micro_batch_size", "max_tokens", "centering_coefficient", "optimizer"}
    options = settings_message(trainer_pb2.RewardModelSettings, settings.model_dump(include=fields))
    options.total_updates = updates_of(steps, settings.minibatch_size)
    begin = begin_request(
        run, name, settings.output, [trained_model(run.locate(settings.init))], reward_model=options
    )
    stage = TrainingStage(
        run, name, begin, run.peers.trainer.reward_model_step, request, settings.checkpoint_every,
        versions_before=newest_of_others(run, name, settings.output),
    )  # fmt: skip
    last = await stage.train_all(len(steps))
    accuracy = await measure_order(stage, len(steps), "held-out", held_out)
    agreement = await measure_order(stage, len(steps), "agreement", await by_scorer(run, settings, held_out))
    if not stage.published(len(steps)):
        await stage.publish(len(steps), first=lambda: fit_normalisation(stage, len(steps), settings, anchors))
    published = stage.published(len(steps)) or {}
    return {
        "model": settings.output,
        "version": published["number"],
        "steps": len(steps),
        "comparisons": sum(len(row["preferences"]) for row in training),
        "held_out": accuracy,
        "agreement": agreement,
        "normalisation": published["normalisation"],
        "metrics": last,
    }


def newest_of_others(run: Run, name: str, model: str) -> int:
    """The number of the model's newest version that another stage made; 0 where none did."""
    made = [row for row in run.ledger.all_versions() if row["model"] == model and row["stage"] != name]
    return max((row["number"] for row in made), default=0)


def to_train(rows: list[Row]) -> list[Row]:
    """Those that are not held out."""
    return [row for row in rows if not row["held_out"]]


def reward_steps(seed: int, name: str, settings: RewardStage, collected: list[Row]) -> list[list[Row]]:
    """The rows that each step trains on, which seed, comparisons and settings decide."""
    training = training_rows(settings, collected)
    return steps_of(training, settings.epochs, settings.rows_per_step, derive(seed, name))


def training_rows(settings: RewardStage, collected: list[Row]) -> list[Row]:
    """The rows that a reward model learns from; of an ensemble's members each has its own."""
    rows = limited(to_train(collected), settings.comparison_limit)
    return settings.member.rows(rows) if settings.member else rows


def comparison_batch(rows: list[Row]) -> trainer_pb2.ComparisonBatch:
    """Rows of the ledger as the trainer reads them."""
    groups = [
        comparison_group(
            {"prompt_id": row["prompt_id"], **row["prompt"]}, row["responses"], row["preferences"]
        )
        for row in rows
    ]
    return trainer_pb2.ComparisonBatch(groups=groups)


def limited(rows: list[Row], comparisons: int | None) -> list[Row]:
    """The first rows with `comparisons` comparisons in all; the last row gives only what is missing."""
    if comparisons is None:
        return rows
    kept = []
    for row in rows:
        if comparisons <= 0:
            break
        kept.append({**row, "preferences": row["preferences"][:comparisons]})
        comparisons -= len(row["preferences"])
    return kept


async def by_scorer(run: Run, settings: RewardStage, rows: list[Row]) -> list[Row]:
    """The same responses, each pair ordered by a scorer without noise; ties make no pair."""
    if settings.agreement_scorer is None or not rows:
        return []
    scorer = settings.agreement_scorer
    await run.serve_scorers(scorer)
    numbers: list[float | None] = []
    for part in cut([(row, text) for row in rows for text in row["responses"]], SCORED_AT_ONCE):
        prompts = [{"prompt_id": row["prompt_id"], **row["prompt"]} for row, _ in part]
        numbers += values(await score(run, scorer, prompts, [text for _, text in part]))
    scores = iter(numbers)
    ordered = [{**row, "preferences": order_pairs([next(scores) for _ in row["responses"]])} for row in rows]
    return [row for row in ordered if row["preferences"]]


def order_pairs(scores: list[float | None]) -> list[list[float]]:
    """Every pair with the higher score first: [1.0, 3.0, None] gives [[1, 0, 1.0]]."""
    pairs = []
    for first, second in itertools.combinations(range(len(scores)), 2):
        one, other = scores[first], scores[second]
        if one is not None and other is not None and one != other:
            pairs.append([first, second, 1.0] if one > other else [second, first, 1.0])
    return pairs


async def measure_order(stage: TrainingStage, steps: int, what: str, rows: list[Row]) -> dict[str, Any]:
    """The reward model's metrics on rows that it does not train on; empty where there are none."""
    if not rows:
        return {}
    request = trainer_pb2.RewardModelStepRequest(inline=comparison_batch(rows))
    return await measure(stage, steps, what, stage.trainer.reward_model_step, request)


async def fit_normalisation(
    stage: TrainingStage, steps: int, settings: RewardStage, rows: list[Row]
) -> dict[str, Any]:
    """Gain and bias fitted on one response of the sampling model to each of the first prompts.

    The trainer keeps them with the weights, and publishes them with these.
    """
    wanted = settings.normalisation
    samples = [answered_prompt(row["prompt"], row["responses"][0]) for row in rows[: wanted.samples]]

    fitted = await stage.trainer.fit_normalisation(
        trainer_pb2.FitNormalisationRequest(
            header=stage.run.header(f"{stage.name}/{steps}/normalisation", expected_step=steps),
            samples=samples,
            target_mean=wanted.target_mean,
            target_stddev=wanted.target_stddev,
            length_controlled=wanted.length_controlled,
        )
    )
    figures = {name: getattr(fitted, name) for name in NORMALISATION}
    return {"normalisation": {**figures, "samples": len(samples)}}
