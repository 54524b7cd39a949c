"""Critiques and revisions over the wire."""

import grpc
import pytest

from tests.judge.hosting import (
    honest,
    judge_service,
    metric,
    reason_of,
    responses,
    sampled,
    write_constitution,
)
from tests.judge.scripted_endpoint import Reply, endpoint, says
from trueline import CallError
from trueline.judging import ENSEMBLE, judged, revision
from trueline.v1 import judge_pb2 as pb

SAMPLING = pb.JudgeSampling(max_new_tokens=40)


def writes(told: str, before: int) -> Reply:
    if "Say where the response misleads." in told:
        return says("  It promises a refund.\n")
    if "A critique of it:\n\nIt promises a refund." in told:
        return says("We will look into it.")
    return says("We will see.", finish_reason="length")


async def test_a_response_is_criticised_and_written_anew_by_the_same_principle(tmp_path):
    with endpoint(writes) as served:
        async with judge_service(write_constitution(tmp_path), served) as (judge, server):
            (critique,) = (
                await judge.critique(items=responses(1), principles=honest(), sampling=SAMPLING)
            ).critiques
            item = revision("question 0", "answer 0", critique.text, principle=critique.principle)
            reply = await judge.revise(items=[item], principles=sampled(), sampling=SAMPLING)
            written = metric(server, "trueline_judge_texts_total", method="revise")
    assert (critique.text, critique.principle, critique.item_id) == ("It promises a refund.", "honest", "r0")
    (revised,) = reply.revisions
    assert (revised.text, revised.principle, revised.truncated) == ("We will look into it.", "honest", False)
    assert revised.usage == pb.JudgeUsage(calls=1, prompt_tokens=100, completion_tokens=2)
    assert revised.revision == "oracle-2/fp7"
    assert len(revised.response_sha256) == len(reply.constitution_sha256) == 64
    assert "Write it anew without misleading." in served.bodies[1]["messages"][0]["content"]
    assert served.bodies[1]["max_tokens"] == 40 and "seed" not in served.bodies[1]
    assert written == 1


async def test_a_revision_without_critique_says_when_it_was_cut_off(tmp_path):
    with endpoint(writes) as served:
        async with judge_service(write_constitution(tmp_path), served) as (judge, _):
            items = [revision("question", "answer", item_id="a")]
            (revised,) = (await judge.revise(items=items, principles=honest(), sampling=SAMPLING)).revisions
    assert (revised.text, revised.truncated) == ("We will see.", True)
    assert "A critique of it" not in served.bodies[0]["messages"][0]["content"]


async def test_an_empty_critique_or_response_is_an_abstention_and_nothing_is_asked(tmp_path):
    with endpoint(lambda told, before: says(" \n")) as served:
        async with judge_service(write_constitution(tmp_path), served) as (judge, _):
            items = [judged("question", ""), judged("question", "answer")]
            critiques = (await judge.critique(items=items, principles=honest(), sampling=SAMPLING)).critiques
            blank = [revision("question", "answer", " ")]
            revisions = (await judge.revise(items=blank, principles=honest(), sampling=SAMPLING)).revisions
    assert [reason_of(each) for each in critiques] == ["EMPTY_INPUT", "EMPTY_ANSWER"]
    assert [reason_of(each) for each in revisions] == ["EMPTY_INPUT"]
    assert len(served.bodies) == 1


async def test_a_text_needs_one_principle_and_a_limit(tmp_path):
    with endpoint(writes) as served:
        async with judge_service(write_constitution(tmp_path), served) as (judge, _):
            with pytest.raises(CallError) as refused:
                await judge.critique(items=responses(1), principles=pb.PrincipleSelection(choice=ENSEMBLE))
            assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
            fields = [field for field, _ in refused.value.field_violations]
            assert fields == ["principles.choice", "sampling.max_new_tokens"]
            with pytest.raises(CallError) as refused:
                items = [revision("q", "a", "c", principle="brave")]
                await judge.revise(items=items, principles=sampled(), sampling=SAMPLING)
            assert "must be one of honest, kind" in refused.value.message
