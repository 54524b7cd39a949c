"""Reads a run's JSONL inputs: a faulty line is named, never skipped.

    {"prompt_id": "p1", "messages": [{"role": "user", "content": "my lamp is broken ."}]}    a prompt
    {"prompt_id": "p2", "text": "Once upon a time"}                                          a prompt
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}           a demonstration
    {"text": "..."}                                                                          a plain text

Other keys are left where they are.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ROLES = ("system", "user", "assistant")
MOST_FAULTS = 10  # named one by one; a file of the wrong kind has one in every line


class DataError(ValueError):
    """A data file cannot be used; the message names every faulty line, up to ten."""

    def __init__(self, path: Path, faults: list[str]) -> None:
        self.path, self.faults = path, faults
        more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
        super().__init__("\n  ".join([f"{path}:", *faults[:MOST_FAULTS], *more]))


def read_prompts(path: Path, limit: int | None = None) -> list[Row]:
    """The first `limit` prompts, each with a prompt_id of its own, none ending with the assistant."""
    seen: dict[str, int] = {}

    def check(row: Row, line: int) -> Iterator[str]:
        yield from _prompt_id_faults(row, line, seen)
        yield from _content_faults(row)
        messages = row.get("messages")
        if isinstance(messages, list) and messages and _role(messages[-1]) == "assistant":
            yield "messages: the last one is the assistant's; a prompt ends with the user's"

    return _read(path, check, limit)


def read_demonstrations(path: Path, limit: int | None = None) -> list[Row]:
    """The first `limit` rows to train on: plain texts, or messages with at least one of the assistant's."""

    def check(row: Row, line: int) -> Iterator[str]:
        yield from _content_faults(row)
        messages = row.get("messages")
        if isinstance(messages, list) and "assistant" not in [_role(message) for message in messages]:
            yield "messages: none is the assistant's, so there is nothing to learn"

    return _read(path, check, limit)


def read_texts(path: Path, limit: int | None = None) -> list[Row]:
    """The first `limit` rows of plain text or messages of any roles, every token of which may train."""
    return _read(path, lambda row, line: _content_faults(row), limit)


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read(path: Path, check: Callable[[Row, int], Iterator[str]], limit: int | None) -> list[Row]:
    rows: list[Row] = []
    faults: list[str] = []
    for line, text in _lines(path):
        if limit is not None and len(rows) >= limit:
            break
        row, fault = _parsed(text)
        found = [fault] if row is None else list(check(row, line))
        faults += [f"line {line}: {each}" for each in found]
        rows.append(row or {})
    if faults:
        raise DataError(path, faults)
    if not rows:
        raise DataError(path, ["holds no rows"])
    return rows


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, counted from 1."""
    try:
        with path.open(encoding="utf-8") as file:
            for line, text in enumerate(file, start=1):
                if text.strip():
                    yield line, text
    except UnicodeDecodeError as error:
        raise DataError(path, [f"is not UTF-8 text: {error.reason} at byte {error.start}"]) from None
    except OSError as error:
        raise DataError(path, [f"cannot be read: {error.strerror or error}"]) from None


def _parsed(text: str) -> tuple[Row | None, str]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        return None, f"not JSON: {error.msg} at column {error.colno}"
    except RecursionError:
        return None, "not JSON: nested too deeply"
    return (row, "") if isinstance(row, dict) else (None, f"must be an object, is {type(row).__name__}")


def _prompt_id_faults(row: Row, line: int, seen: dict[str, int]) -> Iterator[str]:
    name = row.get("prompt_id")
    if not isinstance(name, str) or not name:
        yield f"prompt_id: must be text that is not empty, is {name!r}"
    elif name in seen:
        yield f"prompt_id: {name!r} was given on line {seen[name]}"
    else:
        seen[name] = line


def _content_faults(row: Row) -> Iterator[str]:
    """Exactly one of text and messages, and nothing in it empty."""
    if ("text" in row) == ("messages" in row):
        yield "must have either text or messages"
    elif "text" in row:
        if not isinstance(row["text"], str) or not row["text"].strip():
            yield "text: must be text that is not empty"
    elif not isinstance(row["messages"], list) or not row["messages"]:
        yield "messages: must be a list that is not empty"
    else:
        for index, message in enumerate(row["messages"]):
            yield from _message_faults(f"messages[{index}]", message)


def _message_faults(place: str, message: Any) -> Iterator[str]:
    if not isinstance(message, dict):
        yield f"{place}: must be an object with role and content"
        return
    if message.get("role") not in ROLES:
        yield f"{place}.role: must be one of {', '.join(ROLES)}, is {message.get('role')!r}"
    content = message.get("content")
    if not isinstance(content, str) or not content.strip():
        yield f"{place}.content: must be text that is not empty"


def _role(message: Any) -> str | None:
    return message.get("role") if isinstance(message, dict) else None
