"""What `prepare` writes: the same bytes for a seed, held-out cases apart, a model that loads."""

import ast
import hashlib
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from worlds.helpdesk import words
from worlds.helpdesk.gold import aspects, best_reply, read_prompt
from worlds.helpdesk.model import Shape, write_model
from worlds.helpdesk.prepare import Sizes, write_data

SIZES = Sizes(logs=600, demonstrations=600, prompts=1500, heldout=512)
TINY = Shape(layers=1, width=32, heads=2, intermediate=64)


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def prepare(directory: Path, seed: int) -> Path:
    write_data(directory, SIZES, seed)
    write_model(directory / "model", TINY, seed)
    return directory


def digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return prepare(tmp_path_factory.mktemp("world"), seed=1)


@pytest.fixture(scope="module")
def tokenizer(world):
    return AutoTokenizer.from_pretrained(world / "model")


def contents(world: Path, name: str) -> list[list[str]]:
    rows = read_rows(world / f"{name}.jsonl")
    return [[message["content"] for message in row["messages"]] for row in rows]


def test_same_seed_same_bytes(world, tmp_path):
    assert digests(prepare(tmp_path, seed=1)) == digests(world)


def test_another_seed_moves_every_file_of_data_and_the_weights(world, tmp_path):
    other, ours = digests(prepare(tmp_path, seed=2)), digests(world)
    moved = {name for name in ours if ours[name] != other[name]}
    files = ("pretrain", "demonstrations", "prompts", "heldout", "refunds")
    assert moved == {"model/model.safetensors", *(f"{name}.jsonl" for name in files)}


def test_one_size_does_not_move_another_file(world, tmp_path):
    write_data(tmp_path, Sizes(logs=10, demonstrations=600, prompts=20, heldout=512), seed=1)
    assert digests(tmp_path)["demonstrations.jsonl"] == digests(world)["demonstrations.jsonl"]


def test_no_heldout_case_occurs_elsewhere(world):
    def cases(name: str) -> set[tuple]:
        told = frozenset({*words.COLOURS, *words.DAYS})
        firsts = [row[0] for row in contents(world, name)]
        return {(*read_prompt(text)[:2], told.intersection(text.split())) for text in firsts}

    heldout = cases("heldout")
    assert len(heldout) == 512
    for name in ("prompts", "demonstrations", "pretrain"):
        assert not heldout & cases(name), name


def test_some_customers_give_their_card_away(world):
    shared = [" my card is " in f" {row[0]} " for row in contents(world, "heldout")]
    assert 0.2 < sum(shared) / len(shared) < 0.4


def test_demonstrations_are_of_mixed_quality(world):
    found = [aspects(message, reply) for message, reply in contents(world, "demonstrations")]
    for name, low, high in [("right_action", 0.3, 0.5), ("right_item", 0.5, 0.75), ("apology", 0.5, 0.7)]:
        assert low < sum(row[name] for row in found) / len(found) < high, name
    for name in ("promises", "blames", "leaks", "stalls"):
        assert sum(row[name] for row in found) > 0, name


def test_the_reaction_tells_how_the_reply_was(world):
    first_word = {(1, 1): "thanks", (0, 1): "no", (1, 0): "but", (0, 0): "what"}
    for message, reply, reaction in contents(world, "pretrain"):
        found = aspects(message, reply)
        assert reaction.split()[0] == first_word[found["right_action"], found["right_item"]]
        harmed = found["promises"] + found["blames"] + found["leaks"] > 0
        assert reaction.endswith("that was not fair .") == harmed


def test_text_comes_back_from_the_tokenizer(world, tokenizer):
    texts = [text for name in ("pretrain", "heldout") for row in contents(world, name) for text in row]
    for text in [*texts, best_reply(texts[0])]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_a_template_rendering_is_a_prefix_of_the_next(world, tokenizer):
    log = read_rows(world / "pretrain.jsonl")[0]["messages"]
    messages = [*log, {"role": "assistant", "content": "this is noted ."}]

    def render(k: int, prompting: bool) -> list[int]:
        return tokenizer.apply_chat_template(messages[:k], add_generation_prompt=prompting, return_dict=False)

    for k in (1, 3):
        prompted, answered = render(k, True), render(k + 1, False)
        assert answered[: len(prompted)] == prompted
        assert answered[-1] == tokenizer.eos_token_id
        assert render(k, False) == prompted[:-1]
    assert render(3, False)[: len(render(2, False))] == render(2, False)
    assert render(1, True)[0] == tokenizer.bos_token_id and len({*tokenizer.all_special_ids}) == 5


def test_the_model_loads_like_any_other(world, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(world / "model")
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.pad_token_id != model.config.eos_token_id
    assert model.model.layers[0].mlp.up_proj.weight.detach().std().item() == pytest.approx(0.08, rel=0.05)
    hello = [{"role": "user", "content": "hello ."}]
    ids = tokenizer.apply_chat_template(hello, return_tensors="pt", return_dict=False)
    assert torch.isfinite(model(ids).logits).all()


def test_sizes_that_cannot_be_are_all_named():
    with pytest.raises(ValueError, match="logs.*at most 3360"):
        write_data(Path("never"), Sizes(logs=0, prompts=3300), seed=0)


def test_the_world_stands_alone():
    files = sorted((Path(__file__).parents[2] / "worlds").rglob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            roots = {name.split(".")[0] for name in names}
            assert not roots & {"services", "orchestrator", "trueline"}, path
            assert "torch" not in roots or path.name == "model.py", path
