"""Verdicts over the wire, from a real service before a scripted endpoint."""

import hashlib
import math
from pathlib import Path

import grpc
import pytest

from tests.judge.hosting import (
    honest,
    judge_service,
    metric,
    pairs,
    reason_of,
    sampled,
    write_constitution,
)
from tests.judge.scripted_endpoint import Reply, endpoint, logs, says, slots
from trueline import CallError
from trueline.judging import ENSEMBLE, comparison
from trueline.v1 import judge_pb2 as pb

QUESTION = "question 0"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def good_wins(told: str, before: int) -> Reply:
    """Prefers the good answer wherever it stands, with 0.8 against 0.1."""
    good_first = slots(told)[0].startswith("good")
    return says("A" if good_first else "B", logs(A=0.8, B=0.1) if good_first else logs(A=0.1, B=0.8))


def first_slot(told: str, before: int) -> Reply:
    return says("A", logs(A=0.9, B=0.1))


def first_slot_in_words(told: str, before: int) -> Reply:
    return says("(A)")


@pytest.mark.parametrize("script", [first_slot, first_slot_in_words])
async def test_a_judge_that_always_prefers_the_first_slot_yields_no_preference_over_200_pairs(
    tmp_path, script
):
    with endpoint(script) as served:
        async with judge_service(write_constitution(tmp_path), served, max_items=200) as (judge, server):
            reply = await judge.compare(items=pairs(200), principles=sampled(seed=1), deadline=100)
            flips = metric(server, "trueline_judge_order_flips_total")
            firsts = metric(server, "trueline_judge_slot_choices_total", slot="first")
            seconds = metric(server, "trueline_judge_slot_choices_total", slot="second")
    assert [verdict.HasField("probability") for verdict in reply.verdicts] == [False] * 200
    assert {reason_of(verdict) for verdict in reply.verdicts} == {"ORDERS_DISAGREE"}
    assert (flips, firsts, seconds) == (200, 400, 0)
    assert len(served.bodies) == 400


@pytest.mark.parametrize(
    ("name", "label", "words"),
    [
        ("trueline_judge_verdicts_total", "verdict", ("first", "second", "abstained")),
        ("trueline_judge_slot_choices_total", "slot", ("first", "second")),
        ("trueline_judge_constitution_reloads_total", "outcome", ("changed", "unchanged", "refused")),
    ],
)
async def test_what_a_rate_is_taken_of_is_exported_as_0_before_the_first(tmp_path, name, label, words):
    with endpoint(first_slot) as served:
        async with judge_service(write_constitution(tmp_path), served) as (_, server):
            shown = server.host.registry.get_sample_value
            assert [shown(name, {label: word}) for word in words] == [0.0] * len(words)


async def test_a_soft_label_is_the_hand_computed_average_of_both_orders(tmp_path):
    """Known answer E1 over the wire, with log-probs that leave out a third of the mass."""

    def script(told: str, before: int) -> Reply:
        as_given = slots(told)[0].startswith("good")
        return says("A", {"A": -0.4, "B": -1.6} if as_given else {"B": -0.8, "A": -0.9})

    with endpoint(script) as served:
        async with judge_service(write_constitution(tmp_path), served) as (judge, _):
            (verdict,) = (await judge.compare(items=pairs(1), principles=honest())).verdicts
    assert verdict.probability == pytest.approx((0.7685247834990178 + 0.52497918747894) / 2, rel=1e-12)
    as_given, swapped = verdict.readings
    assert (as_given.order, swapped.order) == (pb.ORDER_AS_GIVEN, pb.ORDER_SWAPPED)
    assert as_given.value == pytest.approx(0.7685247834990178, rel=1e-12)
    assert swapped.value == pytest.approx(0.52497918747894, rel=1e-12)
    assert list(as_given.option_logprobs) == pytest.approx([-0.4, -1.6])
    assert as_given.option_mass == pytest.approx(math.exp(-0.4) + math.exp(-1.6))
    assert {as_given.evidence, swapped.evidence} == {pb.EVIDENCE_LOGPROBS}


async def test_a_verdict_holds_what_a_replay_and_an_audit_need(tmp_path):
    with endpoint(good_wins) as served:
        path = write_constitution(tmp_path)
        async with judge_service(path, served) as (judge, server):
            reply = await judge.compare(items=pairs(1), principles=honest())
            in_force = await judge.get_constitution()
            tokens = metric(server, "trueline_judge_tokens_total", kind="prompt")
    (verdict,) = reply.verdicts
    assert (verdict.item_id, list(verdict.principles)) == ("p0", ["honest"])
    assert verdict.prompt_sha256 == sha(QUESTION)
    assert (verdict.first_sha256, verdict.second_sha256) == (sha("good answer 0"), sha("bad answer 0"))
    assert reply.constitution_sha256 == in_force.constitution.sha256 and len(reply.constitution_sha256) == 64
    assert (reply.judge.model, reply.judge.endpoint) == ("oracle", f"{served.url}/chat/completions")
    assert [reading.raw for reading in verdict.readings] == ["A", "B"]
    assert {reading.revision for reading in verdict.readings} == {"oracle-2/fp7"}
    assert verdict.usage == pb.JudgeUsage(calls=2, prompt_tokens=200, completion_tokens=4)
    assert tokens == 200


