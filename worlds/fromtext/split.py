"""Rows for training and rows held out, told apart by how their dialogue begins.

Rows of one dialogue lie in one part, or a model would be measured on what it has read.
"""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

TURN = re.compile(r"\n\n(?:Human|Assistant):")


def read_lines(path: Path) -> list[str]:
    """The lines of a JSONL file that are not blank; a .gz is unpacked."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = [line for line in content.decode("utf-8").split("\n") if line.strip()]
    if not lines:
        raise ValueError(f"{path}: holds no rows")
    return lines


def split_lines(lines: list[str], held_out_share: float, seed: int) -> tuple[list[str], list[str]]:
    """(training, held out): about this share of the lines is held out."""
    families: dict[str, list[str]] = {}
    for line in lines:
        families.setdefault(beginning(line), []).append(line)
    names = sorted(families)
    Random(f"split {seed}").shuffle(names)
    held_out: list[str] = []
    training: list[str] = []
    for name in names:
        part = held_out if len(held_out) < held_out_share * len(lines) else training
        part.extend(families[name])
    return training, held_out


def beginning(line: str) -> str:
    """What a row's dialogue began with; a row that cannot be read is a dialogue of its own."""
    text = next(texts_of(line), line)
    turns = TURN.split(text)
    return (turns[1] if len(turns) > 1 else text).strip()


def texts_of(line: str) -> Iterator[str]:
    """Every text of a row, messages' contents included, in the row's order."""
    try:
        yield from _texts_in(json.loads(line))
    except ValueError:
        return


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts_in(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key not in ("role", "prompt_id"):
                yield from _texts_in(each)


def write_lines(path: Path, lines: list[str]) -> None:
    """One row a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
