"""What engines behind an HTTP API share: one version at a time, whole chunks, answers that are checked.

    server = RemoteServer(VllmDialect(900), HttpCalls(url))     one for each endpoint
    engine = server.load(path, manifest)                        a LoadEngine: puts a version there

The engine process belongs to us alone, holds one version, and may die. So a load waits for chunks to end and
new ones wait for the load; each chunk looks before and after whether the endpoint serves its version, and an
endpoint that came back with another one is given ours again. An Engine whose version was replaced answers
nothing any more.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from services.errors import NotReadyError, PreconditionError
from services.models import describe_causal
from services.policy.engine import Capabilities, Completion, FinishReason, LogprobKind, Row, Sampling
from services.policy.http_calls import HttpCalls, Session, garbage
from services.policy.sampling import row_seed
from services.policy.stops import Stops
from services.templates import template_sha256, tokenizer_sha256
from services.weights import Manifest

log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Drawn:
    """One completion as the engine told it: ids, a log-prob each, whether a limit or a stop ended it."""

    ids: list[int]
    logprobs: list[float]
    cut: bool  # by max_new_tokens
    stopped: bool  # by a stop text


@dataclass(frozen=True)
class Place:
    """A version: where it lies, and the one word by which it is told from all others."""

    path: Path
    label: str


class Dialect(Protocol):
    """What one kind of engine speaks."""

    capabilities: Capabilities

    async def serves(self, http: Session, place: Place) -> bool:
        """Whether the endpoint holds this version now."""

    async def swap(self, http: Session, place: Place) -> None:
        """Makes it hold this version; returns when it does. Raises the service's errors."""

    async def check(self, http: Session, model: RemoteModel) -> int:
        """Tokens that the endpoint can hold. Raises where it is not set up as it must be."""

    async def prepare(self, http: Session, model: RemoteModel, prompts: Sequence[tuple[int, ...]]) -> Any:
        """What the prompts of a chunk need before they are asked; given to `draw`."""

    async def draw(self, http: Session, row: Row, sampling: Sampling, seed: int, prepared: Any) -> Drawn:
        """Draws one completion."""

    async def score(self, http: Session, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
        """Log-prob of each response id at temperature 1."""


class RemoteServer:
    """One endpoint, and the version that it was given."""

    def __init__(self, dialect: Dialect, calls: HttpCalls) -> None:
        self.dialect, self.calls = dialect, calls
        self._held: RemoteModel | None = None
        self._condition = threading.Condition()
        self._chunks, self._swapping = 0, False

    def load(self, path: Path, manifest: Manifest) -> RemoteModel:
        """Puts a version into the endpoint. Where that fails, the one before is put back: now, or before its
        next chunk."""
        version = manifest.version
        model = RemoteModel(self, Place(path, f"{version}:{version.sha256}"))
        with self._alone():
            before = self._held
            try:
                self.run(lambda http: self._put(http, model))
            except Exception:
                if before is not None:
                    self._put_back(before)
                raise
            self._held = model
        return model

    async def _put(self, http: Session, model: RemoteModel) -> None:
        if not await self.dialect.serves(http, model.place):
            await self.dialect.swap(http, model.place)
        if not await self.dialect.serves(http, model.place):
            what = f"the engine was given {model.place.label} and serves another version"
            raise PreconditionError("wrong_version", what)
        told = await self.dialect.check(http, model)
        model.context_length = min(model.context_length, told)

    def _put_back(self, before: RemoteModel) -> None:
        try:
            self.run(lambda http: self._put(http, before))
        except Exception as error:
            log.warning("%s is not back in the engine yet: %s", before.place.label, error)

    @contextmanager
    def chunk(self, model: RemoteModel) -> Iterator[None]:
        """A chunk of this version: loads wait for its end. NotReadyError where another took its place."""
        with self._condition:
            self._condition.wait_for(lambda: not self._swapping)
            if self._held is not model:
                raise NotReadyError(f"the engine no longer holds {model.place.label}", "not_loaded")
            self._chunks += 1
        try:
            yield
        finally:
            with self._condition:
                self._chunks -= 1
                self._condition.notify_all()

    def again(self, model: RemoteModel) -> None:
        """Gives an endpoint that came back without its version that version again."""
        with self._alone():
            if self._held is model:
                self.run(lambda http: self._put(http, model))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not self._swapping)
            self._swapping = True
            self._condition.wait_for(lambda: self._chunks == 0)
        try:
            yield
        finally:
            with self._condition:
                self._swapping = False
                self._condition.notify_all()

    def run(self, work: Any) -> Any:
        """Runs work(session) to its end on this thread: engines are called from worker threads."""

        async def within() -> Any:
            async with self.calls.session() as http:
                return await work(http)

        return asyncio.run(within())


