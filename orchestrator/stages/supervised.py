"""Pretraining and supervised fine-tuning: rows in, a published model out."""

import math
from typing import Any

from orchestrator.prompts import conversation
from orchestrator.recipe_stages import PretrainStage, SftStage
from orchestrator.run import Run
from orchestrator.seeds import derive, shuffled
from orchestrator.sources import note_left_out, supervised_rows
from orchestrator.training import TrainingStage, begin_request, settings_message, trained_model
from trueline.v1 import trainer_pb2

Row = dict[str, Any]


async def run_supervised(run: Run, name: str, settings: PretrainStage | SftStage) -> dict[str, Any]:
    """Trains on every row `epochs` times, one call to the trainer per `rows_per_step` rows."""
    rows = supervised_rows(run.directory, settings)
    if settings.data is not None:
        note_left_out(run, settings.data, rows)
    steps = steps_of(rows, settings.epochs, settings.rows_per_step, derive(run.recipe.seed, name))

    def request(number: int) -> trainer_pb2.SftStepRequest:
        return trainer_pb2.SftStepRequest(inline=sft_batch(steps[number - 1]))

    fields = {"minibatch_size", "micro_batch_size", "max_tokens", "loss_on", "optimizer"}
    supervised = settings_message(trainer_pb2.SftSettings, settings.model_dump(include=fields))
    supervised.total_updates = updates_of(steps, settings.minibatch_size)
    begin = begin_request(
        run, name, settings.output, [trained_model(run.locate(settings.init))], sft=supervised
    )
    stage = TrainingStage(run, name, begin, run.peers.trainer.sft_step, request, settings.checkpoint_every)
    last = await stage.train_all(len(steps))
    published = await stage.publish(len(steps))
    version = published.version.number
    return {"model": settings.output, "version": version, "steps": len(steps), "metrics": last}


def sft_batch(rows: list[Row]) -> trainer_pb2.SftBatch:
    """One step's rows for the trainer."""
    return trainer_pb2.SftBatch(rows=[sft_row(row) for row in rows])


def sft_row(row: Row) -> trainer_pb2.SftRow:
    """A row of the data file for the trainer, which owns template and loss mask."""
    if "messages" in row:
        return trainer_pb2.SftRow(conversation=conversation(row["messages"]))
    return trainer_pb2.SftRow(text=row["text"])


def steps_of(rows: list[Row], epochs: int, rows_per_step: int, seed: int) -> list[list[Row]]:
    """The rows of each step: each epoch in an order of its own, no row dropped."""
    steps = []
    for epoch in range(epochs):
        order = [rows[i] for i in shuffled(len(rows), derive(seed, "epoch", epoch))]
        steps += [order[start : start + rows_per_step] for start in range(0, len(order), rows_per_step)]
    return steps


def updates_of(steps: list[list[Row]], minibatch_size: int) -> int:
    """Optimizer updates in all these steps; a schedule ends at the last."""
    return sum(math.ceil(len(step) / minibatch_size) for step in steps)
