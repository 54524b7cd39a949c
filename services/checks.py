"""What is refused about temperatures, ids and lengths, whichever service they arrive at."""

import math
from collections.abc import Sequence

from services.errors import FieldError

LARGEST_BATCH_ROWS = 16384


def check_temperature(temperature: float, field: str) -> None:
    """FieldError unless the temperature is a finite number above 0."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise FieldError(field, temperature, "must be a finite number above 0")


def check_ids(ids: Sequence[int], field: str, vocabulary_size: int, padding: int | None = None) -> None:
    """FieldError for no ids at all, an id outside the vocabulary, or the padding id among them."""
    if not ids:
        raise FieldError(field, list(ids), "must hold at least one id")
    if max(ids) >= vocabulary_size:
        place = next(place for place, token in enumerate(ids) if token >= vocabulary_size)
        raise FieldError(f"{field}[{place}]", ids[place], f"must be below {vocabulary_size}")
    if padding is not None and padding in ids:
        place = list(ids).index(padding)
        raise FieldError(f"{field}[{place}]", padding, "must not be the padding id: send ids unpadded")


def check_rows(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    vocabulary_size: int,
    context_length: int,
) -> None:
    """FieldError that names the first row whose log-probs no model of these sizes can give."""
    if not 1 <= len(prompts) <= LARGEST_BATCH_ROWS:
        raise FieldError("rows", len(prompts), f"must hold 1 to {LARGEST_BATCH_ROWS} rows")
    for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        check_ids(prompt, f"rows[{index}].prompt_ids", vocabulary_size)
        check_ids(response, f"rows[{index}].response_ids", vocabulary_size)
        if len(prompt) + len(response) > context_length:
            tokens = f"{len(prompt)} + {len(response)} tokens"
            raise FieldError(
                f"rows[{index}]", tokens, f"must fit into the context of {context_length} tokens"
            )
