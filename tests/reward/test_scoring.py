"""Scoring over the wire: each item a score or an error, and the score is the model's own."""

import math
from pathlib import Path

import grpc
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from services.templates import template_sha256, tokenizer_sha256
from tests.reward.hosting import publish_reward, reward_service, version_pb
from tests.tiny_models import tiny_tokenizer
from trueline import CallError
from trueline.v1 import reward_pb2

USER = [{"role": "user", "content": "w1 w2"}]
# <s> w1 w2 <reply> w3 </s>
USER_W3 = [1, 6, 7, 4, 8, 2]


def own_score(path: Path, ids: list[int]) -> float:
    """What transformers itself says of one row."""
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([ids])).logits[0, 0])


def reasons(reply: reward_pb2.ScoreResponse) -> list[str]:
    """Why there is no score, item by item; "" where there is one."""
    return [score.error.reason if score.WhichOneof("outcome") == "error" else "" for score in reply.scores]


async def test_a_rule_scores_text_and_messages_in_the_order_asked():
    async with reward_service() as (client, _):
        reply = await client.score("words", [("hi", "one two"), (USER, "one"), ("hi", "one two three")])
    assert [score.value.raw for score in reply.scores] == [2.0, 1.1, 3.0]
    assert [score.value.normalised for score in reply.scores] == [2.0, 1.1, 3.0]
    assert reply.scorer.kind == reward_pb2.SCORER_KIND_RULE
    assert reply.scorer.function == "tests.reward.scripted_rules:count_words"
    assert not reply.scorer.HasField("version")


async def test_what_goes_wrong_in_a_rule_is_the_error_of_its_item_and_never_a_score():
    ways = ["raises", "fine", "nan", "infinite", "nothing", "text", "true", "exits", "fine", "huge", "half"]
    async with reward_service(rules=(("bad", "tests.reward.scripted_rules:misbehave"),)) as (client, _):
        reply = await client.score("bad", [("hi", way) for way in ways])
    failed, number = "rule_failed", "not_a_number"
    expected = [failed, "", "non_finite", "non_finite", number, number, number, failed, ""]
    assert reasons(reply) == [*expected, failed, failed]
    assert "KeyError: 'no such order'" in reply.scores[0].error.message
    assert reply.scores[-1].error.message == "ValueError: no file named ?"


@pytest.mark.parametrize("scorer", ["words", "reward"])
async def test_an_empty_prompt_is_the_error_of_its_item_and_an_empty_response_is_scored(
    tmp_path: Path, scorer: str
):
    silent = [{"role": "user", "content": ""}]
    items = [("w1", ""), ("", "w1"), ("w1", " \n"), (silent, "w1"), ([], "w1"), ("w1", "w2")]
    published = publish_reward(tmp_path)
    async with reward_service(learned=(("reward", published.path),)) as (client, _):
        reply = await client.score(scorer, items)
    assert reasons(reply) == ["", "empty_prompt", "", "empty_prompt", "empty_prompt", ""]


async def test_a_malformed_request_is_refused_with_every_field_named():
    good, unset = reward_pb2.ScoreItem(text="hi", response="ho"), reward_pb2.ScoreItem(response="ho")
    roleless = reward_pb2.ScoreItem(response="ho")
    roleless.conversation.messages.add(content="hi")
    async with reward_service(max_items=3) as (client, _):
        cases = [
            ("words", [], ["items"]),
            ("words", [good] * 4, ["items"]),
            ("words", [unset, good, roleless], ["items[0].prompt", "items[2].conversation.messages[0].role"]),
            ("wrods", [good], ["scorer"]),
            ("", [good], ["scorer"]),
        ]
        for scorer, items, fields in cases:
            with pytest.raises(CallError) as refused:
                await client.score(scorer, items)
            assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
            assert [field for field, _ in refused.value.field_violations] == fields


async def test_the_name_may_be_left_out_where_one_scorer_is_hosted():
    async with reward_service(learned=()) as (client, _):
        reply = await client.score("", [("hi", "one")])
    assert reply.scorer.name == "words"


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
async def test_a_learned_score_is_the_models_own_at_the_last_token(tmp_path: Path, family: str):
    published = publish_reward(tmp_path, family=family)
    async with reward_service(learned=(("reward", published.path),)) as (client, _):
        reply = await client.score("reward", [(USER, "w3"), ("w1 w2", "w3 w4")])
    messages, text = (score.value for score in reply.scores)
    assert messages.raw == pytest.approx(own_score(published.path, USER_W3), abs=1e-5)
    assert text.raw == pytest.approx(own_score(published.path, [6, 7, 8, 9, 2]), abs=1e-5)
    assert (messages.tokens, messages.truncated, text.tokens) == (6, False, 5)
    assert messages.normalised == messages.raw


