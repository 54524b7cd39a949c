"""One contract for every engine: transformers for real, vLLM and TGI against servers of their protocols.

A real engine takes the same tests where it is (marker `engine`); it must see this machine's files:

    TRUELINE_ENGINE=vllm TRUELINE_ENDPOINT=http://127.0.0.1:8000 pytest -m engine tests/policy
"""

from __future__ import annotations

import asyncio

import grpc
import pytest

from tests.model_services import (
    version_pb,
)
from tests.policy.engine_contract import (
    ENGINES,
    PROMPTS,
    contract,
    logprobs_of,
    refusal,
)
from tests.tiny_models import END, REPLY
from trueline import CallError
from trueline.v1 import policy_pb2
from trueline.v1 import types_pb2 as pb


@pytest.mark.parametrize("kind", ENGINES)
async def test_tokens_and_log_probs_are_those_that_the_trainer_computes(tmp_path, kind):
    async with contract(kind, tmp_path) as under:
        for temperature in (1.0, 0.7):
            rollouts = await under.draw(temperature=temperature, max_new_tokens=12, samples=4)
            assert [list(r.prompt_ids) for r in rollouts[::4]] == PROMPTS
            truth = logprobs_of(under.versions[0], rollouts, temperature)
            for rollout, expected in zip(rollouts, truth, strict=True):
                assert len(rollout.policy_logprobs) == len(rollout.response_ids)
                tolerance = 1e-4 if kind != "real" else 0.05
                assert rollout.policy_logprobs == pytest.approx(expected, abs=tolerance)
        assert len({tuple(r.response_ids) for r in rollouts}) > 4


@pytest.mark.parametrize("kind", ENGINES)
async def test_log_probs_are_of_the_kind_that_is_declared(tmp_path, kind):
    async with contract(kind, tmp_path) as under:
        able = await under.policy.get_policy()
        whole = await under.draw(max_new_tokens=6)
        assert {r.logprob_kind for r in whole} <= set(able.logprob_kinds)
        (only_one, *_) = await under.draw(max_new_tokens=6, top_k=1)
        assert only_one.logprob_kind == pb.LOGPROB_KIND_PROCESSED
        assert list(only_one.policy_logprobs) == pytest.approx([0.0] * len(only_one.response_ids), abs=1e-3)
        filtered = await under.draw(max_new_tokens=6, top_p=0.5, samples=2)
        assert {r.logprob_kind for r in filtered} == {pb.LOGPROB_KIND_PROCESSED}
        plain = logprobs_of(under.versions[0], filtered, 1.0)
        sums = [(sum(r.policy_logprobs), sum(p)) for r, p in zip(filtered, plain, strict=True)]
        assert all(kept > of_all for kept, of_all in sums), "renormalised over what is kept"


@pytest.mark.parametrize("kind", ENGINES)
async def test_a_new_version_answers_with_its_own_weights_and_none_of_the_old_cache(tmp_path, kind):
    async with contract(kind, tmp_path) as under:
        for index in (1, 0, 1):
            await under.load(index, f"load-{index}-again")
            rollouts = await under.draw(max_new_tokens=8, expected_version=version_pb(under.versions[index]))
            assert {r.policy_version.number for r in rollouts} == {index + 1}
            truth = logprobs_of(under.versions[index], rollouts, 1.0)
            for rollout, expected in zip(rollouts, truth, strict=True):
                tolerance = 1e-4 if kind != "real" else 0.05
                assert rollout.policy_logprobs == pytest.approx(expected, abs=tolerance)
        error = await refusal(under.draw(expected_version=version_pb(under.versions[0])))
        assert error.reason == "wrong_version"


@pytest.mark.parametrize("kind", ENGINES)
async def test_a_load_waits_for_the_chunk_and_a_chunk_is_of_one_version(tmp_path, kind):
    async with contract(kind, tmp_path) as under:
        chunks = [asyncio.create_task(under.draw(max_new_tokens=8, samples=3)) for _ in range(3)]
        await asyncio.sleep(0.05)
        load = asyncio.create_task(under.load(1))
        for done in await asyncio.gather(*chunks, return_exceptions=True):
            if isinstance(done, CallError):
                assert done.code is grpc.StatusCode.UNAVAILABLE, done  # its version was replaced: ask again
                continue
            (number,) = {r.policy_version.number for r in done}
            truth = logprobs_of(under.versions[number - 1], done, 1.0)
            for rollout, expected in zip(done, truth, strict=True):
                assert rollout.policy_logprobs == pytest.approx(
                    expected, abs=1e-4 if kind != "real" else 0.05
                )
        await load