class RemoteModel:
    """An Engine (see engine.py): one version in an endpoint. Weights are there, tokenizer and config here."""

    def __init__(self, server: RemoteServer, place: Place) -> None:
        facts = describe_causal(place.path)
        self.place, self._server, self._dialect = place, server, server.dialect
        self.capabilities = server.dialect.capabilities
        self.tokenizer = facts.tokenizer
        self.tokenizer_sha256 = tokenizer_sha256(facts.tokenizer)
        self.template_sha256 = template_sha256(facts.tokenizer)
        self.context_length, self.vocabulary_size = facts.context_length, facts.vocabulary_size
        self.eos_ids, self.pad_id = facts.eos_ids, facts.pad_id

    def logprob_kind(self, sampling: Sampling) -> LogprobKind:
        """PROCESSED, which over the whole vocabulary is what TEMPERATURE is."""
        return LogprobKind.PROCESSED

    def generate(self, rows: Sequence[Row], sampling: Sampling) -> list[Completion]:
        """One completion per row, in order; all of this version, or an error."""

        async def chunk(http: Session) -> list[Drawn]:
            prompts = list(dict.fromkeys(tuple(row.prompt_ids) for row in rows))
            prepared = await self._dialect.prepare(http, self, prompts)
            seeds = [row_seed(sampling.seed, row.prompt_ids, row.sample_index) for row in rows]
            return await _together(
                [
                    self._dialect.draw(http, row, sampling, seed, prepared)
                    for row, seed in zip(rows, seeds, strict=True)
                ]
            )

        return [self._completion(each, sampling) for each in self._of_this_version(chunk)]

    def compute_logprobs(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], temperature: float
    ) -> list[list[float]]:
        """Log-probs of given ids, as far as capabilities.given_logprobs says."""
        if temperature != 1.0 or not any(responses):
            kind = self.capabilities.given_logprobs.value
            what = f"the engine {self.capabilities.name} gives log-probs of given ids for: {kind}"
            raise PreconditionError("engine_lacks", f"temperature {temperature:g}: {what}")

        async def scores(http: Session) -> list[list[float]]:
            pairs = zip(prompts, responses, strict=True)
            return await _together([self._dialect.score(http, *pair) for pair in pairs])

        return [
            _checked_logprobs(logprobs, response)
            for logprobs, response in zip(self._of_this_version(scores), responses, strict=True)
        ]

    def _of_this_version(self, work: Any) -> Any:
        """What work(session) gives, when the endpoint held this version before and after it."""

        async def guarded(http: Session) -> tuple[bool, Any]:
            if not await self._dialect.serves(http, self.place):
                return False, None
            return True, await work(http)

        async def still(http: Session) -> bool:
            return await self._dialect.serves(http, self.place)

        for _ in range(2):
            with self._server.chunk(self):
                began, result = self._server.run(guarded)
                if began:
                    if not self._server.run(still):
                        break
                    return result
            self._server.again(self)
        what = f"the engine does not hold {self.place.label} throughout; nothing of the chunk is kept"
        raise PreconditionError("wrong_version", what)

    def _completion(self, drawn: Drawn, sampling: Sampling) -> Completion:
        """The completion, if it is one; PreconditionError("engine_garbage") for anything that cannot be."""
        ids = drawn.ids
        if not ids or len(ids) > sampling.max_new_tokens:
            raise garbage(f"{len(ids)} tokens where 1 to {sampling.max_new_tokens} were asked for")
        strange = [each for each in ids if not 0 <= each < self.vocabulary_size]
        if strange:
            raise garbage(f"id {strange[0]} with a vocabulary of {self.vocabulary_size}")
        logprobs = _checked_logprobs(drawn.logprobs, ids)
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return Completion(ids, logprobs, self._finish_reason(drawn, sampling), text)

    def _finish_reason(self, drawn: Drawn, sampling: Sampling) -> FinishReason:
        """Held against the ids themselves: how a response ended decides how it is trained."""
        if drawn.ids[-1] in self.eos_ids:
            return FinishReason.END_OF_TEXT
        if any(each in self.eos_ids for each in drawn.ids):
            raise garbage("tokens behind the end of the text")
        if drawn.stopped:
            if not all(Stops(self.tokenizer, sampling.stop).ended([drawn.ids])):
                raise garbage("ended by a stop text that its tokens do not hold")
            return FinishReason.STOP_TEXT
        if not drawn.cut or len(drawn.ids) != sampling.max_new_tokens:
            raise garbage(f"{len(drawn.ids)} tokens that end for no reason")
        return FinishReason.LENGTH


def _checked_logprobs(logprobs: Sequence[Any], ids: Sequence[int]) -> list[float]:
    """One finite number of at most 0 for each id; "logprobs_missing" otherwise."""
    if len(logprobs) != len(ids) or any(each is None for each in logprobs):
        what = f"{sum(each is not None for each in logprobs)} log-probs came for {len(ids)} tokens"
        raise PreconditionError("logprobs_missing", f"{what}; nothing can be trained without them")
    if not all(isinstance(each, float | int) and math.isfinite(each) and each < 1e-3 for each in logprobs):
        raise PreconditionError("non_finite", "the engine gives log-probs that are no log-probs")
    return [min(0.0, float(each)) for each in logprobs]


async def _together(work: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """All results in order; the first failure ends the others."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
