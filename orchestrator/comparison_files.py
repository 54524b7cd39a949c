"""A run's comparisons as files that others read, and what is odd about them.

    plain    {"prompt_id": ..., "messages" | "text": ..., "chosen", "rejected", "probability", "source", ...}
    trl      {"prompt": text or messages, "chosen", "rejected", ...}, conversational where that is messages
    hh       {"chosen": "\\n\\nHuman: ...\\n\\nAssistant: ...", "rejected": "..."}

One line for each pair; `plain` alone keeps all that the ledger knows of it.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.shapes import DETAILS, TURN

Row = dict[str, Any]
SPEAKERS = {"user": "Human", "assistant": "Assistant"}


class NoShape(ValueError):
    """A row that a shape has no room for."""


@dataclass(frozen=True)
class Oddity:
    """A duplicate, a contradiction or a cycle among one prompt's comparisons."""

    kind: str
    prompt_id: str
    responses: tuple[str, ...]

    def __str__(self) -> str:
        shown = " > ".join(repr(text if len(text) <= 40 else text[:37] + "...") for text in self.responses)
        return f"{self.kind} in {self.prompt_id}: {shown}"


def exported(rows: Sequence[Row], shape: str) -> Iterator[Row]:
    """Every pair of a collection in another shape. NoShape names the prompt that does not fit into it."""
    write = SHAPES[shape]
    for row in rows:
        details = row.get("details") or [{}] * len(row["preferences"])
        for (first, second, probability), known in zip(row["preferences"], details, strict=True):
            if shape != "plain" and probability == 0.5:
                raise NoShape(f"{row['prompt_id']}: a tie has no place in {shape}; export plain")
            texts = [row["responses"][int(place)] for place in (first, second)]
            if shape != "plain" and not all(text.strip() for text in texts):
                raise NoShape(f"{row['prompt_id']}: an empty response has no place in {shape}; export plain")
            if shape != "plain" and probability < 0.5:  # the likelier one is the chosen one
                first, second, known = second, first, flipped(known)
            pair = write(row, row["responses"][int(first)], row["responses"][int(second)], probability)
            yield {**pair, **{key: value for key, value in known.items() if key in KEPT[shape]}}


def flipped(details: Row) -> Row:
    """What is known of a pair, told from its other side."""
    other = {"score_chosen": "score_rejected", "score_rejected": "score_chosen"}
    turned = {other.get(key, key): value for key, value in details.items()}
    return turned | ({"margin": -details["margin"]} if "margin" in details else {})


def _plain(row: Row, chosen: str, rejected: str, probability: float) -> Row:
    version = row.get("policy_version") or {}
    told = {"source": row["source"], "held_out": row["held_out"], **({"policy": version} if version else {})}
    pair = {"chosen": chosen, "rejected": rejected, "probability": probability}
    return {"prompt_id": row["prompt_id"], **row["prompt"], **pair, **told}


def _trl(row: Row, chosen: str, rejected: str, probability: float) -> Row:
    if "messages" not in row["prompt"]:
        return {"prompt": row["prompt"]["text"], "chosen": chosen, "rejected": rejected}
    answers = {"chosen": chosen, "rejected": rejected}
    said = {key: [{"role": "assistant", "content": text}] for key, text in answers.items()}
    return {"prompt": row["prompt"]["messages"], **said}


def _hh(row: Row, chosen: str, rejected: str, probability: float) -> Row:
    if "messages" not in row["prompt"]:
        text = row["prompt"]["text"]
        if not text.startswith("\n\nHuman:") or not text.endswith("\n\nAssistant:"):
            raise NoShape(f"{row['prompt_id']}: its prompt is a text, and no transcript")
        _check_turns(row, [chosen, rejected])
        return {"chosen": text + chosen, "rejected": text + rejected}
    turns = row["prompt"]["messages"]
    if any(each["role"] not in SPEAKERS for each in turns):
        raise NoShape(f"{row['prompt_id']}: a transcript has no system message")
    said = [*(each["content"] for each in turns), chosen, rejected]
    _check_turns(row, said)
    if any(text != text.strip() for text in said):
        raise NoShape(f"{row['prompt_id']}: a transcript keeps no blanks around a turn; export plain")
    whole = "".join(f"\n\n{SPEAKERS[each['role']]}: {each['content']}" for each in turns)
    return {"chosen": f"{whole}\n\nAssistant: {chosen}", "rejected": f"{whole}\n\nAssistant: {rejected}"}


