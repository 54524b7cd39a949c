"""What vLLM speaks: token ids in and out over its HTTP API, weights replaced in place by version.

It is started as `VLLM_SERVER_DEV_MODE=1 vllm serve DIR --logprobs-mode processed_logprobs`, reached by nobody
else (its control routes ask for no token), and sees the versions under the same paths as this service.

    POST /v1/completions       ids in (prompt), ids out (return_token_ids), a log-prob each
    GET  /v1/models            how many tokens it holds
    GET  /weight_info          which version it holds, in the words that we gave it
    GET  /is_paused            whether it answers at all
    POST /pause?mode=wait, /collective_rpc (reload_weights), /reset_prefix_cache, /update_weight_version,
         /resume               a swap

The prefix cache is flushed with every version: keys and values of old weights would answer for the new ones.
Sources: vllm/entrypoints/openai/completion/protocol.py and vllm/entrypoints/serve/dev/ of vLLM.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from services.errors import NotReadyError, PreconditionError
from services.policy.engine import Capabilities, GivenLogprobs, LogprobKind, Row, Sampling
from services.policy.http_calls import Session, garbage
from services.policy.remote_engine import Drawn, Place, RemoteModel
from services.policy.stops import holds_special, special_texts

PROCESSED_TOLERANCE = 1e-3
PROBES = 8
RESUME_ATTEMPTS = 8
SETUP = "start it as VLLM_SERVER_DEV_MODE=1 vllm serve DIR --logprobs-mode processed_logprobs"


class VllmDialect:
    """A Dialect (see remote_engine.py)."""

    capabilities = Capabilities(
        "vllm",
        (LogprobKind.PROCESSED,),
        hot_swap=True,
        given_logprobs=GivenLogprobs.TEMPERATURE_ONE,
        deterministic=False,
    )

    def __init__(self, load_seconds: float) -> None:
        self._load_seconds = load_seconds
        self._name = ""

    async def serves(self, http: Session, place: Place) -> bool:
        """By the word that the last swap left there; a process that was restarted has another.

        A paused one serves nothing, whatever its word: a swap was broken off, and the next one resumes it.
        """
        if await self._told(http, "/weight_info", "weight_version") != place.label:
            return False
        return await self._told(http, "/is_paused", "is_paused") is False

    async def _told(self, http: Session, path: str, key: str) -> Any:
        told = await http.get(path)
        if not isinstance(told, dict) or key not in told:
            raise garbage(f"GET {path} gave {str(told)[:200]}")
        return told[key]

    async def swap(self, http: Session, place: Place) -> None:
        """Pauses, reloads in place, flushes, names the version, resumes: whatever fails, it is resumed.

        The name is taken away first: weights that are half there must not pass for either version.
        """
        try:
            # Inside: a pause whose answer was lost is one all the same.
            await http.post("/pause?mode=wait", seconds=self._load_seconds)
            await http.post("/update_weight_version", {"new_version": "loading"})
            body = {
                "method": "reload_weights",
                "kwargs": {"weights_path": str(place.path)},
                "timeout": self._load_seconds,
            }
            await http.post("/collective_rpc", body, seconds=self._load_seconds, attempts=1)
            flushed = await http.post("/reset_prefix_cache")
            if isinstance(flushed, dict) and flushed.get("success") is False:
                what = "the engine did not flush its prefix cache, which holds what the old weights computed"
                raise NotReadyError(what, "engine_failed")
            await http.post("/update_weight_version", {"new_version": place.label})
        finally:
            # Shielded: an engine that stays paused hangs all that comes after.
            await asyncio.shield(self._resume(http))

    async def _resume(self, http: Session) -> None:
        await http.post("/resume", attempts=RESUME_ATTEMPTS)

    async def check(self, http: Session, model: RemoteModel) -> int:
        """Asks for tokens out of one: their log-prob is 0 in the distribution drawn from, in no other.

        Several prompts, since two likeliest tokens that tie are both kept.
        """
        told = await http.get("/v1/models")
        try:
            first = told["data"][0]
            self._name, context_length = str(first["id"]), int(first.get("max_model_len") or 0)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise garbage(f"GET /v1/models gave {str(told)[:200]}") from None
        special = {*model.eos_ids, model.pad_id}
        ordinary = [each for each in range(model.vocabulary_size) if each not in special]
        only_one = Sampling(top_k=1, max_new_tokens=1)
        rows = [Row([each], 0) for each in ordinary[-PROBES:]]
        drawn = await asyncio.gather(*(self.draw(http, row, only_one, 0, None) for row in rows))
        told = [each for one in drawn for each in one.logprobs if each is not None]
        certain = sum(abs(each) < PROCESSED_TOLERANCE for each in told)
        if 2 * certain <= len(rows):
            what = f"the engine's log-probs are not those of what it draws from ({told}): {SETUP}"
            raise PreconditionError("logprob_kind", what)
        return context_length or model.context_length

    async def prepare(
        self, http: Session, model: RemoteModel, prompts: Sequence[tuple[int, ...]]
    ) -> frozenset[str]:
        """Special tokens' texts, which it looks for only when told. Prompts need nothing: it takes ids."""
        return special_texts(model.tokenizer)

    async def draw(self, http: Session, row: Row, sampling: Sampling, seed: int, prepared: Any) -> Drawn:
        """One completion. Every parameter is said: the model's generation_config would fill in others."""
        special = prepared or frozenset()
        body = {
            "model": self._name,
            "prompt": list(row.prompt_ids),
            "n": 1,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": seed,
            "stop": list(sampling.stop),
            "skip_special_tokens": not any(holds_special(each, special) for each in sampling.stop),
            "include_stop_str_in_output": True,
            "logprobs": 1,
            "return_token_ids": True,
        }
        choice = _choice(await http.post("/v1/completions", body))
        returned = choice.get("prompt_token_ids")
        if returned is not None and list(returned) != list(row.prompt_ids):
            raise garbage("it read other ids than it was given")
        ids, logprobs = choice.get("token_ids"), choice.get("logprobs")
        if not isinstance(ids, list) or not all(type(each) is int for each in ids):
            raise garbage("no token ids (return_token_ids)")
        told = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
        reason = choice.get("finish_reason")
        if reason == "abort":
            raise NotReadyError("the engine broke a completion off", "engine_failed")
        stopped = reason == "stop" and isinstance(choice.get("stop_reason"), str)
        return Drawn(ids, told if isinstance(told, list) else [], reason == "length", stopped)

    async def score(self, http: Session, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
        """By prompt_logprobs, which are the model's own: those of temperature 1."""
        ids = [*prompt, *response]
        body = {
            "model": self._name,
            "prompt": ids,
            "max_tokens": 1,
            "temperature": 1.0,
            "seed": 0,
            "prompt_logprobs": 0,
        }
        told = _choice(await http.post("/v1/completions", body)).get("prompt_logprobs")
        if not isinstance(told, list) or len(told) != len(ids):
            raise PreconditionError(
                "logprobs_missing", "the engine gave no log-probs of the ids it was given"
            )
        try:
            pairs = zip(response, told[len(prompt) :], strict=True)
            return [place[str(token)]["logprob"] for token, place in pairs]
        except (KeyError, TypeError):
            raise PreconditionError("logprobs_missing", "log-probs are of other ids than given") from None


def _choice(reply: Any) -> dict[str, Any]:
    try:
        (choice,) = reply["choices"]
    except (KeyError, TypeError, ValueError):
        raise garbage(f"no completion: {str(reply)[:200]}") from None
    if not isinstance(choice, dict):
        raise garbage(f"no completion: {str(choice)[:200]}")
    return choice
