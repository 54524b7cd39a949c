"""From messages to ids: a prompt and what the assistant said line up with what a policy would sample."""

from pathlib import Path

import pytest

from services.templates import (
    TemplateError,
    load_tokenizer,
    render_conversation,
    render_exchange,
    render_prompt,
    render_text,
    template_sha256,
    tokenizer_sha256,
)
from tests.tiny_models import FAMILIES, tiny_tokenizer, write_tiny_model

TALK = [
    {"role": "user", "content": "w1 w2"},
    {"role": "assistant", "content": "w3"},
    {"role": "user", "content": "w4"},
    {"role": "assistant", "content": "w5 w6"},
]
# ChatML in words: every turn is closed, and something stands behind the end token.
CHATML = (
    "{% for m in messages %}<s> {{ m['content'] }} </s> w58 {% endfor %}"
    "{% if add_generation_prompt %}<s> {% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}{% if m['role'] != 'assistant' or loop.last %} {{ m['content'] }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %} <reply>{% endif %}"
)
ENDLESS = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %} <reply>{% endif %}"
    " {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %} <reply>{% endif %}"
)
STRICT = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('users first') }}{% endif %}x"


def test_a_prompt_ends_with_the_opening_of_the_assistants_turn() -> None:
    assert render_prompt(tiny_tokenizer(), TALK[:1]) == [1, 6, 7, 4]


def test_the_assistants_words_and_their_end_are_marked_in_every_turn() -> None:
    ids, said = render_conversation(tiny_tokenizer(), TALK)
    assert ids == [1, 6, 7, 4, 8, 2, 9, 4, 10, 11, 2]
    assert [token for token, spoken in zip(ids, said, strict=True) if spoken] == [8, 2, 10, 11, 2]


def test_a_conversation_begins_with_the_prompt_that_the_policy_would_read() -> None:
    for template in (None, CHATML):
        tokenizer = tiny_tokenizer(template) if template else tiny_tokenizer()
        ids, said = render_conversation(tokenizer, TALK[:2])
        prompt = render_prompt(tokenizer, TALK[:1])
        assert ids[: len(prompt)] == prompt
        assert said == [False] * len(prompt) + [True] * (len(ids) - len(prompt))


def test_what_stands_behind_the_end_token_is_not_said_by_the_assistant() -> None:
    ids, said = render_conversation(tiny_tokenizer(CHATML), TALK)
    assert ids == [1, 6, 7, 2, 63, 1, 8, 2, 63, 1, 9, 2, 63, 1, 10, 11, 2]
    assert [i for i, spoken in enumerate(said) if spoken] == [6, 7, 14, 15, 16]


def test_an_exchange_ends_with_one_end_token_whatever_the_template_does() -> None:
    assert render_exchange(tiny_tokenizer(), TALK[:1], "w3") == [1, 6, 7, 4, 8, 2]
    assert render_exchange(tiny_tokenizer(), TALK[:1], "w3 </s> </s>") == [1, 6, 7, 4, 8, 2]
    assert render_exchange(tiny_tokenizer(CHATML), TALK[:1], "w3") == [1, 6, 7, 2, 63, 1, 8, 2]
    assert render_exchange(tiny_tokenizer(ENDLESS), TALK[:1], "w3") == [6, 7, 4, 8, 2]
    assert render_exchange(tiny_tokenizer(None), "<s> w1", "w3") == [1, 6, 8, 2]
    assert render_exchange(tiny_tokenizer(None), "<s> w1", "") == [1, 6, 2]


def test_a_conversation_that_waits_for_the_assistant_is_rendered_whole() -> None:
    ids, said = render_conversation(tiny_tokenizer(), TALK[:3])
    assert ids == [1, 6, 7, 4, 8, 2, 9]
    assert said[-1] is False


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    with pytest.raises(TemplateError, match="not prefix-stable"):
        render_conversation(tiny_tokenizer(FORGETFUL), TALK)


def test_a_missing_template_and_one_that_refuses_are_clear_errors() -> None:
    with pytest.raises(TemplateError, match="no chat template"):
        render_prompt(tiny_tokenizer(None), TALK)
    with pytest.raises(TemplateError, match="users first"):
        render_prompt(tiny_tokenizer(STRICT), TALK[1:])


def test_a_text_has_one_start_token_and_no_end_token() -> None:
    assert render_text(tiny_tokenizer(), "<s> <s> w1 </s>") == [1, 6]
    assert render_text(tiny_tokenizer(), "w1 w2") == [6, 7]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_tokenizer_is_the_same_tokenizer(tmp_path: Path, family: str) -> None:
    path = write_tiny_model(tmp_path / "m", family)
    loaded = load_tokenizer(path)
    assert loaded("<s> w1 w2 <reply> zz").input_ids == [1, 6, 7, 4, 3]
    assert tokenizer_sha256(path) == tokenizer_sha256(loaded) == tokenizer_sha256(tiny_tokenizer())
    assert template_sha256(loaded) == template_sha256(tiny_tokenizer())


def test_a_tokenizers_name_depends_on_its_words_and_not_on_how_it_was_used() -> None:
    used, other = tiny_tokenizer(), tiny_tokenizer()
    used(["w1", "w2 w3"], padding=True, truncation=True, max_length=4)
    assert tokenizer_sha256(used) == tokenizer_sha256(tiny_tokenizer())
    other.add_tokens(["extra"])
    assert tokenizer_sha256(other) != tokenizer_sha256(used)
    assert template_sha256(tiny_tokenizer(None)) == ""