@pytest.mark.parametrize("kind", ENGINES)
async def test_completions_end_for_the_reason_that_is_told(tmp_path, kind):
    async with contract(kind, tmp_path) as under:
        seen = set()
        for rollout in await under.draw(*PROMPTS[1:], max_new_tokens=20, samples=16, stop=["w7", "w20 w3"]):
            reason, ids = rollout.finish_reason, list(rollout.response_ids)
            seen.add(reason)
            stopped = any(stop in rollout.response_text for stop in ("w7", "w20 w3"))
            if reason == pb.FINISH_REASON_END_OF_TEXT:
                assert ids[-1] == END and END not in ids[:-1]
            elif reason == pb.FINISH_REASON_STOP_TEXT:
                assert stopped and END not in ids
            else:
                assert reason == pb.FINISH_REASON_LENGTH and len(ids) == 20
                assert not stopped and END not in ids
        assert kind == "real" or seen == {
            pb.FINISH_REASON_END_OF_TEXT,
            pb.FINISH_REASON_STOP_TEXT,
            pb.FINISH_REASON_LENGTH,
        }


@pytest.mark.parametrize("kind", ENGINES)
async def test_a_special_token_stops_where_a_stop_text_names_it(tmp_path, kind):
    async with contract(kind, tmp_path) as under:
        stopped = 0
        for rollout in await under.draw(*PROMPTS[1:], max_new_tokens=20, samples=16, stop=["<reply>", "w7"]):
            ids = list(rollout.response_ids)
            assert REPLY not in ids[:-1] and "<reply>" not in rollout.response_text
            if ids[-1] == REPLY:
                assert rollout.finish_reason == pb.FINISH_REASON_STOP_TEXT
                stopped += 1
        assert stopped or kind == "real"


@pytest.mark.parametrize("kind", ENGINES)
async def test_seed_prompt_and_sample_decide_a_row_whatever_is_beside_it(tmp_path, kind):
    async with contract(kind, tmp_path) as under:
        if not (await under.policy.get_policy()).seeds:
            pytest.skip("the engine says that it takes no seeds")
        together = await under.draw(max_new_tokens=10, samples=3, seed=5)
        alone = await under.draw(PROMPTS[1], max_new_tokens=10, samples=3, seed=5)
        assert [list(r.response_ids) for r in together[3:6]] == [list(r.response_ids) for r in alone]
        other = await under.draw(PROMPTS[1], max_new_tokens=10, samples=3, seed=6)
        assert [list(r.response_ids) for r in other] != [list(r.response_ids) for r in alone]
        assert len({tuple(r.response_ids) for r in alone}) > 1


@pytest.mark.parametrize("kind", ENGINES)
async def test_what_an_engine_lacks_it_says_and_refuses(tmp_path, kind):
    async with contract(kind, tmp_path) as under:
        able = await under.policy.get_policy()
        expected = {
            "transformers": (True, False, policy_pb2.GIVEN_LOGPROBS_ANY_TEMPERATURE, True),
            "vllm": (True, False, policy_pb2.GIVEN_LOGPROBS_TEMPERATURE_ONE, False),
            "tgi": (False, True, policy_pb2.GIVEN_LOGPROBS_NONE, False),
        }
        said = (able.hot_swap, able.restarts, able.given_logprobs, able.deterministic)
        assert said == expected[able.engine] and able.top_k and able.seeds
        too_many = ["w1"] * (able.stop_texts + 1)
        assert (await refusal(under.draw(stop=too_many))).reason == "engine_lacks"
        rollouts = await under.draw(PROMPTS[0], max_new_tokens=6)
        rows = [pb.LogprobRow(prompt_ids=r.prompt_ids, response_ids=r.response_ids) for r in rollouts]
        for temperature, least in ((1.0, 2), (0.5, 3)):
            ask = under.policy.compute_logprobs(rows=rows, temperature=temperature)
            if able.given_logprobs < least:
                assert (await refusal(ask)).reason == "engine_lacks"
                continue
            truth = logprobs_of(under.versions[0], rollouts, temperature)
            for result, numbers in zip((await ask).results, truth, strict=True):
                assert result.logprobs == pytest.approx(numbers, abs=1e-4 if kind != "real" else 0.05)