async def test_messages_are_quoted_turn_by_turn_and_hashed_as_documented(tmp_path):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Grüße?"},
    ]
    with endpoint(good_wins) as served:
        async with judge_service(write_constitution(tmp_path), served) as (judge, _):
            item = comparison(turns, "good {second}", "bad")
            (verdict,) = (await judge.compare(items=[item], principles=honest())).verdicts
    assert verdict.prompt_sha256 == sha('[["system","Be brief."],["user","Grüße?"]]')
    told = [body["messages"][0]["content"] for body in served.bodies]
    assert all("System: Be brief.\n\nHuman: Grüße?" in each for each in told)
    assert sum("(A) good {second}\n\n(B) bad" in each for each in told) == 1  # braces are text like any other
    assert all("Which response is more honest?" in each for each in told)


async def test_the_same_request_gives_the_same_verdicts_whatever_stands_beside_an_item(tmp_path):
    def by_text(told: str, before: int) -> Reply:
        a, b = (int(sha(slot)[:6], 16) / 16**6 for slot in slots(told))
        return says("A" if a > b else "B", logs(A=0.1 + 0.8 * a, B=0.1 + 0.8 * b))

    with endpoint(by_text) as served:
        async with judge_service(write_constitution(tmp_path), served) as (judge, _):
            request = pb.CompareRequest(items=pairs(40), principles=sampled(seed=3))
            first, again = [await judge.compare(request) for _ in range(2)]
            backwards = (await judge.compare(items=pairs(40)[::-1], principles=sampled(seed=3))).verdicts
            stored = first.verdicts[7]
            replayed = await judge.compare(
                items=pairs(8)[7:], principles=sampled(names=list(stored.principles))
            )
    assert first.verdicts == again.verdicts
    assert list(first.verdicts) == list(backwards)[::-1]
    assert replayed.verdicts[0] == stored
    assert {reason_of(verdict) for verdict in first.verdicts} == {""}
    assert {name for verdict in first.verdicts for name in verdict.principles} == {"honest", "kind"}


async def test_principles_are_drawn_by_weight_and_by_the_seed(tmp_path):
    with endpoint(good_wins) as served:
        async with judge_service(write_constitution(tmp_path), served) as (judge, _):
            drawn = [
                [
                    v.principles[0]
                    for v in (await judge.compare(items=pairs(150), principles=sampled(seed=s))).verdicts
                ]
                for s in (1, 2)
            ]
            tagged = (
                await judge.compare(items=pairs(20), principles=sampled(seed=1, tags=["truth"]))
            ).verdicts
    assert drawn[0] != drawn[1]
    share = sum(names.count("kind") for names in drawn) / 300
    assert 0.67 < share < 0.83  # 3 of 4, within three standard deviations
    assert {name for verdict in tagged for name in verdict.principles} == {"honest"}


async def test_an_ensemble_averages_its_principles_by_weight(tmp_path):
    def script(told: str, before: int) -> Reply:
        p = 0.9 if "honest" in told else 0.7
        good_first = slots(told)[0].startswith("good")
        return says("A", logs(A=p, B=1 - p) if good_first else logs(A=1 - p, B=p))

    with endpoint(script) as served:
        async with judge_service(write_constitution(tmp_path), served) as (judge, _):
            everyone = pb.PrincipleSelection(choice=ENSEMBLE)
            (verdict,) = (await judge.compare(items=pairs(1), principles=everyone)).verdicts
    assert verdict.probability == pytest.approx((1 * 0.9 + 3 * 0.7) / 4, rel=1e-12)
    assert list(verdict.principles) == ["honest", "kind"]
    assert len(verdict.readings) == 4


@pytest.mark.parametrize(("mute", "probability"), [("honest", 0.7), ("kinder", None)])
async def test_an_ensemble_without_half_of_its_weight_has_no_verdict(tmp_path, mute, probability):
    def script(told: str, before: int) -> Reply:
        if mute in told and before % 2:
            return says("I would rather not say.")
        good_first = slots(told)[0].startswith("good")
        return says("A", logs(A=0.7, B=0.3) if good_first else logs(B=0.7, A=0.3))

    async with _alone(tmp_path, script) as judge:
        everyone = pb.PrincipleSelection(choice=ENSEMBLE)
        (verdict,) = (await judge.compare(items=pairs(1), principles=everyone)).verdicts
    unread = [reading for reading in verdict.readings if reading.WhichOneof("outcome") == "abstention"]
    assert len(unread) in (1, 2) and {reading.raw for reading in unread} == {"I would rather not say."}
    if probability is None:
        assert reason_of(verdict) == "UNPARSABLE"
    else:
        assert verdict.probability == pytest.approx(probability)


