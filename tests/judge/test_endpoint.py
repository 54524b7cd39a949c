"""An endpoint that limits, fails, refuses, talks nonsense or says nothing: abstentions, never numbers."""

import asyncio
import math
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from services.backoff import retry_after_seconds
from services.judge.pace import Pace
from tests.judge.hosting import (
    honest,
    judge_service,
    metric,
    pairs,
    reason_of,
    responses,
    write_constitution,
)
from tests.judge.scripted_endpoint import Reply, endpoint, logs, says, slots
from trueline.v1 import judge_pb2 as pb

ERROR = {"error": {"message": "no", "type": "scripted"}}


def good_wins(told: str, before: int) -> Reply:
    good_first = slots(told)[0].startswith("good")
    return says("A", logs(A=0.8, B=0.1) if good_first else logs(A=0.1, B=0.8))


async def compared(tmp_path, script, **settings):
    """(the verdict on one pair, the endpoint) from a judge that asks one thing at a time."""
    with endpoint(script) as served:
        given = {"requests_at_once": 1, **settings}
        async with judge_service(write_constitution(tmp_path), served, **given) as (judge, server):
            reply = await judge.compare(items=pairs(1), principles=honest())
            calls = metric(server, "trueline_judge_calls_total")
    assert calls == reply.verdicts[0].usage.calls == len(served.bodies)
    return reply.verdicts[0], served


@pytest.mark.parametrize(
    "failure",
    [
        Reply(ERROR, 500),
        Reply(ERROR, 503),
        Reply(b"<html>gateway</html>"),
        Reply(b"[1, 2]"),
        Reply(b"\xff\xfe"),
        Reply(b"", 502),
        Reply(ERROR, 429, {"retry-after": "0"}),
    ],
)
async def test_a_passing_failure_is_tried_again_and_costs_what_it_costs(tmp_path, failure):
    verdict, served = await compared(
        tmp_path, lambda told, before: failure if before == 0 else good_wins(told, before)
    )
    assert verdict.probability == pytest.approx(0.8 / 0.9)
    assert (len(served.bodies), verdict.usage.uncounted_calls) == (3, 1)
    assert verdict.usage.prompt_tokens == 200


@pytest.mark.parametrize(
    ("failure", "reason", "calls"),
    [
        (Reply(ERROR, 500), "ENDPOINT_FAILED", 6),
        (Reply(b"garbage"), "ENDPOINT_FAILED", 6),
        (Reply(ERROR, 429), "RATE_LIMITED", 6),
        (Reply(ERROR, 400), "ENDPOINT_REFUSED", 2),
        (Reply(ERROR, 401), "ENDPOINT_REFUSED", 2),
        (Reply(ERROR, 404), "ENDPOINT_REFUSED", 2),
        (Reply(ERROR, 302, {"location": "http://127.0.0.1:1/"}), "ENDPOINT_REFUSED", 2),
        (Reply({"choices": []}), "ENDPOINT_FAILED", 2),
        (Reply({"choices": [{"message": "hi"}]}), "ENDPOINT_FAILED", 2),
        (Reply({"choices": [{"message": {"content": ["A"]}}]}), "ENDPOINT_FAILED", 2),
        (Reply(b'{"model": "\\udfff", "choices": [{"message": {"content": "\\ud800"}}]}'), "UNPARSABLE", 2),
        (says("Hm", usage={"prompt_tokens": 10**30, "completion_tokens": True}), "UNPARSABLE", 2),
        (says(""), "EMPTY_ANSWER", 2),
        (says(None), "EMPTY_ANSWER", 2),
        (says("Both are fine."), "UNPARSABLE", 2),
        (says("A", finish_reason="content_filter"), "FILTERED", 2),
    ],
)
async def test_a_lasting_failure_is_an_abstention_of_its_kind(tmp_path, failure, reason, calls):
    verdict, served = await compared(tmp_path, lambda told, before: failure)
    assert reason_of(verdict) == reason
    assert not verdict.HasField("probability")
    assert [reading.WhichOneof("outcome") for reading in verdict.readings] == ["abstention"] * 2
    assert len(served.bodies) == calls
    assert verdict.abstention.message


async def test_an_endpoint_that_never_answers_is_given_up(tmp_path):
    settings = {"attempt_seconds": 1.0, "attempts": 2}
    with endpoint(lambda told, before: Reply(silence=True)) as served:
        async with judge_service(write_constitution(tmp_path), served, **settings) as (judge, _):
            (verdict,) = (await judge.compare(items=pairs(1), principles=honest())).verdicts
    assert reason_of(verdict) == "TIMED_OUT"
    assert "within 1 s" in verdict.abstention.message
    assert (verdict.usage.calls, verdict.usage.uncounted_calls) == (4, 4)


