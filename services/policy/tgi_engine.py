"""What text-generation-inference speaks: an HTTP API that takes text and gives ids and log-probs (details).

It cannot replace its weights: a new version is a new process with another --model-id. Whatever starts it
again is told by a file (--restart-file), and this side waits until /info names the version's directory.
Without such a file it serves the one version that it was started with.

    POST /tokenize     how it reads a text: held against the prompt's ids, since ids are the truth
    POST /generate     {"inputs": text, "parameters": {..., "details": true}}
    GET  /info         which directory it serves, how many tokens it holds

Its log-probs are of the distribution after temperature, top-k and top-p. Those of given ids it does not give.
Source: docs/openapi.json of text-generation-inference 3.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.durable_files import fsync
from services.errors import BusyError, FieldError, NotReadyError, PreconditionError
from services.policy.engine import Capabilities, GivenLogprobs, LogprobKind, Row, Sampling
from services.policy.http_calls import Session, garbage
from services.policy.remote_engine import Drawn, Place, RemoteModel

STOP_TEXTS = 4
POLL_SECONDS = 0.2
FINISH = ("length", "eos_token", "stop_sequence")


class TgiDialect:
    """A Dialect (see remote_engine.py)."""

    def __init__(self, load_seconds: float, restart_file: Path | None) -> None:
        self._load_seconds, self._restart_file = load_seconds, restart_file
        self.capabilities = Capabilities(
            "tgi",
            (LogprobKind.PROCESSED,),
            hot_swap=False,
            restarts=restart_file is not None,
            stop_texts=STOP_TEXTS,
            given_logprobs=GivenLogprobs.NONE,
            deterministic=False,
        )

    async def serves(self, http: Session, place: Place) -> bool:
        """By the directory: a version's never changes, and its digests were verified before."""
        return _same(Path((await self._info(http))["model_id"]), place.path)

    async def _info(self, http: Session) -> dict[str, Any]:
        told = await http.get("/info")
        if not isinstance(told, dict) or not isinstance(told.get("model_id"), str):
            raise garbage(f"GET /info gave {str(told)[:200]}")
        return told

    async def swap(self, http: Session, place: Place) -> None:
        """Has it started again on the version, and waits for it."""
        if self._restart_file is None:
            what = f"TGI cannot swap weights: start it with --model-id {place.path}, or give --restart-file"
            raise PreconditionError("restart_needed", what)
        await asyncio.to_thread(_write, self._restart_file, f"{place.path}\n")
        until = time.monotonic() + self._load_seconds
        while time.monotonic() < until:
            try:
                if await self.serves(http, place):
                    return
            except (NotReadyError, BusyError, PreconditionError):
                pass  # it is going down, or coming up
            await asyncio.sleep(POLL_SECONDS)
        what = f"TGI did not come back with {place.path} within {self._load_seconds:g} s"
        raise NotReadyError(what, "engine_silent")

    async def check(self, http: Session, model: RemoteModel) -> int:
        """How many tokens it holds."""
        told = await self._info(http)
        limit = told.get("max_total_tokens") or model.context_length
        if not isinstance(limit, int) or limit < 1:
            raise garbage(f"max_total_tokens is {limit!r}")
        return limit

    async def prepare(
        self, http: Session, model: RemoteModel, prompts: Sequence[tuple[int, ...]]
    ) -> dict[tuple[int, ...], str]:
        """The text of each prompt, which TGI must read as the prompt's ids."""
        return {prompt: await self._text(http, model, prompt) for prompt in prompts}

    async def _text(self, http: Session, model: RemoteModel, prompt: tuple[int, ...]) -> str:
        tokenizer = model.tokenizer
        # What the tokenizer puts in front of every text by itself (<s>) must not be there twice.
        added = _added_in_front(tokenizer, prompt)
        text: str = tokenizer.decode(
            prompt[added:], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        told = await http.post("/tokenize", {"inputs": text})
        try:
            read = tuple(int(each["id"]) for each in told)
        except (KeyError, TypeError, ValueError):
            raise garbage(f"POST /tokenize gave {str(told)[:200]}") from None
        if read != prompt:
            limit = "does not survive as text, which is all that TGI takes: use --engine vllm or transformers"
            raise FieldError("prompts", list(prompt)[:16], limit, "retokenised")
        return text

    async def draw(self, http: Session, row: Row, sampling: Sampling, seed: int, prepared: Any) -> Drawn:
        """One completion, with details."""
        parameters = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k or None,
            "top_p": sampling.top_p if sampling.top_p < 1 else None,
            "max_new_tokens": sampling.max_new_tokens,
            "stop": list(sampling.stop),
            "seed": seed,
            "details": True,
            "decoder_input_details": False,
            "return_full_text": False,
        }
        body = {"inputs": prepared[tuple(row.prompt_ids)], "parameters": parameters}
        told = await http.post("/generate", body)
        try:
            details = told["details"]
            reason, tokens = details["finish_reason"], details["tokens"]
            ids = [each["id"] for each in tokens]
            logprobs = [each.get("logprob") for each in tokens]
        except (KeyError, TypeError, AttributeError):
            raise garbage(f"no details: {str(told)[:200]}") from None
        if reason not in FINISH or not all(type(each) is int for each in ids):
            raise garbage(f"details that are none: {str(details)[:200]}")
        return Drawn(ids, logprobs, reason == "length", reason == "stop_sequence")

    async def score(self, http: Session, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
        """Not here: prefill log-probs are off since TGI 3.0, and take text."""
        raise PreconditionError("engine_lacks", "TGI gives no log-probs of given ids")


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _added_in_front(tokenizer: Any, prompt: Sequence[int]) -> int:
    """How many ids the tokenizer puts before any text, where the prompt begins with them."""
    front = list(tokenizer("", add_special_tokens=True)["input_ids"])
    while front and list(prompt[: len(front)]) != front:
        front.pop()
    return len(front)


def _write(file: Path, text: str) -> None:
    """Whole or not at all: whoever restarts TGI reads it at any moment."""
    beside = file.with_name(f"{file.name}.tmp-{secrets.token_hex(4)}")
    beside.write_text(text, encoding="utf-8")
    fsync(beside)
    os.replace(beside, file)
