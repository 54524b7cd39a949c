"""A tiny real language model as the judge, against numbers computed from its logits by hand."""

import math
from pathlib import Path

import grpc
import pytest
import torch

from services.models import load_causal
from services.templates import render_prompt
from tests.judge.hosting import (
    TINY_CONSTITUTION,
    header,
    judge_service,
    metric,
    publish_judge,
    reason_of,
    sampled,
    write_constitution,
)
from trueline import CallError
from trueline.judging import comparison, judged, revision
from trueline.v1 import judge_pb2 as pb
from trueline.v1 import types_pb2

ANYWAY = pb.ReadingRules(disagreement_tolerance=1.0)  # a random model likes slots
GREEDY = pb.JudgeSampling(max_new_tokens=8)
USER = [{"role": "user", "content": "w7 w8"}]


class ByHand:
    """The model's own probabilities, one unpadded row at a time."""

    def __init__(self, path: Path) -> None:
        self.loaded = load_causal(path)

    @torch.inference_mode()
    def after(self, told: str, *spoken: str) -> dict[str, float]:
        """P(next word) behind a question and what was answered so far."""
        tokenizer = self.loaded.tokenizer
        ids = render_prompt(tokenizer, [{"role": "user", "content": told}])
        ids += tokenizer(list(spoken), add_special_tokens=False).input_ids[0] if spoken else []
        logits_V = self.loaded.model(torch.tensor([ids])).logits[0, -1].double()
        words = tokenizer.convert_ids_to_tokens(range(len(logits_V)))
        return dict(zip(words, logits_V.softmax(-1).tolist(), strict=True))

    def first_share(self, told: str) -> float:
        p = self.after(told)
        return p["w1"] / (p["w1"] + p["w2"])


def version(published) -> types_pb2.ModelVersion:
    return types_pb2.ModelVersion(**vars(published.version))


@pytest.fixture
def published(tmp_path):
    return publish_judge(tmp_path)


@pytest.fixture
def constitution(tmp_path):
    return write_constitution(tmp_path, TINY_CONSTITUTION)


async def test_a_soft_label_is_the_models_own_over_both_orders_averaged(published, constitution):
    items = [
        comparison(USER, "w10 w11", "w12", item_id="messages"),
        comparison("w9", "w13 w14 w15 w16", "w17", item_id="text"),
    ]
    async with judge_service(constitution, model=published.path) as (judge, server):
        reply = await judge.compare(items=items, principles=sampled(), reading=ANYWAY)
        read = metric(server, "trueline_judge_tokens_total", kind="prompt")
    hand = ByHand(published.path)
    as_given = hand.first_share("w40 w7 w8 w3 w41 w10 w11 w42 w12 w43")
    swapped = 1 - hand.first_share("w40 w7 w8 w3 w41 w12 w42 w10 w11 w43")
    messages, text = reply.verdicts
    assert [reading.value for reading in messages.readings] == pytest.approx([as_given, swapped], abs=1e-5)
    assert messages.probability == pytest.approx((as_given + swapped) / 2, abs=1e-5)
    as_given = hand.first_share("w40 w9 w3 w41 w13 w14 w15 w16 w42 w17 w43")
    swapped = 1 - hand.first_share("w40 w9 w3 w41 w17 w42 w13 w14 w15 w16 w43")
    assert text.probability == pytest.approx((as_given + swapped) / 2, abs=1e-5)
    assert {reading.evidence for reading in messages.readings} == {pb.EVIDENCE_LOGPROBS}
    assert reply.judge.model == "judge" and reply.judge.version == version(published)
    assert len(reply.judge.tokenizer_sha256) == len(reply.judge.template_sha256) == 64
    assert messages.usage == pb.JudgeUsage(calls=2, prompt_tokens=2 * (10 + 2))
    assert read == messages.usage.prompt_tokens + text.usage.prompt_tokens


async def test_a_score_is_the_expectation_and_a_level_of_two_words_is_told_from_one(published, constitution):
    async with judge_service(constitution, model=published.path) as (judge, _):
        reply = await judge.score(items=[judged("w7", "w10")], principles=sampled())
    hand = ByHand(published.path)
    told = "w46 w7 w3 w10 w47"
    p = hand.after(told)
    ten = p["w20"] * hand.after(told, "w20")["w29"]
    masses = [p["w20"] - ten, *(p[f"w{n}"] for n in range(21, 29)), ten]
    expected = sum(level * mass for level, mass in enumerate(masses, 1)) / sum(masses)
    (score,) = reply.scores
    assert score.score == pytest.approx(expected, abs=1e-5)
    assert score.readings[0].option_mass == pytest.approx(sum(masses), abs=1e-5)
    assert list(score.readings[0].option_logprobs) == pytest.approx([math.log(m) for m in masses], abs=1e-4)