async def test_an_endpoint_that_nobody_listens_at_is_a_failure(tmp_path):
    with endpoint(good_wins) as served:
        pass
    async with judge_service(write_constitution(tmp_path), served) as (judge, _):
        (verdict,) = (await judge.compare(items=pairs(1), principles=honest())).verdicts
        assert await judge.health() == "SERVING"
    assert reason_of(verdict) == "ENDPOINT_FAILED"
    assert "ConnectError" in verdict.abstention.message


async def test_the_callers_deadline_makes_abstentions_and_keeps_the_answers_that_came(tmp_path):
    def script(told: str, before: int) -> Reply:
        return Reply(silence=True) if "question 1\n" in told else good_wins(told, before)

    with endpoint(script) as served:
        async with judge_service(write_constitution(tmp_path), served) as (judge, _):
            reply = await judge.compare(items=pairs(2), principles=honest(), deadline=8)
    assert [reason_of(verdict) for verdict in reply.verdicts] == ["", "TIMED_OUT"]


async def test_retry_after_is_kept_to_by_every_request(tmp_path):
    came: list[float] = []

    def script(told: str, before: int) -> Reply:
        came.append(time.monotonic())
        return Reply(ERROR, 429, {"retry-after": "2"}) if before == 0 else good_wins(told, before)

    verdict, _ = await compared(tmp_path, script)
    assert verdict.HasField("probability")
    assert min(came[1:]) - came[0] >= 1.9


async def test_a_retry_after_beyond_the_time_there_is_ends_it_at_once(tmp_path):
    limited = Reply(ERROR, 429, {"retry-after": "3600"})
    with endpoint(lambda told, before: limited) as served:
        async with judge_service(write_constitution(tmp_path), served, requests_at_once=1) as (judge, _):
            (verdict,) = (await judge.compare(items=pairs(1), principles=honest(), deadline=60)).verdicts
    assert [reason_of(reading) for reading in verdict.readings] == ["RATE_LIMITED", "TIMED_OUT"]
    assert reason_of(verdict) == "RATE_LIMITED"
    assert len(served.bodies) == 1


async def test_what_waits_its_turn_behind_others_does_not_lose_its_own_patience(tmp_path):
    """Thirty requests one by one, six seconds in all: each has its own four, the last one like the first."""

    def script(told: str, before: int) -> Reply:
        time.sleep(0.2)
        return good_wins(told, before)

    with endpoint(script) as served:
        settings = {"requests_at_once": 1, "question_seconds": 4.0}
        async with judge_service(write_constitution(tmp_path), served, **settings) as (judge, _):
            reply = await judge.compare(items=pairs(15), principles=honest())
    assert [reason_of(verdict) for verdict in reply.verdicts] == [""] * 15


def test_retry_after_is_seconds_or_a_date_and_nonsense_is_none():
    now = datetime(2026, 11, 24, 12, 0, 0, tzinfo=timezone.utc)
    in_a_minute = format_datetime(now + timedelta(seconds=60), usegmt=True)
    given = ["7", in_a_minute, format_datetime(now - timedelta(days=1), usegmt=True), "soon", "", None, "-3"]
    assert [retry_after_seconds(each, now) for each in given] == [7.0, 60.0, 0.0, None, None, None, None]


async def test_requests_a_minute_are_spaced():
    pace, loop = Pace(8, per_minute=600), asyncio.get_running_loop()
    began: list[float] = []

    async def one() -> None:
        async with pace.turn(loop.time() + 60):
            began.append(loop.time())

    await asyncio.gather(*(one() for _ in range(5)))
    assert began[-1] - began[0] >= 0.39


async def test_a_turn_that_comes_too_late_is_refused():
    pace, loop = Pace(1, per_minute=1), asyncio.get_running_loop()
    async with pace.turn(loop.time() + 60):
        pass
    with pytest.raises(asyncio.TimeoutError):
        async with pace.turn(loop.time() + 1):
            pass


async def test_turns_that_nobody_took_keep_nobody_waiting():
    pace, loop = Pace(4, per_minute=1200), asyncio.get_running_loop()  # 50 ms apart

    async def asked(until: float) -> bool:
        try:
            async with pace.turn(until):
                return True
        except asyncio.TimeoutError:
            return False

    soon = loop.time() + 0.12
    assert 1 <= sum(await asyncio.gather(*(asked(soon) for _ in range(100)))) <= 4
    began = loop.time()
    assert await asked(began + 1.0), "a hundred turns of 50 ms would be five seconds"


async def test_no_more_requests_run_at_once_than_allowed(tmp_path):
    running, most = 0, 0

    def script(told: str, before: int) -> Reply:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.02)
        running -= 1
        return good_wins(told, before)

    with endpoint(script) as served:
        async with judge_service(write_constitution(tmp_path), served, requests_at_once=2) as (judge, _):
            await judge.compare(items=pairs(10), principles=honest())
    assert 1 <= most <= 2


