"""The policy's door: what is refused before any work, and how prompts become rows of ids.

Errors name the field by its path in the request: prompts[3].prompt.token_ids.ids[7].
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.checks import check_ids, check_temperature
from services.errors import FieldError
from services.policy.engine import Capabilities, Engine, Row, Sampling
from services.templates import Message, TemplateError, render_prompt, render_text

LARGEST_CHUNK_ROWS = 4096

PromptContent = str | list[Message] | tuple[int, ...]  # text, turns, or token ids


@dataclass(frozen=True)
class PromptSamples:
    """Rows that share a prompt: PromptSamples("p7", "hello", first_sample=0, samples=4)."""

    prompt_id: str
    content: PromptContent
    first_sample: int
    samples: int


@dataclass(frozen=True)
class AskedRow:
    """A row as asked for: whose it is, and whether its prompt had to be cut."""

    prompt_id: str
    row: Row
    prompt_truncated: bool


def check_sampling(sampling: Sampling) -> None:
    """FieldError for parameters that no model could sample with."""
    check_temperature(sampling.temperature, "sampling.temperature")
    if not 0 < sampling.top_p <= 1:
        raise FieldError("sampling.top_p", sampling.top_p, "must be above 0 and at most 1")
    if sampling.max_new_tokens < 1:
        raise FieldError("sampling.max_new_tokens", sampling.max_new_tokens, "must be at least 1")
    for index, text in enumerate(sampling.stop):
        if not text:
            raise FieldError(f"sampling.stop[{index}]", text, "must not be empty")


def check_engine(sampling: Sampling, able: Capabilities) -> None:
    """FieldError for what this engine does not do."""
    if len(sampling.stop) > able.stop_texts:
        limit = f"the engine {able.name} takes {able.stop_texts} at most"
        raise FieldError("sampling.stop", f"{len(sampling.stop)} texts", limit, "engine_lacks")
    if sampling.top_k and not able.top_k:
        raise FieldError("sampling.top_k", sampling.top_k, f"the engine {able.name} has none", "engine_lacks")


def check_counts(prompts: Sequence[PromptSamples]) -> None:
    """FieldError for a chunk without rows or with too many of them."""
    if not prompts:
        raise FieldError("prompts", [], "must hold at least one prompt")
    for index, prompt in enumerate(prompts):
        if prompt.samples < 1:
            raise FieldError(f"prompts[{index}].samples", prompt.samples, "must be at least 1")
    rows = sum(prompt.samples for prompt in prompts)
    if rows > LARGEST_CHUNK_ROWS:
        raise FieldError(
            "prompts", f"{rows} rows", f"must come to at most {LARGEST_CHUNK_ROWS} rows in a chunk"
        )


def rows_of(
    prompts: Sequence[PromptSamples], sampling: Sampling, truncate: bool, engine: Engine
) -> list[AskedRow]:
    """One row per sample, in the order asked; FieldError for what this engine's model cannot answer."""
    rows: list[AskedRow] = []
    asked: set[tuple[object, int]] = set()
    for index, prompt in enumerate(prompts):
        path = f"prompts[{index}]"
        ids = _prompt_ids(prompt.content, f"{path}.prompt", engine)
        named = f" (prompt {prompt.prompt_id!r})" if prompt.prompt_id else ""
        kept = _fit(ids, sampling.max_new_tokens, truncate, f"{path}.prompt", engine.context_length, named)
        for sample in range(prompt.first_sample, prompt.first_sample + prompt.samples):
            key = (prompt.prompt_id or tuple(ids), sample)
            if key in asked:
                name = repr(prompt.prompt_id) if prompt.prompt_id else "the same prompt"
                raise FieldError(path, sample, f"sample of {name} must not be asked for twice in a chunk")
            asked.add(key)
            rows.append(AskedRow(prompt.prompt_id, Row(kept, sample), len(kept) < len(ids)))
    return rows


def tokens_of(prompts: Sequence[PromptContent], engine: Engine) -> list[int]:
    """Tokens of each prompt; FieldError for what this engine's model cannot read."""
    if not 1 <= len(prompts) <= LARGEST_CHUNK_ROWS:
        raise FieldError("prompts", len(prompts), f"must hold 1 to {LARGEST_CHUNK_ROWS} prompts")
    return [len(_prompt_ids(each, f"prompts[{i}]", engine)) for i, each in enumerate(prompts)]


def _prompt_ids(content: PromptContent, path: str, engine: Engine) -> list[int]:
    """The prompt as the policy reads it."""
    if isinstance(content, tuple):
        # Where the tokenizer has a padding id of its own, one inside a prompt is a batch not unpadded.
        padding = engine.pad_id if engine.tokenizer.pad_token_id == engine.pad_id else None
        check_ids(content, f"{path}.token_ids.ids", engine.vocabulary_size, padding)
        return list(content)
    if isinstance(content, str):
        ids, field = render_text(engine.tokenizer, content), f"{path}.text"
    else:
        field = f"{path}.conversation"
        ids = _render(content, field, engine)
    if not ids:
        raise FieldError(field, content, "must hold at least one token")
    return ids


def _render(messages: list[Message], field: str, engine: Engine) -> list[int]:
    try:
        return render_prompt(engine.tokenizer, messages)
    except TemplateError as error:
        raise FieldError(field, messages, str(error)) from None


def _fit(
    ids: list[int], new_tokens: int, truncate: bool, path: str, context_length: int, named: str
) -> list[int]:
    """The prompt, or its newest tokens where it may be cut to leave room for the response."""
    room = context_length - new_tokens
    if len(ids) <= room:
        return ids
    if room < 1:
        limit = f"must be below the context of {context_length} tokens, to leave room for a prompt"
        raise FieldError("sampling.max_new_tokens", new_tokens, limit)
    if not truncate:
        limit = (
            f"must hold at most {room} tokens: {new_tokens} new ones have to fit into the context of "
            f"{context_length} (or ask for PROMPT_OVERFLOW_TRUNCATE)"
        )
        raise FieldError(path, f"{len(ids)} tokens{named}", limit)
    return ids[-room:]
