"""Learning from a collection of comparisons without a reward model, once and offline."""

import json
import math
from collections.abc import Sequence
from typing import Any

from orchestrator.prompts import conversation
from orchestrator.recipe_algorithms import PreferenceAlgorithm
from orchestrator.recipe_rounds import PreferenceStage
from orchestrator.run import Run, RunError
from orchestrator.sampling import cut
from orchestrator.seeds import derive
from orchestrator.stages.reward import limited
from orchestrator.stages.supervised import steps_of
from orchestrator.training import (
    TrainingStage,
    begin_request,
    measure,
    settings_message,
    stage_model,
    trained_model,
)
from trueline.v1 import trainer_pb2

Row = dict[str, Any]  # a row of the comparisons table


async def run_preference(run: Run, name: str, settings: PreferenceStage) -> dict[str, Any]:
    """Preference steps on the training prompts, the order of the held-out pairs, a version."""
    collected = run.ledger.all_comparisons(settings.comparisons)
    steps = preference_steps(run.recipe.seed, name, settings, collected)
    held_out = preference_batch([row for row in collected if row["held_out"]])
    if not steps:
        raise RunError(f"stages.{name}: collection {settings.comparisons!r} has no comparisons to train on")
    if not all(teaches(settings.algorithm, step) for step in steps):
        raise RunError(
            f"stages.{name}: collection {settings.comparisons!r} has nothing that {settings.algorithm.loss} "
            "learns from: ties alone, or for kto one prompt alone"
        )

    def request(number: int) -> trainer_pb2.PreferenceStepRequest:
        return trainer_pb2.PreferenceStepRequest(inline=preference_batch(steps[number - 1]))

    begin = begin_preference(run, name, settings, steps)
    step = run.peers.trainer.preference_step
    stage = TrainingStage(run, name, begin, step, request, settings.checkpoint_every)
    last = await stage.train_all(len(steps))
    accuracy: dict[str, Any] = {}
    if held_out.pairs:
        measured = trainer_pb2.PreferenceStepRequest(inline=held_out)
        accuracy = await measure(stage, len(steps), "held-out", step, measured)
        if not accuracy["pairs"]:
            what = f"none of {len(held_out.pairs)} held-out comparisons can be measured"
            run.progress.note(f"{name}: {what} by {settings.algorithm.loss}")
    published = await stage.publish(len(steps))
    return {
        "model": settings.output,
        "version": published.version.number,
        "loss": settings.algorithm.loss,
        "steps": len(steps),
        "comparisons": pairs_in(steps) // settings.epochs,
        "held_out": accuracy,
        "metrics": last,
    }


def begin_preference(
    run: Run, name: str, settings: PreferenceStage, steps: list[list[Row]]
) -> trainer_pb2.BeginStageRequest:
    """The policy, its reference where the loss has one, and how long the schedule is."""
    algorithm = settings_message(trainer_pb2.PreferenceSettings, settings.algorithm.model_dump())
    batches = [pairs_in([step]) for step in steps]
    updates = sum(math.ceil(pairs / settings.algorithm.minibatch_size) for pairs in batches)
    algorithm.total_updates = settings.algorithm.epochs * updates
    models = [trained_model(run.locate(settings.policy))]
    if settings.reference is not None:
        models.append(stage_model(trainer_pb2.MODEL_ROLE_REFERENCE, run.locate(settings.reference)))
    return begin_request(run, name, settings.output, models, preference=algorithm)


def preference_steps(
    seed: int, name: str, settings: PreferenceStage, collected: list[Row]
) -> list[list[Row]]:
    """The rows that each step trains on, which seed, comparisons and settings decide.

    A step that teaches nothing by itself joins its neighbour in the same epoch: no row is dropped.
    """
    training = limited([row for row in collected if not row["held_out"]], settings.comparison_limit)
    steps = steps_of(training, settings.epochs, settings.rows_per_step, derive(seed, name))
    epochs = cut(steps, max(1, len(steps) // settings.epochs))
    return [step for epoch in epochs for step in joined(settings.algorithm, epoch)]


def joined(algorithm: PreferenceAlgorithm, steps: Sequence[list[Row]]) -> list[list[Row]]:
    """The same rows in order, in steps each of which teaches something where all of them together do."""
    made: list[list[Row]] = []
    for step in steps:
        if made and not teaches(algorithm, made[-1]):
            made[-1] = made[-1] + step
        else:
            made.append(step)
    if len(made) > 1 and not teaches(algorithm, made[-1]):
        made[-2:] = [made[-2] + made[-1]]
    return made


def teaches(algorithm: PreferenceAlgorithm, rows: Sequence[Row]) -> bool:
    """True where rows hold a pair that the loss learns from; kto needs one of another prompt beside it."""
    prompts = {
        json.dumps(row["prompt"], sort_keys=True)
        for row in rows
        if algorithm.takes_ties or any(probability != 0.5 for *_, probability in row["preferences"])
    }
    return len(prompts) > (1 if algorithm.mismatches else 0)


def pairs_in(steps: list[list[Row]]) -> int:
    """How many pairs these steps' rows make."""
    return sum(len(row["preferences"]) for rows in steps for row in rows)


def preference_batch(rows: list[Row]) -> trainer_pb2.PreferenceBatch:
    """Rows of the ledger as pairs; the trainer owns template and tokenizer.

    A row's [[0, 2, 1.0]] becomes the pair (response 0, response 2) with probability 1.0.
    """
    batch = trainer_pb2.PreferenceBatch()
    for row in rows:
        for first, second, probability in row["preferences"]:
            texts = (row["responses"][int(first)], row["responses"][int(second)])
            written = trainer_pb2.WrittenPair(first=texts[0], second=texts[1])
            if "messages" in row["prompt"]:
                written.conversation.CopyFrom(conversation(row["prompt"]["messages"]))
            else:
                written.text = row["prompt"]["text"]
            batch.pairs.add(prompt_id=row["prompt_id"], written=written, probability=probability)
    return batch
