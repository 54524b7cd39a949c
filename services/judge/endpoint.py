"""Any OpenAI-compatible endpoint as a judge: chat completions, with log-probs where it gives them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from services.errors import BusyError
from services.judge.answers import logprobs_of, parse_option
from services.judge.records import (
    Abstained,
    Answer,
    Identity,
    Question,
    Reason,
    Sampling,
    Usage,
    Written,
    abstained,
)
from services.judge.transport import Posted, Transport
from services.work import Timing

Asked = TypeVar("Asked")
Told = TypeVar("Told")

# Room for "Answer: (B)" and for a two-token "10"; a judge that says more than that was not asked to.
ANSWER_TOKENS = 8
REVISION_CHARACTERS = 200
# More than any model reads: a count beyond it is a mistake, and might fit into no field of a message.
MOST_TOKENS = 2**31


@dataclass(frozen=True)
class ChatDialect:
    """What an endpoint is told to do.

    logprobs      "auto" reads log-probs where they come and the text where not, "require" abstains where they
                  do not come, "off" does not ask for them
    top_logprobs  alternatives per token; OpenAI and vLLM give 20 at most
    limit_field   what it calls the limit on tokens
    """

    model: str
    logprobs: str = "auto"
    top_logprobs: int = 20
    limit_field: str = "max_tokens"


@dataclass(frozen=True)
class _Completion:
    """The parts of a chat completion that are read."""

    text: str
    finish_reason: str
    logprobs: Any
    revision: str
    usage: Usage


class EndpointJudge:
    """A Backend (see records.py) behind a URL."""

    def __init__(self, url: str, dialect: ChatDialect, transport: Transport, max_waiting: int) -> None:
        self.identity = Identity(dialect.model, endpoint=url)
        self._dialect, self._transport, self._max_waiting = dialect, transport, max_waiting
        self._batches = 0

    async def choose(self, questions: Sequence[Question], until: float) -> tuple[list[Answer], Timing]:
        """One answer per question, in order."""

        async def answer(question: Question) -> Answer:
            body = self._body(question.text, ANSWER_TOKENS, 0.0)
            if self._dialect.logprobs != "off":
                body |= {"logprobs": True, "top_logprobs": self._dialect.top_logprobs}
            return self._answer(question, _completion(await self._transport.post(body, until)))

        return await self._batch(answer, questions)

    async def write(
        self, prompts: Sequence[str], sampling: Sampling, until: float
    ) -> tuple[list[Written], Timing]:
        """One text per prompt, in order."""

        async def written(prompt: str) -> Written:
            body = self._body(prompt, sampling.max_new_tokens, sampling.temperature)
            if sampling.temperature > 0:
                body["seed"] = sampling.seed
            return _written(_completion(await self._transport.post(body, until)))

        return await self._batch(written, prompts)

    async def _batch(
        self, ask: Callable[[Asked], Awaitable[Told]], asked: Sequence[Asked]
    ) -> tuple[list[Told], Timing]:
        """All at once as far as the pace allows; a caller that goes away takes its requests along."""
        if self._batches >= self._max_waiting:
            raise BusyError(
                f"{self._batches} calls wait for the endpoint already; the limit is {self._max_waiting}"
            )
        self._batches += 1
        began = time.perf_counter()
        tasks = [asyncio.ensure_future(ask(each)) for each in asked]
        try:
            told = [await task for task in tasks]
        finally:
            self._batches -= 1
            for task in tasks:
                task.cancel()
        return told, Timing(0.0, time.perf_counter() - began)

    def _body(self, text: str, tokens: int, temperature: float) -> dict[str, Any]:
        return {
            "model": self._dialect.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": temperature,
            self._dialect.limit_field: tokens,
        }

    def _answer(self, question: Question, completion: _Completion | tuple[Abstained, Usage]) -> Answer:
        if isinstance(completion, tuple):
            return Answer(completion[0], usage=completion[1])
        found = self._found(question, completion)
        return Answer(found, completion.text, completion.revision, completion.usage)

    def _found(self, question: Question, completion: _Completion) -> tuple[float, ...] | int | Abstained:
        withheld = _withheld(completion)
        if withheld is not None:
            return withheld
        index = parse_option(completion.text, question.options)
        if self._dialect.logprobs != "off":
            logprobs = logprobs_of(completion.logprobs, question.options, index)
            if logprobs is not None:
                return logprobs
            if self._dialect.logprobs == "require":
                return abstained(
                    Reason.NO_LOGPROBS, "the endpoint gave no log-probs that tell the options apart"
                )
        if index is None:
            options = ", ".join(question.options)
            return abstained(Reason.UNPARSABLE, f"the answer is none of {options}: {completion.text!r}")
        return index


def _withheld(completion: _Completion) -> Abstained | None:
    if completion.finish_reason == "content_filter":
        return abstained(Reason.FILTERED, "the endpoint's content filter withheld the answer")
    if not completion.text.strip():
        return abstained(Reason.EMPTY_ANSWER, "the judge's answer is empty")
    return None


def _written(completion: _Completion | tuple[Abstained, Usage]) -> Written:
    if isinstance(completion, tuple):
        return Written(completion[0], usage=completion[1])
    text = _withheld(completion) or completion.text.strip()
    return Written(text, completion.finish_reason == "length", completion.revision, completion.usage)


def _completion(posted: Posted) -> _Completion | tuple[Abstained, Usage]:
    """The parts that are read, or the failure and what it cost."""
    payload = posted.payload
    if isinstance(payload, Abstained):
        return payload, Usage(posted.calls, posted.calls)
    usage = _usage(payload.get("usage"), posted.calls)
    try:
        choice = payload["choices"][0]
        text = choice["message"].get("content")
        logprobs = (choice.get("logprobs") or {}).get("content")
    except (KeyError, IndexError, TypeError, AttributeError):
        shown = f"the reply is no chat completion: {payload!r}"
        return abstained(Reason.ENDPOINT_FAILED, shown), usage
    if not isinstance(text, str | None):
        return abstained(Reason.ENDPOINT_FAILED, f"the reply's content is no text: {text!r}"), usage
    parts = [
        str(payload[key])[:REVISION_CHARACTERS] for key in ("model", "system_fingerprint") if payload.get(key)
    ]
    return _Completion(
        _sound(text or ""), str(choice.get("finish_reason")), logprobs, _sound("/".join(parts)), usage
    )


def _sound(text: str) -> str:
    """The text without lone surrogates, which JSON may spell and no message may hold."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _usage(told: Any, calls: int) -> Usage:
    """What the last request cost by the endpoint's count; the failed ones before it told nothing."""
    told = told if isinstance(told, Mapping) else {}
    read, wrote = told.get("prompt_tokens"), told.get("completion_tokens")
    if not all(isinstance(count, int) and 0 <= count < MOST_TOKENS for count in (read, wrote)):
        return Usage(calls, calls)
    return Usage(calls, calls - 1, read, wrote)
