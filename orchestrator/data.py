"""Reads a run's inputs: a faulty row is named with its line, and left out only where the recipe allows it.

    {"prompt_id": "p1", "messages": [{"role": "user", "content": "my lamp is broken ."}]}    a prompt
    {"prompt_id": "p2", "text": "Once upon a time"}                                          a prompt
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}           a demonstration
    {"text": "..."}                                                                          a plain text
    {"text": "...", "chosen": "yes .", "rejected": "no ."}                                   a comparison

Other shapes are turned into these first (orchestrator/shapes.py); other keys are left where they are.
"""

import codecs
import gzip
import hashlib
import json
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.shapes import (
    DETAILS,
    ShapeFault,
    comparison_row,
    demonstration_row,
    detected,
    prompt_part,
    prompt_row,
    text_row,
)

Row = dict[str, Any]
ROLES = ("system", "user", "assistant")
MOST_FAULTS = 10  # named one by one; a file of the wrong kind has one in every line


class DataError(ValueError):
    """A data file cannot be used; the message names every faulty line, up to ten."""

    def __init__(self, path: Path, faults: list[str]) -> None:
        self.path, self.faults = path, faults
        super().__init__("\n  ".join([f"{path}:", *first_faults(faults)]))


def first_faults(faults: list[str]) -> list[str]:
    """The first ten, and how many more there are."""
    more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
    return [*faults[:MOST_FAULTS], *more]


class Rows(list[Row]):
    """The rows of a file that can be used; `left_out` says of every other one why it cannot."""

    left_out: tuple[str, ...] = ()


def read_prompts(path: Path, limit: int | None = None, shape: str = "plain", bad_rows: int = 0) -> Rows:
    """The first `limit` prompts, each with a prompt_id of its own, none ending with the assistant.

    Raises DataError where more than `bad_rows` rows are faulty, as the other readers do.
    """
    seen: dict[str, int] = {}

    def check(row: Row, line: int) -> Iterator[str]:
        return prompt_faults(row, line, seen)

    return _read(path, prompt_row, check, limit, shape, bad_rows)


def read_shaped(path: Path, check: Callable[[Row, int], Iterator[str]]) -> Rows:
    """All rows of a file in a shape of its own; `check(row, line)` says what is wrong with one."""
    return _read(path, lambda row, line, shape: row, check, None, "plain", 0)


def prompt_faults(row: Row, line: int, seen: dict[str, int]) -> Iterator[str]:
    """What is wrong with a prompt; `seen` keeps the lines of the names so far."""
    yield from _prompt_id_faults(row, line, seen)
    yield from _content_faults(row)
    yield from _ending_faults(row)


def read_demonstrations(
    path: Path, limit: int | None = None, shape: str = "plain", bad_rows: int = 0
) -> Rows:
    """The first `limit` rows to train on: plain texts, or messages with at least one of the assistant's."""

    def check(row: Row, line: int) -> Iterator[str]:
        yield from _content_faults(row)
        messages = row.get("messages")
        if isinstance(messages, list) and "assistant" not in [_role(message) for message in messages]:
            yield "messages: none is the assistant's, so there is nothing to learn"

    return _read(path, demonstration_row, check, limit, shape, bad_rows)


def read_texts(path: Path, limit: int | None = None, shape: str = "plain", bad_rows: int = 0) -> Rows:
    """The first `limit` rows of plain text or messages of any roles, every token of which may train."""
    return _read(path, text_row, lambda row, line: _content_faults(row), limit, shape, bad_rows)


