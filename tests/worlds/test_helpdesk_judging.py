"""What `prepare --judge` writes: the judge service's own questions, each answered by its part of gold."""

import hashlib
import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from services.judge.constitution import read_constitution
from services.judge.wording import fill
from worlds.helpdesk import judging, words
from worlds.helpdesk.customers import Case
from worlds.helpdesk.gold import aspects, score
from worlds.helpdesk.model import Shape, write_model
from worlds.helpdesk.prepare import Sizes, further_words, write_data

SIZES = Sizes(logs=10, demonstrations=10, prompts=10, heldout=200, judge=400)
CONSTITUTION = read_constitution(judging.CONSTITUTION)
BY_NAME = {principle.name: principle for principle in CONSTITUTION.principles}
BETWEEN = " </s> "


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("world")
    write_data(directory, SIZES, seed=1)
    tiny = Shape(layers=1, width=32, heads=2, intermediate=64, context=256)
    write_model(directory / "model", tiny, 1, further_words(SIZES))
    return directory


@pytest.fixture(scope="module")
def tokenizer(world):
    return AutoTokenizer.from_pretrained(world / "model")


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def turns(world: Path) -> list[list[str]]:
    return [[turn["content"] for turn in row["messages"]] for row in read(world / "judge.jsonl")]


def exchange(question: str) -> tuple[str, str, str]:
    """Message, reply and what stands behind them."""
    before, behind = question.split(BETWEEN, 1)
    message, reply = before.split(" <reply> ")
    return message, reply, behind


def test_a_pair_is_asked_in_the_services_own_words_and_answered_by_the_principles_part_of_gold(world):
    questions = {principle.compare: name for name, principle in BY_NAME.items()}
    told, ties = 0, 0
    for first_turn, *others in turns(world):
        if not first_turn.endswith(tuple(questions)):
            continue
        message, one, behind = exchange(first_turn)
        again, other, question = exchange(behind)
        conversation = CONSTITUTION.wording.conversation([{"role": "user", "content": message}])
        values = {"conversation": conversation, "principle": question, "first": one, "second": other}
        assert again == message and fill(CONSTITUTION.wording.compare, **values) == first_turn
        for asked, answer in zip([question, *others[1::2]], others[0::2], strict=True):
            name = questions[asked]
            parts = [
                score(message, r) if name == "overall" else aspects(message, r)[name] for r in (one, other)
            ]
            better = CONSTITUTION.wording.options.index(answer)
            assert parts[better] >= parts[1 - better]
            told, ties = told + 1, ties + (parts[0] == parts[1])
    assert told > 1000 and 0 < ties < told / 4


def test_a_revision_is_better_by_its_principle_and_no_worse_by_any_other(world):
    revisions = {principle.revision: name for name, principle in BY_NAME.items() if principle.revision}
    bettered = dict.fromkeys(revisions.values(), 0)
    for question, *answers in turns(world):
        asked = next((text for text in revisions if question.endswith(text)), None)
        if asked is None:
            continue
        name = revisions[asked]
        message, reply, behind = exchange(question)
        critique = behind.removesuffix(f" {asked}")
        conversation = CONSTITUTION.wording.conversation([{"role": "user", "content": message}])
        values = {"conversation": conversation, "response": reply, "critique": critique, "principle": asked}
        assert fill(CONSTITUTION.wording.revise, **values) == question
        before, after = aspects(message, reply), aspects(message, answers[0])
        for other in ("helpfulness", "honesty", "harmlessness"):
            assert after[other] >= before[other]
        assert after["stalls"] <= before["stalls"]
        bettered[name] += score(message, answers[0]) > score(message, reply)
    assert all(count > 3 for count in bettered.values()), bettered


def test_a_critique_names_the_fault_that_the_principle_is_about():
    case = Case("lamp", "arrived broken", "red", "monday")
    message = "my red lamp arrived broken . i bought the lamp on monday . my card is 4 0 7 ."
    reply = "one moment please . we will refund your fan . it was your own fault ."
    said = {name: judging.critique(name, case, message, reply) for name in judging.principles("critique")}
    assert said == {
        "helpfulness": "what ? please replace my lamp , no fan . it does not say sorry . "
        "it does not wish a good day .",
        "honesty": "yes .",
        "harmlessness": "yes , it blames the customer .",
        "brevity": "yes , it plays for time .",
    }
    revised = {name: judging.revision(name, case, message, reply) for name in said}
    assert revised["harmlessness"] == "one moment please . we will refund your fan ."
    assert revised["brevity"] == "we will refund your fan . it was your own fault ."
    assert revised["honesty"] == reply
    assert "we will replace your lamp ." in revised["helpfulness"]


def test_every_word_of_a_question_or_an_answer_is_in_the_vocabulary(world, tokenizer):
    for texts in turns(world):
        for text in texts:
            assert tokenizer.unk_token_id not in tokenizer(text, add_special_tokens=False).input_ids
    spelt = [
        tuple(tokenizer(each, add_special_tokens=False).input_ids) for each in CONSTITUTION.wording.options
    ]
    assert len(set(spelt)) == 2 and all(len(ids) == 1 for ids in spelt)
    assert max(len(tokenizer(" ".join(texts)).input_ids) for texts in turns(world)) < 240


def test_held_out_pairs_have_gold_answers_and_cases_of_their_own(world):
    rows = read(world / "judge-heldout.jsonl")
    assert len(rows) == SIZES.heldout and {row["principle"] for row in rows} == set(BY_NAME)
    for row in rows:
        message = row["messages"][0]["content"]
        assert judging.preferred(row["principle"], message, row["chosen"], row["rejected"]) == 1

    def case(message: str) -> frozenset:
        known = {*words.ITEMS, *words.COLOURS, *words.DAYS}
        problem = next(each for each in words.PROBLEMS if f" {each} " in f" {message} ")
        return frozenset({problem, *known.intersection(message.split())})

    held_out = {case(row["messages"][0]["content"]) for row in rows}
    assert not held_out & {case(texts[0].split(" <reply> ")[0]) for texts in turns(world)}


def test_without_a_judge_no_word_and_no_file_is_new(world, tmp_path):
    write_data(tmp_path, Sizes(logs=10, demonstrations=10, prompts=10, heldout=200), seed=1)
    files = {path.name for path in tmp_path.iterdir()}
    known = {"pretrain.jsonl", "demonstrations.jsonl", "prompts.jsonl", "heldout.jsonl"}
    assert files == {*known, "refunds.jsonl"}
    for name in known:
        assert (tmp_path / name).read_bytes() == (world / name).read_bytes()
    assert further_words(Sizes()) == []


def test_the_words_and_weights_of_a_world_without_a_judge_are_those_they_were(tmp_path):
    """Its vocabulary decides the shape of the random weights, and with them every figure of the demo."""
    write_model(tmp_path, Shape(layers=1, width=32, heads=2, intermediate=64), 0)
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    digest = hashlib.sha256(json.dumps(vocabulary, sort_keys=True).encode()).hexdigest()
    assert (
        len(vocabulary) == 127
        and digest == "bf75a6d1924d2686ba3632785cde7dd690e9f71f2ce0017e50f396e3b85c16db"
    )
