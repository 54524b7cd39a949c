"""python -m services.judge import FILE ... [--output constitution.yaml] [--name NAME]

Makes a constitution of ours from public JSON files, told apart by their shape:

    {"harmful0": {"prompt": ["\\n\\nCritiqueRequest: ...\\n\\nCritique:"],      critique and revision requests
                  "edit_request": "\\n\\nRevisionRequest: ...\\n\\nRevision:"}}
    ["Which of these responses is less harmful? ...\\nOptions:", ...]         comparisons, one text each
    {"constitutions": [{"critic": "...", "revision": "..."}], ...}            critique and revision requests

Several files make one constitution. What an importer leaves out is said on standard error; files of worked
examples hold no principles and are refused. The texts are their authors': mind their licence.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from services.judge.constitution import ConstitutionError, parse_constitution

Principles = list[dict[str, Any]]

# What stands around the requests in the files: the wording of a few-shot transcript, not of a principle.
_MARKS = ("CritiqueRequest:", "Critique:", "RevisionRequest:", "Revision:", "Options:")


def main(arguments: Sequence[str]) -> int:
    """Imports; 0 when a constitution was written, 2 with a line for what is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m services.judge import", description="Makes a constitution from public JSON files."
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--output", type=Path, help="file to write; standard output without it")
    parser.add_argument("--name", help="the constitution's name; the first file's without it")
    options = parser.parse_args(arguments)
    try:
        text = imported(options.files, options.name or options.files[0].stem)
        if options.output:
            options.output.write_text(text, encoding="utf-8")
        else:
            sys.stdout.write(text)
    except (ValueError, OSError) as fault:
        print(f"{parser.prog}: {fault}", file=sys.stderr)
        return 2
    return 0


def imported(files: Sequence[Path], name: str) -> str:
    """The YAML text of the constitution that the files make. Raises ValueError that names file and fault."""
    principles: Principles = []
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file}: is not JSON ({error})") from None
        principles += _principles(content, file)
    text = yaml.safe_dump(
        {"name": name, "principles": principles}, sort_keys=False, allow_unicode=True, width=100
    )
    try:
        parse_constitution(text)
    except ConstitutionError as error:
        raise ValueError(f"{', '.join(map(str, files))}: {error}") from None
    return text


def _principles(content: Any, file: Path) -> Principles:
    if isinstance(content, dict) and isinstance(content.get("constitutions"), list):
        return _critic_pairs(content, file)
    if isinstance(content, dict) and content and all(_is_instruction(each) for each in content.values()):
        return [
            {
                "name": name,
                "critique": _bare(_joined(each["prompt"])),
                "revision": _bare(each["edit_request"]),
            }
            for name, each in content.items()
        ]
    if isinstance(content, list) and content and all(isinstance(each, str) for each in content):
        return _comparisons(content, file)
    raise ValueError(
        f"{file}: none of the shapes known: a dict of prompt and edit_request, a list of texts that end in "
        '"Options:", or {"constitutions": [{"critic", "revision"}]}'
    )


def _critic_pairs(content: dict[str, Any], file: Path) -> Principles:
    wrong = [index for index, each in enumerate(content["constitutions"]) if not _is_critic_pair(each)]
    if wrong:
        raise ValueError(f"{file}: constitutions[{wrong[0]}] holds no texts named critic and revision")
    left_out = sorted(content.keys() - {"constitutions"})
    if left_out:
        print(f"{file}: left out, since it holds no principle: {', '.join(left_out)}", file=sys.stderr)
    return [
        {
            "name": f"{file.stem}-{index}",
            "critique": _bare(each["critic"]),
            "revision": _bare(each["revision"]),
        }
        for index, each in enumerate(content["constitutions"], start=1)
    ]


def _comparisons(texts: list[str], file: Path) -> Principles:
    unlike = [index for index, text in enumerate(texts) if not text.rstrip().endswith("Options:")]
    if unlike:
        raise ValueError(
            f'{file}: item {unlike[0]} does not end in "Options:"; transcripts of examples hold no principles'
        )
    return [
        {"name": f"{file.stem}-{index}", "compare": _bare(text)} for index, text in enumerate(texts, start=1)
    ]


def _is_instruction(each: Any) -> bool:
    if not isinstance(each, dict) or not isinstance(each.get("edit_request"), str):
        return False
    prompt = each.get("prompt")
    return isinstance(prompt, str) or (
        isinstance(prompt, list) and bool(prompt) and all(isinstance(part, str) for part in prompt)
    )


def _is_critic_pair(each: Any) -> bool:
    return isinstance(each, dict) and all(isinstance(each.get(key), str) for key in ("critic", "revision"))


def _joined(prompt: str | list[str]) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(prompt)


def _bare(text: str) -> str:
    """Without the marks of a transcript: "CritiqueRequest: Say ... \\n\\nCritique:" is "Say ..."."""
    text = text.strip()
    for mark in _MARKS:
        text = text.removeprefix(mark).removesuffix(mark).strip()
    return text