def read_comparisons(path: Path, limit: int | None = None, shape: str = "plain", bad_rows: int = 0) -> Rows:
    """The first `limit` comparisons: a prompt and two texts that differ, the chosen one being better.

    Or {"responses": ["a", "b", "c"], "ranking": [2, 0, 1]}, the best first, of any number of responses.
    A prompt_id may come again, as a prompt may have several comparisons, but only with the same prompt.
    """
    seen: dict[str, tuple[int, Row]] = {}

    def check(row: Row, line: int) -> Iterator[str]:
        yield from _content_faults(row)
        yield from _ending_faults(row)
        yield from _ranking_faults(row) if "ranking" in row else _answer_faults(row)
        yield from _detail_faults(row)
        if "prompt_id" in row:
            prompt = prompt_part(row)
            first, known = seen.setdefault(str(row["prompt_id"]), (line, prompt))
            if known != prompt:
                yield f"prompt_id: {row['prompt_id']!r} was given on line {first} with another prompt"

    return _read(path, comparison_row, check, limit, shape, bad_rows)


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def content_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; of a directory over the digest and name of each file in it."""
    if not path.is_dir():
        return file_sha256(path)
    files = (f"{file_sha256(path / name)}  {name}\n" for name in sorted(visible_files(path)))
    return hashlib.sha256("".join(files).encode()).hexdigest()


def visible_files(directory: Path) -> Iterator[str]:
    """Names of the files below a directory; hidden ones are no part of a model or version."""
    for path in directory.rglob("*"):
        name = path.relative_to(directory)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix()


def _read(
    path: Path,
    convert: Callable[[Row, int, str], Row],
    check: Callable[[Row, int], Iterator[str]],
    limit: int | None,
    shape: str,
    bad_rows: int,
) -> Rows:
    rows, faulty = Rows(), 0
    faults: list[str] = []
    for line, text in _lines(path):
        if limit is not None and len(rows) + max(0, faulty - bad_rows) >= limit:
            break
        found: list[str] = []
        try:
            row = _parsed(text)
            shape = detected(row) if shape == "auto" else shape
            row = convert(row, line, shape)
            found = list(check(row, line))
        except ShapeFault as error:
            found = [str(error)]
        if not found:
            rows.append(row)
        faulty += bool(found)
        faults += [f"line {line}: {each}" for each in found]
    if faulty > bad_rows:
        raise DataError(path, _explained(faults, faulty, bad_rows))
    if not rows:
        raise DataError(path, [*first_faults(faults), "holds no rows" + (" to use" if faults else "")])
    rows.left_out = tuple(faults)
    return rows


def _explained(faults: list[str], faulty: int, bad_rows: int) -> list[str]:
    """The faults, behind their count where some were allowed."""
    if not bad_rows:
        return faults
    return [f"{faulty} rows are faulty, more than bad_rows ({bad_rows}) allows", *faults]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, counted from 1; they end with any of \\n, \\r\\n and \\r."""
    line = 0
    try:
        with _opened(path) as file:
            for block in file:
                for text in block.rstrip(b"\r\n").split(b"\r"):
                    line += 1
                    text = text.removeprefix(codecs.BOM_UTF8) if line == 1 else text
                    if text.strip():
                        yield line, text
    except (OSError, EOFError, zlib.error) as error:
        said = getattr(error, "strerror", None) or error
        raise DataError(path, [f"cannot be read: {said}"]) from None


def _opened(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _is_encodable(row: Any) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _parsed(line: bytes) -> Row:
    try:
        text = line.decode()
        row = json.loads(text)
    except UnicodeDecodeError as error:
        raise ShapeFault(f"not UTF-8: {error.reason} at byte {error.start} of the line") from None
    except json.JSONDecodeError as error:
        raise ShapeFault(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ShapeFault("not JSON: nested too deeply") from None
    except ValueError:
        raise ShapeFault("holds a number of thousands of digits") from None
    if "\\u" in text and not _is_encodable(row):
        raise ShapeFault("holds half of a surrogate pair, such as an emoji that was cut in two")
    if not isinstance(row, dict):
        raise ShapeFault(f"must be an object, is {type(row).__name__}")
    return row


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


def _ending_faults(row: Row) -> Iterator[str]:
    messages = row.get("messages")
    if isinstance(messages, list) and messages and _role(messages[-1]) == "assistant":
        yield "messages: the last one is the assistant's; a prompt ends with the user's"


def _ranking_faults(row: Row) -> Iterator[str]:
    """Two or more texts that differ, and their places from the best to the worst."""
    texts, ranking = row.get("responses"), row.get("ranking")
    if not isinstance(texts, list) or len(texts) < 2:
        yield "responses: must be a list of at least two texts"
    elif not all(isinstance(text, str) and text.strip() for text in texts):
        yield "responses: each must be text that is not empty"
    elif len(set(texts)) != len(texts):
        yield "responses: two are the same text, so neither is better"
    elif not isinstance(ranking, list) or sorted(map(str, ranking)) != sorted(map(str, range(len(texts)))):
        yield f"ranking: must name each of 0 to {len(texts) - 1} once, the best first"


def _detail_faults(row: Row) -> Iterator[str]:
    """Who compared is text; by how much, and what each response was given, are numbers."""
    for key in DETAILS:
        value = row.get(key)
        if key == "annotator" and value is not None and not isinstance(value, str):
            yield f"annotator: must be text, is {value!r}"
        if key != "annotator" and value is not None and not _is_finite(value):
            yield f"{key}: must be a number, is {value!r}"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _answer_faults(row: Row) -> Iterator[str]:
    """Two texts that differ; and how likely the chosen one is better, where that is said.

    A response that is empty was given and judged where that is said, as in our exports; else it is missing.
    """
    probability = row.get("probability", 1.0)
    is_number = isinstance(probability, int | float) and not isinstance(probability, bool)
    if not is_number or not 0 <= probability <= 1:
        yield f"probability: must be a number from 0 to 1, is {probability!r}"
    for key in ("chosen", "rejected"):
        if not isinstance(row.get(key), str) or not (row[key].strip() or "probability" in row):
            yield f"{key}: must be text that is not empty"
    if isinstance(row.get("chosen"), str) and row["chosen"] == row.get("rejected"):
        yield "chosen and rejected: are the same text, so neither is better"


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