async def test_verdicts_repeat_to_the_bit_alone_and_in_company(published, constitution):
    items = [
        comparison(f"w{n}", " ".join(["w10"] * (1 + n % 5)), f"w{n + 20}", item_id=str(n)) for n in range(12)
    ]
    async with judge_service(constitution, model=published.path, batch_rows=1) as (judge, _):
        first, again = [
            await judge.compare(items=items, principles=sampled(), reading=ANYWAY) for _ in range(2)
        ]
        alone = await judge.compare(items=items[5:6], principles=sampled(), reading=ANYWAY)
    async with judge_service(constitution, model=published.path) as (judge, _):
        batched = await judge.compare(items=items, principles=sampled(), reading=ANYWAY)
    assert first.verdicts == again.verdicts
    assert alone.verdicts[0] == first.verdicts[5]
    numbers = [[verdict.probability for verdict in reply.verdicts] for reply in (first, batched)]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)
    assert len({round(number, 6) for number in numbers[0]}) == 12


async def test_texts_are_greedy_or_drawn_from_the_seed(published, constitution):
    items = [judged(USER, f"w{n}") for n in range(10, 14)]
    drawn = pb.JudgeSampling(max_new_tokens=8, temperature=2.0, seed=5)
    other = pb.JudgeSampling(max_new_tokens=8, temperature=2.0, seed=6)
    async with judge_service(constitution, model=published.path) as (judge, _):

        async def texts(sampling: pb.JudgeSampling, among=items) -> list[str]:
            reply = await judge.critique(items=among, principles=sampled(), sampling=sampling)
            return [critique.text for critique in reply.critiques]

        greedy, seeded = await texts(GREEDY), await texts(drawn)
        assert seeded == await texts(drawn) == [(await texts(drawn, [item]))[0] for item in items]
        assert seeded != await texts(other) and seeded != greedy
        revised = (
            await judge.revise(
                items=[revision(USER, "w10", greedy[0])], principles=sampled(), sampling=GREEDY
            )
        ).revisions[0]
    hand, spoken = ByHand(published.path), []
    for _ in range(8):
        p = hand.after("w48 w7 w8 w4 w10", *([" ".join(spoken)] if spoken else []))
        spoken.append(max(p, key=lambda word: p[word]))
        if spoken[-1] == "</s>":
            break
    words = [word for word in spoken if word.startswith("w")]
    assert greedy[0] == " ".join(words)
    assert revised.text and revised.principle == "short"


async def test_what_does_not_fit_or_cannot_be_told_apart_is_never_a_number(tmp_path, constitution):
    small = publish_judge(tmp_path / "small", context=24)
    items = [comparison("w7", " ".join(["w10"] * 30), "w11"), comparison("w7", "w10", "w11")]
    async with judge_service(constitution, model=small.path) as (judge, _):
        reply = await judge.compare(items=items, principles=sampled(), reading=ANYWAY)
        assert [reason_of(verdict) for verdict in reply.verdicts] == ["TOO_LONG", ""]
        long = pb.JudgeSampling(max_new_tokens=30)
        critiques = await judge.critique(items=[judged("w7", "w8")], principles=sampled(), sampling=long)
        assert reason_of(critiques.critiques[0]) == "TOO_LONG"
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text(TINY_CONSTITUTION.replace("[w1, w2]", "[hello, goodbye]"), encoding="utf-8")
    async with judge_service(unknown, model=small.path) as (judge, _):
        with pytest.raises(CallError) as refused:
            await judge.compare(items=items[1:], principles=sampled(), reading=ANYWAY)
    assert refused.value.reason == "options_alike"


async def test_weights_that_are_no_numbers_are_an_abstention(tmp_path, constitution):
    from safetensors.torch import load_file, save_file

    from tests.tiny_models import write_tiny_model

    path = write_tiny_model(tmp_path / "broken", context=128)
    weights = {name: tensor.fill_(math.nan) for name, tensor in load_file(path / "model.safetensors").items()}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    async with judge_service(constitution, model=path) as (judge, _):
        items = [comparison("w7", "w10", "w11")]
        reply = await judge.compare(items=items, principles=sampled(), reading=ANYWAY)
    assert reason_of(reply.verdicts[0]) == "NON_FINITE"


async def test_a_judge_waits_for_weights_and_swaps_them(tmp_path, constitution):
    first, second = publish_judge(tmp_path, 1), publish_judge(tmp_path, 2)
    items = [comparison("w7", "w10", "w11")]
    async with judge_service(constitution) as (judge, _):
        assert await judge.health() == "NOT_SERVING"
        with pytest.raises(CallError) as refused:
            await judge.compare(items=items, principles=sampled(), reading=ANYWAY, deadline=2)
        assert refused.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        told = []
        for number, published in enumerate((first, second)):
            location = types_pb2.ModelLocation(version=version(published), uri=str(published.path))
            loaded = await judge.load_weights(header=header(f"load {number}"), location=location)
            assert loaded.version == version(published)
            assert await judge.health() == "SERVING"
            told.append(await judge.compare(items=items, principles=sampled(), reading=ANYWAY))
        assert told[0].judge.version == version(first) and told[1].judge.version == version(second)
        assert told[0].verdicts[0].probability != told[1].verdicts[0].probability
        with pytest.raises(CallError) as refused:
            await judge.compare(items=items, principles=sampled(), expected_version=version(first))
        assert refused.value.reason == "wrong_version"