def _check_turns(row: Row, said: Sequence[str]) -> None:
    """NoShape where what was said holds what begins a turn, and would be read as one."""
    if any(TURN.search(text) for text in said):
        raise NoShape(f"{row['prompt_id']}: what was said holds a turn of its own; export plain")


SHAPES: dict[str, Callable[[Row, str, str, float], Row]] = {"plain": _plain, "trl": _trl, "hh": _hh}

# What a shape keeps of a comparison's details.
NUMBERS = ("margin", "score_chosen", "score_rejected")
KEPT: dict[str, tuple[str, ...]] = {"plain": ("source", *DETAILS), "trl": NUMBERS, "hh": ()}


def by_content(rows: Sequence[Row]) -> list[Row]:
    """One row for each prompt, under the first of the names that it goes by; other rows stay as they are."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(json.dumps(row["prompt"], sort_keys=True), []).append(row)
    return [_merged(group) if len(group) > 1 else group[0] for group in groups.values()]


def _merged(rows: Sequence[Row]) -> Row:
    texts = list(dict.fromkeys(text for row in rows for text in row["responses"]))
    places = {text: place for place, text in enumerate(texts)}
    preferences = [
        [places[row["responses"][int(first)]], places[row["responses"][int(second)]], probability]
        for row in rows
        for first, second, probability in row["preferences"]
    ]
    return {"prompt_id": rows[0]["prompt_id"], "responses": texts, "preferences": preferences}


def oddities(rows: Sequence[Row]) -> Iterator[Oddity]:
    """Duplicates (one pair twice), contradictions (A over B, B over A) and longer cycles, by prompt.

    Noise makes cycles; many of them say that whoever labelled was not asked one question.
    """
    for row in rows:
        texts = row["responses"]
        beaten: dict[int, set[int]] = defaultdict(set)
        seen: set[tuple[int, int]] = set()
        for first, second, probability in row["preferences"]:
            if probability == 0.5:
                continue  # a tie contradicts nothing
            pair = (int(first), int(second)) if probability >= 0.5 else (int(second), int(first))
            kind = "duplicate" if pair in seen else "contradiction" if pair[::-1] in seen else ""
            if kind:
                yield Oddity(kind, row["prompt_id"], tuple(texts[i] for i in pair))
            seen.add(pair)
            beaten[pair[0]].add(pair[1])
        cycle = _cycle(beaten)
        if cycle:
            yield Oddity("cycle", row["prompt_id"], tuple(texts[i] for i in (*cycle, cycle[0])))


def _cycle(beaten: dict[int, set[int]]) -> list[int]:
    """A shortest cycle of three or more, by breadth from every response; [] where there is none."""
    best: list[int] = []
    for start in sorted(beaten):
        paths, reached = [[start]], {start}
        while paths and not (best and len(paths[0]) >= len(best)):
            path = paths.pop(0)
            for after in sorted(beaten.get(path[-1], ())):
                if after == start and len(path) > 2:
                    best, paths = path, []
                    break
                if after not in reached:
                    reached.add(after)
                    paths.append([*path, after])
    return best


def ranking_pairs(ranking: Sequence[int]) -> list[list[float]]:
    """All C(K, 2) preferences of a ranking, best first: [2, 0, 1] is 2 over 0, 2 over 1, 0 over 1."""
    places = range(len(ranking))
    return [[ranking[i], ranking[j], 1.0] for i in places for j in places if i < j]
