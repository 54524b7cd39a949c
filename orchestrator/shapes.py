"""Rows as others write them, turned into ours: prompts, demonstrations and comparisons.

    plain    {"messages": [...]} or {"text": "..."}, with prompt_id, or with chosen and rejected
    trl      {"prompt": ..., "completion": ...} or {"prompt": ..., "chosen": ..., "rejected": ...}, of texts
             or of messages
    hh       {"chosen": "\\n\\nHuman: ...\\n\\nAssistant: ...", "rejected": "..."}, as messages
    hh-text  the same as the text it is, for a model without a chat template

A comparison is {"messages": [...], "chosen": "yes .", "rejected": "no ."}, or with "text" for the prompt.
"""

import re
from typing import Any

Row = dict[str, Any]

TURN = re.compile(r"\n\n(Human|Assistant):")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
# What a row may say of its comparison besides: who made it, by how much, and what each response was given.
DETAILS = ("annotator", "margin", "score_chosen", "score_rejected")
LAST_TURN = "\n\nAssistant:"


class ShapeFault(ValueError):
    """A row does not have the shape that it should; the message says in what."""


def detected(row: Row) -> str:
    """The shape of a file by its first row: "hh" for transcripts, "trl" by its keys, else "plain"."""
    if "messages" in row or "text" in row:
        return "plain"
    if isinstance(row.get("chosen"), str) and "prompt" not in row:
        return "hh"
    return "trl" if {"prompt", "chosen"} & set(row) else "plain"


def prompt_row(row: Row, line: int, shape: str) -> Row:
    """A prompt; one without a name of its own is named by its line."""
    if shape == "plain":
        return row
    name = row.get("prompt_id", f"row-{line}")
    if shape == "trl" and "chosen" not in row:
        return {"prompt_id": name, **_prompt(_required(row, "prompt"))}
    return {"prompt_id": name, **prompt_part(comparison_row(row, line, shape))}


def demonstration_row(row: Row, line: int, shape: str) -> Row:
    """What was answered well, as a whole: the completion, or the chosen response, behind its prompt.

    Plain texts of two parts are refused: as one text, the prompt would bear loss too.
    """
    whole = text_row(row, line, shape)
    if shape != "plain" and "text" in whole:
        raise ShapeFault(
            "prompt and answer become one text, every token of which bears loss; say loss_on: all to mean "
            "that, or give messages"
        )
    return whole


def text_row(row: Row, line: int, shape: str) -> Row:
    """As demonstration_row, where every token may bear loss."""
    if shape == "plain":
        return row
    if shape == "hh-text":
        return {"text": _text(_required(row, "chosen"), "chosen")}
    if shape == "hh":
        return {"messages": transcript(_required(row, "chosen"), "chosen")}
    if "completion" in row:
        prompt, answer = _prompt(_required(row, "prompt")), row["completion"]
    else:
        prompt = comparison_row(row, line, shape)
        answer = prompt["chosen"]
    if "text" in prompt:
        return {"text": prompt["text"] + _text(answer, "completion")}
    return {
        "messages": [*prompt["messages"], {"role": "assistant", "content": _answer(answer, "completion")}]
    }


def comparison_row(row: Row, line: int, shape: str) -> Row:
    """A prompt, the better response and the worse one."""
    if shape == "plain":
        return row
    named = {key: row[key] for key in ("prompt_id", "probability", *DETAILS) if key in row}
    return {**named, **(_trl_comparison(row) if shape == "trl" else _hh_comparison(row, shape == "hh-text"))}


def prompt_part(row: Row) -> Row:
    """The messages or the text of a row, without what else it has."""
    return {key: row[key] for key in ("messages", "text") if key in row}


def transcript(text: Any, key: str) -> list[dict[str, str]]:
    """The turns of "\\n\\nHuman: hi\\n\\nAssistant: hello" as messages."""
    parts = TURN.split(text) if isinstance(text, str) else []
    if len(parts) < 3 or parts[0].strip():
        raise ShapeFault(f'{key}: must be a transcript that begins with "\\n\\nHuman:"')
    turns = zip(parts[1::2], parts[2::2], strict=True)
    return [{"role": SPEAKERS[speaker], "content": said.strip()} for speaker, said in turns]


def opening(row: Row) -> str:
    """What a conversation began with: rows that share it are about the same matter.

    A system message begins none: a whole collection may share one.
    """
    if "messages" in row:
        said = [each for each in row["messages"] if each["role"] != "system"] or row["messages"]
        return str(said[0]["content"])
    turns = TURN.split(row["text"])
    return turns[2].strip() if len(turns) > 2 else str(row["text"])


def _trl_comparison(row: Row) -> Row:
    """With a prompt of its own, or of two whole conversations that differ in their last message."""
    chosen, rejected = _required(row, "chosen"), _required(row, "rejected")
    if isinstance(chosen, list) != isinstance(rejected, list):
        raise ShapeFault("chosen and rejected: one is messages, the other is not")
    if not isinstance(chosen, list):
        return {**_prompt(_required(row, "prompt")), "chosen": chosen, "rejected": rejected}
    if isinstance(row.get("prompt"), list):
        return {
            "messages": row["prompt"],
            "chosen": _answer(chosen, "chosen"),
            "rejected": _answer(rejected, "rejected"),
        }
    if len(chosen) < 2 or chosen[:-1] != rejected[:-1]:
        raise ShapeFault("chosen and rejected: must be one conversation that differs in its last message")
    return {
        "messages": chosen[:-1],
        "chosen": _answer(chosen[-1:], "chosen"),
        "rejected": _answer(rejected[-1:], "rejected"),
    }


def _hh_comparison(row: Row, as_text: bool) -> Row:
    """Two transcripts that differ in the Assistant's last turn."""
    chosen, rejected = (transcript(_required(row, key), key) for key in ("chosen", "rejected"))
    for key, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[-1]["role"] != "assistant":
            raise ShapeFault(f"{key}: must end with a turn of the Assistant")
    if chosen[:-1] != rejected[:-1]:
        raise ShapeFault("chosen and rejected: differ before their last turn, so they answer no one prompt")
    if not as_text:
        return {"messages": chosen[:-1], "chosen": chosen[-1]["content"], "rejected": rejected[-1]["content"]}
    prompt, _, better = row["chosen"].rpartition(LAST_TURN)
    return {
        "text": prompt + LAST_TURN,
        "chosen": better,
        "rejected": row["rejected"].rpartition(LAST_TURN)[2],
    }


def _prompt(value: Any) -> Row:
    return {"messages": value} if isinstance(value, list) else {"text": _text(value, "prompt")}


def _answer(value: Any, key: str) -> str:
    """The text of an answer: as it is, or of the one message of the assistant's that it holds."""
    if isinstance(value, str):
        return value
    only = value[0] if isinstance(value, list) and len(value) == 1 else None
    if not isinstance(only, dict) or only.get("role") != "assistant":
        raise ShapeFault(f"{key}: must be one message of the assistant's")
    return _text(only.get("content"), f"{key}.content")


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise ShapeFault(f"{key}: must be text, is {type(value).__name__}")
    return value


def _required(row: Row, key: str) -> Any:
    if key not in row:
        raise ShapeFault(f"{key}: is missing; the row has {', '.join(sorted(row)) or 'no keys'}")
    return row[key]