async def test_the_key_is_sent_and_never_told(tmp_path, caplog):
    key_file = tmp_path / "key"
    key_file.write_text("sk-very-secret\n", encoding="utf-8")
    echo = Reply({"error": "Incorrect API key provided: sk-very-secret"}, 401)
    verdict, served = await compared(tmp_path, lambda told, before: echo, api_key_file=key_file)
    assert set(served.keys) == {"Bearer sk-very-secret"}
    assert "***" in verdict.abstention.message
    assert "sk-very-secret" not in str(verdict) + caplog.text


async def test_missing_logprobs_leave_the_text_and_the_reading_says_so(tmp_path):
    def script(told: str, before: int) -> Reply:
        return says("(A)" if slots(told)[0].startswith("good") else "The answer is B.", usage=None)

    verdict, served = await compared(tmp_path, script)
    assert verdict.probability == 1.0
    assert {reading.evidence for reading in verdict.readings} == {pb.EVIDENCE_TEXT}
    assert [list(reading.option_logprobs) for reading in verdict.readings] == [[], []]
    assert verdict.usage == pb.JudgeUsage(calls=2, uncounted_calls=2)
    assert all(body["logprobs"] and body["top_logprobs"] == 20 for body in served.bodies)


async def test_where_log_probs_are_required_their_lack_is_an_abstention(tmp_path):
    verdict, _ = await compared(tmp_path, lambda told, before: says("A"), logprobs="require")
    assert reason_of(verdict) == "NO_LOGPROBS"


async def test_log_probs_may_be_left_out_of_the_question(tmp_path):
    def script(told: str, before: int) -> Reply:
        return says("A" if slots(told)[0].startswith("good") else "B")

    settings = {"logprobs": "off", "token_limit_field": "max_completion_tokens"}
    verdict, served = await compared(tmp_path, script, **settings)
    assert verdict.probability == 1.0
    assert all("logprobs" not in body and "max_tokens" not in body for body in served.bodies)
    assert {body["max_completion_tokens"] for body in served.bodies} == {8}


async def test_options_with_little_probability_are_unparsable_and_the_answer_is_told(tmp_path):
    def script(told: str, before: int) -> Reply:
        return says("Hm", logs(Hm=0.7, A=0.2, B=0.05))

    with endpoint(script) as served:
        async with judge_service(write_constitution(tmp_path), served) as (judge, _):
            for least, reason in ((0.3, "UNPARSABLE"), (0.2, "ORDERS_DISAGREE")):
                rules = pb.ReadingRules(min_option_mass=least)
                (verdict,) = (
                    await judge.compare(items=pairs(1), principles=honest(), reading=rules)
                ).verdicts
                assert reason_of(verdict) == reason
                assert verdict.readings[0].option_mass == pytest.approx(0.25)


async def test_unparsable_scores_are_abstentions_and_never_zero(tmp_path):
    """One answer in five says nothing: as many abstentions, and no number below the lowest level."""

    def script(told: str, before: int) -> Reply:
        number = int(told.split("question ")[1].split()[0])
        return says("I cannot say.") if number % 5 == 0 else says(str(1 + number % 10))

    with endpoint(script) as served:
        async with judge_service(write_constitution(tmp_path), served) as (judge, server):
            reply = await judge.score(items=responses(200), principles=honest(), deadline=100)
            counted = metric(server, "trueline_judge_abstentions_total", method="score", reason="unparsable")
            scored = metric(server, "trueline_judge_scores_total")
    told = [score.score for score in reply.scores if score.HasField("score")]
    without = [score for score in reply.scores if not score.HasField("score")]
    assert {reason_of(score) for score in without} == {"UNPARSABLE"}
    assert 0.17 <= len(without) / len(reply.scores) <= 0.23
    assert min(told) >= 1 and max(told) <= 10 and 0 not in told
    assert (counted, scored) == (len(without), len(told)) == (40, 160)
    assert reply.scores[3].score == 4.0


async def test_a_score_is_the_expectation_over_the_levels(tmp_path):
    levels = {str(n): p for n, p in enumerate([0.01, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.2, 0.03], 1)}
    with endpoint(lambda told, before: says("8", logs(**levels))) as served:
        async with judge_service(write_constitution(tmp_path), served) as (judge, _):
            reply = await judge.score(items=responses(1), principles=honest())
    assert reply.scores[0].score == pytest.approx(7.326315789473684, rel=1e-12)
    assert reply.scores[0].readings[0].option_mass == pytest.approx(0.95)
    assert math.isclose(reply.scores[0].readings[0].value, reply.scores[0].score)
    assert "Is the response honest?" in served.bodies[0]["messages"][0]["content"]
