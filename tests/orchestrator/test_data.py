"""JSONL inputs: what is good is read as it stands, what is faulty is named with its line."""

import codecs
import hashlib
import json
from pathlib import Path

import pytest

from orchestrator.data import DataError, file_sha256, read_demonstrations, read_prompts, read_texts

USER = {"role": "user", "content": "my lamp is broken ."}
AGENT = {"role": "assistant", "content": "sorry ."}


def jsonl(directory: Path, *rows: object) -> Path:
    path = directory / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_prompts_are_read_as_they_stand_up_to_the_limit(tmp_path: Path) -> None:
    rows = [
        {"prompt_id": "a", "messages": [USER]},
        {"prompt_id": "b", "text": "once\u2028upon", "source": "x"},
    ]
    path = jsonl(tmp_path, rows[0], "", rows[1], "not JSON, but beyond the limit")
    assert read_prompts(path, limit=2) == rows
    assert read_prompts(path, limit=1) == rows[:1]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("{", "line 2: not JSON: Expecting property name enclosed in double quotes at column 2"),
        ("[1]", "line 2: must be an object, is list"),
        ({"messages": [USER]}, "line 2: prompt_id: must be text that is not empty, is None"),
        ({"prompt_id": "a", "messages": [USER]}, "line 2: prompt_id: 'a' was given on line 1"),
        ({"prompt_id": "b"}, "line 2: must have either text or messages"),
        ({"prompt_id": "b", "text": "x", "messages": [USER]}, "line 2: must have either text or messages"),
        ({"prompt_id": "b", "text": " \n"}, "line 2: text: must be text that is not empty"),
        ({"prompt_id": "b", "messages": []}, "line 2: messages: must be a list that is not empty"),
        (
            {"prompt_id": "b", "messages": ["hi"]},
            "line 2: messages[0]: must be an object with role and content",
        ),
        (
            {"prompt_id": "b", "messages": [{"role": "bot", "content": "x"}]},
            "line 2: messages[0].role: must be one of system, user, assistant, is 'bot'",
        ),
        (
            {"prompt_id": "b", "messages": [USER, {"role": "user", "content": ""}]},
            "line 2: messages[1].content: must be text that is not empty",
        ),
        ({"prompt_id": "b", "messages": [USER, AGENT]}, "line 2: messages: the last one is the assistant's"),
        ({"prompt_id": "b", "text": "cut \ud83d"}, "line 2: holds half of a surrogate pair"),
        ('{"prompt_id": "b", "text": "x", "n": ' + "9" * 5000 + "}", "line 2: holds a number of thousands"),
    ],
)
def test_a_faulty_prompt_is_named_with_its_line(row: object, fault: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_prompts(jsonl(tmp_path, {"prompt_id": "a", "messages": [USER]}, row))
    assert any(each.startswith(fault) for each in caught.value.faults), caught.value.faults


def test_many_faults_are_counted_and_the_first_ten_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 5: must have(.|\n)*and 15 more") as caught:
        read_prompts(jsonl(tmp_path, *["{}"] * 12 + ["x"]))
    assert len(caught.value.faults) == 25 and "line 6" not in str(caught.value)


def test_a_demonstration_without_an_assistant_is_refused_and_a_text_of_users_is_not(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"messages": [USER, AGENT, USER]}, {"text": "plain"}, {"messages": [USER]})
    assert len(read_texts(path)) == 3
    assert len(read_demonstrations(path, limit=2)) == 2
    with pytest.raises(DataError, match="line 3: messages: none is the assistant's"):
        read_demonstrations(path)


def test_a_file_that_is_missing_empty_or_not_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.jsonl:\n  cannot be read: No such file"):
        read_prompts(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="holds no rows"):
        read_prompts(jsonl(tmp_path, "", " "))


def test_a_line_that_is_not_text_is_named_and_counted_like_any_other(tmp_path: Path) -> None:
    good = b'{"text": "a row of text"}\n'
    path = tmp_path / "bytes"
    path.write_bytes(codecs.BOM_UTF8 + good * 5000 + b'{"text": "\xff"}\n\r\n{"text": "x"}\r{"text": "y"}\n')
    with pytest.raises(DataError, match="line 5001: not UTF-8: .* at byte 10 of the line"):
        read_texts(path)
    rows = read_texts(path, bad_rows=1)
    assert len(rows) == 5002 and rows.left_out[0].startswith("line 5001: not UTF-8")


def test_the_digest_of_a_file_is_of_all_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"ab" * (1 << 20) + b"c")
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_byte_order_mark_and_whole_surrogate_pairs_cost_no_row(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"prompt_id": "a", "text": "fine \U0001f600"}, {"prompt_id": "b", "text": "x"})
    assert "\\ud83d" in path.read_text()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [row["prompt_id"] for row in read_prompts(path)] == ["a", "b"]
