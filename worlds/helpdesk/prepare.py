"""Writes the model and the data of one seed. The same seed and sizes give the same bytes.

    DIR/model/                 randomly initialised
    DIR/pretrain.jsonl         {"messages": [user, assistant, user]}       logs with the reaction
    DIR/demonstrations.jsonl   {"messages": [user, assistant]}             mixed quality
    DIR/prompts.jsonl          {"prompt_id": "train-00007", "messages": [user]}
    DIR/heldout.jsonl          {"prompt_id": "heldout-00007", "messages": [user]}
    DIR/refunds.jsonl          {"prompt_id": "refund-00007", "messages": [user]}        all of one kind

and with --judge, whose words the tokenizer then knows too (see judging.py):

    DIR/judge.jsonl            {"messages": [user, assistant, ...]}        comparisons, critiques, revisions
    DIR/judge-heldout.jsonl    {"messages": [user], "chosen", "rejected", "principle"}     with gold's answer

A log is for training on its last message alone, the reaction: the other words are drawn by
chance, and their noise would drown the one word that tells whether the reply fitted.

No case (item, problem, colour, day) of a held-out prompt occurs in any other file.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from worlds.helpdesk.agents import TRAINED, UNTRAINED, draw_reply
from worlds.helpdesk.customers import Case, draw_message, every_case, reaction
from worlds.helpdesk.judging import assistant, judge_rows, judge_words, known_rows, user

# The kind of customer that refunds.jsonl is about: what is right for them is wrong for nearly everybody else.
KIND_ITEM, KIND_ACTION = "blender", "refund"


@dataclass(frozen=True)
class Sizes:
    """How many rows each file gets."""

    logs: int = 24000
    demonstrations: int = 6000
    prompts: int = 2800  # distinct cases; at most 3,360 less the held-out ones
    heldout: int = 512
    judge: int = 0  # comparisons that a judge learns from; with 0 no file of its own, no word more

    def check(self) -> None:
        faults = [
            f"{name}: must be at least 1, is {n}" for name, n in vars(self).items() if n < (name != "judge")
        ]
        total = len(every_case())
        if self.prompts + self.heldout > total:
            faults.append(f"prompts + heldout: at most {total}, is {self.prompts + self.heldout}")
        if faults:
            raise ValueError("; ".join(faults))


def write_data(directory: Path, sizes: Sizes, seed: int) -> None:
    """The files. Each draws from its own stream, so that one size does not move another."""
    sizes.check()
    heldout, train = split_cases(sizes.heldout, seed)
    write_jsonl(directory / "heldout.jsonl", prompt_rows("heldout", heldout, seed))
    write_jsonl(directory / "prompts.jsonl", prompt_rows("train", train[: sizes.prompts], seed))
    refunds = [case for case in train if (case.item, case.action) == (KIND_ITEM, KIND_ACTION)]
    others = [case for case in train if case not in refunds][: len(refunds)]
    mixed = [case for pair in zip(refunds, others, strict=True) for case in pair]
    write_jsonl(directory / "refunds.jsonl", prompt_rows("refund", mixed, seed))
    write_jsonl(directory / "demonstrations.jsonl", demonstration_rows(train, sizes.demonstrations, seed))
    write_jsonl(directory / "pretrain.jsonl", log_rows(train, sizes.logs, seed))
    if sizes.judge:
        write_jsonl(directory / "judge.jsonl", judge_rows(train, sizes.judge, seed))
        write_jsonl(directory / "judge-heldout.jsonl", known_rows(heldout, seed))


def further_words(sizes: Sizes) -> list[str]:
    """Words that the tokenizer needs beside those of the world: a judge's, where there is one."""
    return judge_words() if sizes.judge else []


def split_cases(heldout: int, seed: int) -> tuple[list[Case], list[Case]]:
    """The held-out cases and all others, each in a random order."""
    cases = every_case()
    Random(f"cases {seed}").shuffle(cases)
    return cases[:heldout], cases[heldout:]


def prompt_rows(name: str, cases: list[Case], seed: int) -> Iterable[dict]:
    random = Random(f"{name} {seed}")
    for number, case in enumerate(cases):
        yield {"prompt_id": f"{name}-{number:05d}", "messages": [user(draw_message(case, random))]}


def demonstration_rows(cases: list[Case], count: int, seed: int) -> Iterable[dict]:
    random = Random(f"demonstrations {seed}")
    for _ in range(count):
        case = random.choice(cases)
        message = draw_message(case, random)
        yield {"messages": [user(message), assistant(draw_reply(case, message, TRAINED, random))]}


def log_rows(cases: list[Case], count: int, seed: int) -> Iterable[dict]:
    random = Random(f"logs {seed}")
    for _ in range(count):
        case = random.choice(cases)
        message = draw_message(case, random, UNTRAINED.chatty)
        reply = draw_reply(case, message, UNTRAINED, random)
        yield {"messages": [user(message), assistant(reply), user(reaction(case, message, reply))]}


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