def _alone(tmp_path: Path, script):
    """A judge that asks one thing at a time, so that a script may count."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def running():
        with endpoint(script) as served:
            async with judge_service(write_constitution(tmp_path), served, requests_at_once=1) as (judge, _):
                yield judge

    return running()


@pytest.mark.parametrize(
    ("p", "band", "reason"),
    [(0.55, 0.06, "TIE"), (0.55, 0.04, ""), (0.5, 0.0, "TIE")],
)
async def test_a_probability_within_the_tie_band_is_a_tie(tmp_path, p, band, reason):
    def script(told: str, before: int) -> Reply:
        good_first = slots(told)[0].startswith("good")
        return says(
            "A", {"A": math.log(p if good_first else 1 - p), "B": math.log(1 - p if good_first else p)}
        )

    async with _alone(tmp_path, script) as judge:
        rules = pb.ReadingRules(tie_band=band)
        (verdict,) = (await judge.compare(items=pairs(1), principles=honest(), reading=rules)).verdicts
    assert reason_of(verdict) == reason


async def test_reasoning_comes_first_is_kept_and_clamps_what_follows(tmp_path):
    def script(told: str, before: int) -> Reply:
        if "step by step" in told:
            return says(f"Reason {before}: the good one is true.")
        assert "Reasons:\n\nReason " in told
        return good_wins(told, before)

    with endpoint(script) as served:
        async with judge_service(write_constitution(tmp_path), served) as (judge, _):
            (verdict,) = (
                await judge.compare(
                    items=pairs(1),
                    principles=honest(),
                    reading=pb.ReadingRules(chain_of_thought=True),
                    reasoning=pb.JudgeSampling(max_new_tokens=99, temperature=0.5, seed=11),
                )
            ).verdicts
    assert verdict.probability == pytest.approx(0.6)
    assert [reading.value for reading in verdict.readings] == pytest.approx([0.6, 0.6])
    assert {reading.reasoning for reading in verdict.readings} == {
        f"Reason {n}: the good one is true." for n in (0, 1)
    }
    assert verdict.usage.calls == 4 == len(served.bodies)
    reasoned = [body for body in served.bodies if "logprobs" not in body]
    assert [(body["max_tokens"], body["temperature"], body["seed"]) for body in reasoned] == [
        (99, 0.5, 11)
    ] * 2


async def test_reasoning_that_fails_is_the_abstention_and_no_more_is_asked(tmp_path):
    with endpoint(lambda told, before: says("  ")) as served:
        async with judge_service(write_constitution(tmp_path), served) as (judge, _):
            rules, sampling = pb.ReadingRules(chain_of_thought=True), pb.JudgeSampling(max_new_tokens=9)
            reply = await judge.compare(
                items=pairs(1), principles=honest(), reading=rules, reasoning=sampling
            )
    assert reason_of(reply.verdicts[0]) == "EMPTY_ANSWER"
    assert len(served.bodies) == 2


async def test_what_no_judge_can_compare_is_an_abstention_of_its_item(tmp_path):
    items = [
        comparison("", "good", "bad"),
        comparison([{"role": "user", "content": " "}], "good", "bad"),
        comparison([], "good", "bad"),
        comparison("question", "", " \n"),
        comparison("question", "same", "same"),
        *pairs(1),
    ]
    with endpoint(good_wins) as served:
        async with judge_service(write_constitution(tmp_path), served) as (judge, server):
            reply = await judge.compare(items=items, principles=honest())
            empty = metric(server, "trueline_judge_abstentions_total", method="compare", reason="empty_input")
    assert [reason_of(verdict) for verdict in reply.verdicts] == [
        *["EMPTY_INPUT"] * 3,
        *["IDENTICAL_RESPONSES"] * 2,
        "",
    ]
    assert "the prompt is empty" in reply.verdicts[0].abstention.message
    assert (len(served.bodies), empty) == (2, 3)


async def test_an_empty_response_is_judged_in_both_orders_and_loses(tmp_path):
    items = [comparison("question", "good", ""), comparison("question", " \n", "good")]
    with endpoint(good_wins) as served:
        async with judge_service(write_constitution(tmp_path), served) as (judge, _):
            verdicts = (await judge.compare(items=items, principles=honest())).verdicts
    assert verdicts[0].probability > 0.5 > verdicts[1].probability
    assert len(served.bodies) == 4


async def test_all_faults_of_a_request_are_told_at_once(tmp_path):
    async with _alone(tmp_path, good_wins) as judge:
        with pytest.raises(CallError) as refused:
            await judge.compare(
                items=[pb.ComparisonItem(first="a", second="b")],
                reading=pb.ReadingRules(tie_band=0.2, chain_of_thought=True, min_option_mass=0.5),
                reasoning=pb.JudgeSampling(temperature=-1),
            )
        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert [field for field, _ in refused.value.field_violations] == [
            "items[0].prompt",
            "principles.choice",
            "reading.tie_band",
            "reasoning.temperature",
        ]
        for selection, field in ((sampled(names=["brave"]), "principles.names[0]"),):
            with pytest.raises(CallError) as refused:
                await judge.compare(items=pairs(1), principles=selection)
            assert [field for field, _ in refused.value.field_violations] == [field]
        with pytest.raises(CallError) as refused:
            await judge.compare(items=pairs(1), principles=sampled(tags=["wit"]))
        assert refused.value.reason == "no_principle"
