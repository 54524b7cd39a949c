"""Rows in the shapes that others write: what they become, and what is refused with its line and reason."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data import (
    DataError,
    read_comparisons,
    read_demonstrations,
    read_prompts,
    read_texts,
)
from orchestrator.shapes import opening

USER, AGENT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
WORSE = {"role": "assistant", "content": "what"}
HH = {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: what"}
COMPARED = {"messages": [USER], "chosen": "hello", "rejected": "what"}


def jsonl(directory: Path, *rows: Any) -> Path:
    path = directory / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "becomes"),
    [
        (COMPARED, COMPARED),
        ({"text": "hi", "chosen": "a", "rejected": "b"}, {"text": "hi", "chosen": "a", "rejected": "b"}),
        ({"prompt": "hi", "chosen": "a", "rejected": "b"}, {"text": "hi", "chosen": "a", "rejected": "b"}),
        ({"prompt": [USER], "chosen": [AGENT], "rejected": [WORSE]}, COMPARED),
        ({"chosen": [USER, AGENT], "rejected": [USER, WORSE]}, COMPARED),
        ({"prompt": "hi", "chosen": [USER, AGENT], "rejected": [USER, WORSE]}, COMPARED),
        (HH, COMPARED),
    ],
)
def test_a_comparison_of_any_shape_is_told_by_its_row(row: Any, becomes: Any, tmp_path: Path) -> None:
    assert read_comparisons(jsonl(tmp_path, row), shape="auto") == [becomes]


def test_a_transcript_is_messages_or_stays_the_text_it_is(tmp_path: Path) -> None:
    path = jsonl(tmp_path, HH)
    text = {"text": "\n\nHuman: hi\n\nAssistant:", "chosen": " hello", "rejected": " what"}
    assert read_comparisons(path, shape="hh-text") == [text]
    assert read_prompts(path, shape="hh") == [{"prompt_id": "row-1", "messages": [USER]}]
    assert read_prompts(path, shape="hh-text") == [{"prompt_id": "row-1", "text": text["text"]}]
    assert read_demonstrations(path, shape="hh") == [{"messages": [USER, AGENT]}]
    assert read_texts(path, shape="hh-text") == [{"text": HH["chosen"]}]


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": [USER], "completion": [AGENT]}, [USER, AGENT]),
        ({"prompt": [USER], "chosen": [AGENT], "rejected": [WORSE]}, [USER, AGENT]),
    ],
)
def test_a_demonstration_is_the_prompt_with_what_was_answered(
    row: Any, messages: Any, tmp_path: Path
) -> None:
    assert read_demonstrations(jsonl(tmp_path, row), shape="auto") == [{"messages": messages}]


def test_a_text_of_prompt_and_answer_trains_as_a_whole_only_where_that_is_meant(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"prompt": "2 + 2 =", "completion": " 4"})
    assert read_texts(path, shape="auto") == [{"text": "2 + 2 = 4"}]
    with pytest.raises(DataError, match="line 1: prompt and answer become one text.* say loss_on: all"):
        read_demonstrations(path, shape="auto")


@pytest.mark.parametrize(
    ("shape", "row", "fault"),
    [
        ("trl", {"chosen": "a", "rejected": "b"}, "prompt: is missing; the row has chosen, rejected"),
        ("trl", {"prompt": 3, "chosen": "a", "rejected": "b"}, "prompt: must be text, is int"),
        (
            "trl",
            {"prompt": [USER], "chosen": [AGENT], "rejected": "b"},
            "chosen and rejected: one is messages",
        ),
        (
            "trl",
            {"prompt": [USER], "chosen": [AGENT, AGENT], "rejected": [WORSE]},
            "chosen: must be one message",
        ),
        (
            "trl",
            {"chosen": [USER, AGENT], "rejected": [AGENT, WORSE]},
            "chosen and rejected: must be one con",
        ),
        ("trl", {"prompt": "p", "chosen": "a", "rejected": "a"}, "chosen and rejected: are the same text"),
        ("trl", {"prompt": "p", "chosen": "a", "rejected": " "}, "rejected: must be text that is not empty"),
        ("trl", {"prompt": "", "chosen": "a", "rejected": "b"}, "text: must be text that is not empty"),
        ("hh", {"chosen": HH["chosen"]}, "rejected: is missing; the row has chosen"),
        ("hh", {**HH, "rejected": "no"}, 'rejected: must be a transcript that begins with "\\n\\nHuman:"'),
        ("hh", {**HH, "rejected": "\n\nHuman: ho\n\nAssistant: x"}, "chosen and rejected: differ before"),
        (
            "hh",
            {**HH, "rejected": HH["rejected"] + "\n\nHuman: bye"},
            "rejected: must end with a turn of the",
        ),
        ("hh", {**HH, "chosen": "\n\nHuman: hi\n\nAssistant:"}, "chosen: must be text that is not empty"),
        ("plain", {"text": "p"}, "chosen: must be text that is not empty"),
    ],
)
def test_a_row_of_the_wrong_shape_is_named_with_line_and_reason(
    shape: str, row: Any, fault: str, tmp_path: Path
) -> None:
    good = {"plain": COMPARED, "trl": {"prompt": "p", "chosen": "a", "rejected": "b"}, "hh": HH}[shape]
    with pytest.raises(DataError) as caught:
        read_comparisons(jsonl(tmp_path, good, row), shape=shape)
    assert any(each.startswith(f"line 2: {fault}") for each in caught.value.faults), caught.value.faults


def test_a_prompt_may_be_compared_twice_but_a_name_names_one_prompt(tmp_path: Path) -> None:
    named = {"prompt_id": "p", **COMPARED}
    again = {**named, "chosen": "good day"}
    assert len(read_comparisons(jsonl(tmp_path, named, again))) == 2
    other = {"prompt_id": "p", "text": "else", "chosen": "a", "rejected": "b"}
    with pytest.raises(DataError, match="line 2: prompt_id: 'p' was given on line 1 with another prompt"):
        read_comparisons(jsonl(tmp_path, named, other))


def test_as_many_faulty_rows_as_allowed_are_left_out_and_told_and_one_more_refuses(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"chosen": "x"}, HH, [1], HH, {})
    rows = read_comparisons(path, shape="hh", bad_rows=3)
    assert rows == [COMPARED, COMPARED]
    assert [fault.partition(":")[0] for fault in rows.left_out] == ["line 1", "line 3", "line 5"]
    with pytest.raises(DataError, match=r"3 rows are faulty, more than bad_rows \(2\) allows\n  line 1: "):
        read_comparisons(path, shape="hh", bad_rows=2)
    with pytest.raises(DataError, match="line 1: (.|\n)*line 5: "):
        read_comparisons(path, shape="hh")
    with pytest.raises(DataError, match="line 1: (.|\n)*holds no rows to use"):
        read_comparisons(jsonl(tmp_path, {}), shape="hh", bad_rows=1)


def test_a_gzipped_file_is_read_and_a_damaged_one_told(tmp_path: Path) -> None:
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress((json.dumps(HH) + "\n").encode()))
    assert read_comparisons(packed, shape="auto") == [COMPARED]
    packed.write_bytes(packed.read_bytes()[:-10])
    with pytest.raises(DataError, match="cannot be read: Compressed file ended"):
        read_comparisons(packed)
    packed.write_bytes(b"plain text")
    with pytest.raises(DataError, match="cannot be read: Not a gzipped file"):
        read_comparisons(packed)


def test_the_opening_of_a_dialogue_is_its_first_turn() -> None:
    assert opening({"messages": [USER, AGENT, USER]}) == "hi"
    system = {"role": "system", "content": "You are a helpful assistant."}
    assert opening({"messages": [system, USER, AGENT, USER]}) == "hi", "a whole collection may share one"
    assert opening({"messages": [system]}) == system["content"]
    assert opening({"text": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: ho\n\nAssistant:"}) == "hi"
    assert opening({"text": "once upon a time"}) == "once upon a time"
