"""Sampling and scoring by the chunk: the unit that is kept whole or done again whole."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from orchestrator.payloads import Payload, read_payload, write_payload
from orchestrator.prompts import Asked, Row, prompt_message, score_item
from orchestrator.recipe_settings import SamplingSettings
from orchestrator.run import Run
from trueline.v1 import policy_pb2, reference_pb2, trainer_pb2, types_pb2

T = TypeVar("T")

LARGEST_CALL = 4096  # rows of one call that policy and reward service take


class Sampler:
    """Draws one round's completions, chunk by chunk, each durable before it is used.

    A chunk that the ledger has is read, not drawn again: redrawing would favour short answers.
    """

    def __init__(
        self,
        run: Run,
        stage: str,
        number: int,
        sampling: SamplingSettings,
        seed: int,
        label: str = "",
        truncate: bool = False,
    ) -> None:
        self.run, self.stage, self.number, self.label = run, stage, number, label
        overflow = policy_pb2.PROMPT_OVERFLOW_TRUNCATE if truncate else policy_pb2.PROMPT_OVERFLOW_UNSPECIFIED
        self.overflow = overflow
        self.sampling = types_pb2.SamplingParameters(**sampling.model_dump(), seed=seed)
        # One chunk in work and one under way for each replica keeps all of them busy.
        self.free = asyncio.Semaphore(2 * max(1, run.peers.count("policy")))
        self.drawing: set[asyncio.Future[None]] = set()

    async def chunk(
        self, index: int, asked: Sequence[Asked], samples: int, version: types_pb2.ModelVersion
    ) -> list[types_pb2.Rollout]:
        """The rollouts of one chunk: prompts x samples, samples of a prompt side by side."""
        phase = f"{self.label}chunk-{index}"
        kept = self.run.ledger.phase(self.stage, self.number, phase)
        if kept is None:
            async with self.free, self._in_work(phase):
                batch = await self._generate(asked, samples, version)
                self._keep(phase, batch)
            return list(batch.rollouts)
        return list(read_payload(Payload(**kept), trainer_pb2.PpoBatch).rollouts)

    @asynccontextmanager
    async def _in_work(self, phase: str) -> AsyncIterator[None]:
        """Holds one chunk that is being drawn.

        Told to stop, no chunk is begun, and those under way are kept first: chunks cut off would be the
        slow ones.
        """
        if self.run.mending.stopping.is_set() and self.drawing:
            await asyncio.wait(self.drawing)
        self.run.may_stop(f"{self.stage} {self.number} {phase}")
        done = asyncio.get_running_loop().create_future()
        self.drawing.add(done)
        try:
            yield
        finally:
            self.drawing.discard(done)
            done.set_result(None)

    async def _generate(
        self, asked: Sequence[Asked], samples: int, version: types_pb2.ModelVersion
    ) -> trainer_pb2.PpoBatch:
        prompts = [
            policy_pb2.PromptSamples(
                prompt=prompt_message(each.row), first_sample=each.first_sample, samples=samples
            )
            for each in asked
        ]
        request = policy_pb2.GenerateRequest(
            prompts=prompts,
            sampling=self.sampling,
            expected_version=version,
            prompt_overflow=self.overflow,
        )
        run = self.run
        reply = await run.ask("policy", lambda: run.peers.policy.generate(request, deadline=run.deadline))
        self.run.time.computed(reply.timing)
        return trainer_pb2.PpoBatch(rollouts=reply.rollouts)

    def _keep(self, phase: str, batch: trainer_pb2.PpoBatch) -> None:
        payload = write_payload(rollouts_path(self.run, self.stage, self.number) / f"{phase}.pb", batch)
        self.run.ledger.finish_phase(self.stage, self.number, phase, payload.as_row())


def rollouts_path(run: Run, stage: str, number: int) -> Path:
    """The directory of a round's payloads."""
    return run.directory / "rollouts" / stage / f"{number:06d}"


def cut(rows: Sequence[T], size: int) -> list[Sequence[T]]:
    """Chunks of `size` rows, the last one shorter where it must be."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def cut_prompts(prompts: Sequence[T], size: int, samples: int, rows: int = LARGEST_CALL) -> list[Sequence[T]]:
    """Chunks of `size` prompts, or of as many as come to `rows` rows with `samples` samples each."""
    return cut(prompts, max(1, min(size, rows // samples)))


async def reference_logprobs(
    run: Run, rollouts: Sequence[types_pb2.Rollout], version: types_pb2.ModelVersion
) -> None:
    """Fills in each rollout's log-probs under the reference, at the temperature it was sampled with."""
    rows = [
        types_pb2.LogprobRow(prompt_ids=each.prompt_ids, response_ids=each.response_ids) for each in rollouts
    ]
    request = reference_pb2.ReferenceServiceComputeLogprobsRequest(
        rows=rows, temperature=rollouts[0].sampling.temperature, expected_version=version
    )
    reply = await run.ask(
        "reference", lambda: run.peers.reference.compute_logprobs(request, deadline=run.deadline)
    )
    run.time.computed(reply.timing)
    for rollout, result in zip(rollouts, reply.results, strict=True):
        rollout.reference_logprobs[:] = result.logprobs
        rollout.reference_version.CopyFrom(reply.version)


async def score(
    run: Run, scorer: str, rows: Sequence[Row], responses: Sequence[str]
) -> list[types_pb2.Score]:
    """One score or error for each (prompt, response), in order. A note tells what the scorer had to cut."""
    items = [score_item(row, text) for row, text in zip(rows, responses, strict=True)]
    version, scores = run.scorers.get(scorer), list[types_pb2.Score]()
    for part in cut(items, LARGEST_CALL):
        call = partial(run.peers.reward.score, scorer, part, expected_version=version, deadline=run.deadline)
        reply = await run.ask("reward", call)
        run.time.computed(reply.timing)
        scores += reply.scores
    if any(each.value.truncated for each in scores):
        run.ledger.note(
            f"{run.stage}: some prompts with their responses are longer than the context of the scorer "
            f"{scorer!r}; it read their end alone, and the scores are of that"
        )
    return scores


async def score_rollouts(
    run: Run, scorer: str, rows: Sequence[Row], rollouts: Sequence[types_pb2.Rollout]
) -> None:
    """Fills in each rollout's reward. An item's error travels with it: the trainer leaves the row out."""
    scores = await score(run, scorer, rows, [each.response_text for each in rollouts])
    number = run.scorers[scorer].number if scorer in run.scorers else 0
    for rollout, each in zip(rollouts, scores, strict=True):
        rollout.score.CopyFrom(each)
        rollout.scorer = f"{scorer}@{number}"


def values(scores: Sequence[types_pb2.Score], normalised: bool = False) -> list[float | None]:
    """The numbers of scores; None where there is none. Nothing averages a None as 0."""
    numbers: list[float | None] = []
    for each in scores:
        number = each.value.normalised if normalised else each.value.raw
        known = each.WhichOneof("outcome") == "value" and math.isfinite(number)
        numbers.append(number if known else None)
    return numbers


def present(numbers: Sequence[float | None]) -> list[float]:
    """Those that are there."""
    return [each for each in numbers if each is not None]