async def test_raw_and_normalised_are_both_told_where_a_normalisation_was_fitted(tmp_path: Path):
    published = publish_reward(tmp_path, extra={"normalisation": {"gain": 0.5, "bias": -1.0}})
    async with reward_service(learned=(("reward", published.path),)) as (client, _):
        reply = await client.score("reward", [(USER, "w3")])
    value = reply.scores[0].value
    assert value.raw == pytest.approx(own_score(published.path, USER_W3), abs=1e-5)
    assert value.normalised == 0.5 * value.raw - 1.0
    assert (reply.scorer.normalisation.gain, reply.scorer.normalisation.bias) == (0.5, -1.0)


async def test_what_is_too_long_keeps_its_end_and_says_so(tmp_path: Path):
    published = publish_reward(tmp_path, context=8)
    fits, long = " ".join(["w5"] * 4), " ".join(["w5", *["w6"] * 9])
    async with reward_service(learned=(("reward", published.path),)) as (client, _):
        reply = await client.score("reward", [("w1 w2 w3", fits), ("w1 w2 w3", long)])
    whole, cut = (score.value for score in reply.scores)
    assert (whole.truncated, whole.tokens) == (False, 8)
    assert (cut.truncated, cut.tokens) == (True, 8)
    assert cut.raw == pytest.approx(own_score(published.path, [11] * 7 + [2]), abs=1e-5)
    assert reply.scorer.context_length == 8


async def test_the_same_batch_gives_the_same_bits_and_another_batch_the_same_scores(tmp_path: Path):
    published = publish_reward(tmp_path)
    items = [(USER, " ".join(f"w{(n * k) % 59}" for k in range(1, 2 + n % 17))) for n in range(40)]
    async with reward_service(learned=(("reward", published.path),), batch_tokens=64) as (client, _):
        first, again = [await client.score("reward", items) for _ in range(2)]
        alone = [(await client.score("reward", [item])).scores[0] for item in items]
    assert first.scores == again.scores
    raw, raw_alone = ([score.value.raw for score in scores] for scores in (first.scores, alone))
    assert raw == pytest.approx(raw_alone, abs=1e-5)
    assert len(set(raw)) > 30


async def test_a_reply_names_version_tokenizer_and_template(tmp_path: Path):
    published = publish_reward(tmp_path, number=7)
    async with reward_service(learned=(("reward", published.path),)) as (client, _):
        reply = await client.score("reward", [(USER, "w3")])
        listed = {scorer.name: scorer for scorer in (await client.list_scorers()).scorers}
    assert reply.scorer.version == version_pb(published)
    assert reply.scorer.version.number == 7
    assert reply.scorer.tokenizer_sha256 == tokenizer_sha256(published.path) != ""
    assert reply.scorer.template_sha256 == template_sha256(tiny_tokenizer()) != ""
    assert listed["reward"] == reply.scorer
    assert list(listed) == ["reward", "words"]


@pytest.mark.parametrize("head", [math.nan, math.inf, 1e38])
async def test_a_score_that_is_not_finite_is_an_error(tmp_path: Path, head: float):
    published = publish_reward(tmp_path, head=head, extra={"normalisation": {"gain": 1e300, "bias": 0.0}})
    async with reward_service(learned=(("reward", published.path),)) as (client, _):
        reply = await client.score("reward", [(USER, "w3"), ("", "w3")])
    assert reasons(reply) == ["non_finite", "empty_prompt"]


async def test_messages_without_a_chat_template_are_item_errors(tmp_path: Path):
    published = publish_reward(tmp_path)
    plain = tmp_path / "untemplated"
    published.path.rename(plain)
    (plain / "chat_template.jinja").unlink()
    (plain / "manifest.json").unlink()
    async with reward_service(learned=(("reward", plain),)) as (client, _):
        reply = await client.score("reward", [(USER, "w3"), ("w1", "w3")])
    assert reasons(reply) == ["template_failed", ""]
    assert (reply.scorer.version.number, reply.scorer.template_sha256) == (0, "")


async def test_another_version_than_the_expected_one_is_refused(tmp_path: Path):
    first, second = publish_reward(tmp_path, 1), publish_reward(tmp_path, 2)
    async with reward_service(learned=(("reward", first.path),)) as (client, _):
        reply = await client.score("reward", [(USER, "w3")], expected_version=version_pb(first))
        assert reply.scorer.version == version_pb(first)
        for scorer, served in (("reward", "reward@1"), ("words", "is a rule")):
            with pytest.raises(CallError) as refused:
                await client.score(scorer, [(USER, "w3")], expected_version=version_pb(second))
            assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION
            assert refused.value.reason == "wrong_version"
            assert served in refused.value.message and "reward@2" in refused.value.message


async def test_a_scorer_that_waits_for_a_load_refuses_while_the_rules_serve():
    async with reward_service() as (client, _):
        with pytest.raises(CallError) as refused:
            await client.score("reward", [(USER, "w3")])
        assert (refused.value.code, refused.value.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "not_loaded",
        )
        assert reasons(await client.score("words", [(USER, "w3")])) == [""]
        listed = {scorer.name: scorer for scorer in (await client.list_scorers()).scorers}
        assert await client.health() == "SERVING"
    assert listed["reward"].kind == reward_pb2.SCORER_KIND_LEARNED
    assert not listed["reward"].HasField("version")
