"""One contract for every engine: transformers for real, vLLM and TGI against servers of their protocols.

A real engine takes the same tests where it is (marker `engine`); it must see this machine's files:

    TRUELINE_ENGINE=vllm TRUELINE_ENDPOINT=http://127.0.0.1:8000 pytest -m engine tests/policy
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.errors import BusyError, NotReadyError, PreconditionError
from services.models import load_causal
from services.policy.engine import Row, Sampling
from services.policy.engines import loader_of
from services.policy.settings import PolicySettings
from services.sequences import score_rows
from services.status import status_of
from services.weights import PublishedVersion, identify
from tests.model_services import (
    asked,
    header,
    location,
    policy_service,
    publish_tiny,
    sampling,
    version_pb,
)
from tests.policy.scripted_engines import SILENCE, Reply, ScriptedEngine, TgiServer, VllmServer, served
from tests.tiny_models import END, REPLY
from trueline import CallError, PolicyClient
from trueline.v1 import policy_pb2
from trueline.v1 import types_pb2 as pb

PROMPTS = [[1, 5, 6, REPLY], [1, 7, REPLY], [1, *range(8, 20), REPLY]]
REAL = pytest.param("real", marks=pytest.mark.engine)
ENGINES = ["transformers", "vllm", "tgi", REAL]
REMOTE = ["vllm", "tgi"]
QUICK = {"endpoint_seconds": 30.0, "endpoint_attempts": 3, "load_seconds": 20.0}


@dataclass
class Contract:
    """A policy service on one engine, and two versions for it."""

    policy: PolicyClient
    versions: list[PublishedVersion]
    engine: ScriptedEngine | None
    kind: str

    async def load(self, index: int, request_id: str = "") -> Any:
        published = self.versions[index]
        where, named = location(published), header(request_id or f"load-{index}")
        return await self.policy.load_weights(header=named, location=where)

    async def draw(self, *prompts: Any, samples: int = 3, **changes: Any) -> list[pb.Rollout]:
        version = changes.pop("expected_version", None)
        reply = await self.policy.generate(
            prompts=asked(*(prompts or PROMPTS), samples=samples),
            sampling=sampling(**changes),
            **({"expected_version": version} if version else {}),
        )
        return list(reply.rollouts)


def logprobs_of(
    version: PublishedVersion, rollouts: list[pb.Rollout], temperature: float
) -> list[list[float]]:
    """What the trainer computes: the truth that an engine's numbers are held against."""
    loaded = load_causal(version.path)
    prompts, responses = ([list(r.prompt_ids) for r in rollouts], [list(r.response_ids) for r in rollouts])
    return score_rows(loaded.model, prompts, responses, temperature, loaded.pad_id)


@asynccontextmanager
async def contract(kind: str, tmp_path: Path, **settings: Any) -> AsyncIterator[Contract]:
    versions = [publish_tiny(tmp_path / "models", n, width=256 if kind == "real" else 32) for n in (1, 2)]
    with ExitStack() as stack:
        given: dict[str, Any] = {}
        engine: ScriptedEngine | None = None
        if kind == "real":
            if not os.environ.get("TRUELINE_ENDPOINT"):
                pytest.skip("needs TRUELINE_ENGINE and TRUELINE_ENDPOINT: no real engine here")
            given = {"engine": os.environ["TRUELINE_ENGINE"], "endpoint": os.environ["TRUELINE_ENDPOINT"]}
        elif kind == "vllm":
            engine = stack.enter_context(served(VllmServer(versions[0].path)))
            given = {"engine": "vllm", "endpoint": engine.url, **QUICK}
        elif kind == "tgi":
            restart = tmp_path / "restart"
            engine = stack.enter_context(served(TgiServer(versions[0].path, restart)))
            given = {"engine": "tgi", "endpoint": engine.url, "restart_file": restart, **QUICK}
        async with policy_service(**given, **settings) as (policy, _):
            under = Contract(policy, versions, engine, kind)
            await under.load(0)
            yield under


async def refusal(call: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        await call
    return caught.value


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


@pytest.mark.parametrize("kind", REMOTE)
async def test_a_busy_or_failing_engine_is_asked_again(tmp_path, kind):
    async with contract(kind, tmp_path) as under:
        under.engine.faults += [
            Reply(429, {"error": "overloaded"}, {"retry-after": "0"}),
            Reply(500, {"error": "request failed"}),
            Reply(503, b"<html>bad gateway</html>"),
        ]
        assert len(await under.draw(samples=2)) == 6


@pytest.mark.parametrize("kind", REMOTE)
@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        (Reply(429, {"error": "overloaded"}, {"retry-after": "60"}), "RESOURCE_EXHAUSTED", "busy"),
        (Reply(500, {"error": "no"}), "UNAVAILABLE", "engine_failed"),
        (Reply(422, {"error": "no"}), "FAILED_PRECONDITION", "engine_refused"),
        (Reply(200, b"<html>"), "FAILED_PRECONDITION", "engine_garbage"),
        (Reply(200, {"choices": [], "details": None}), "FAILED_PRECONDITION", "engine_garbage"),
        (Reply(200, []), "FAILED_PRECONDITION", "engine_garbage"),
        (SILENCE, "UNAVAILABLE", "engine_silent"),
    ],
    ids=lambda each: getattr(each, "status", each),
)
def test_an_engine_that_stays_so_is_an_error_that_says_what(tmp_path, kind, fault, code, reason):
    """Below the wire: above it, UNAVAILABLE is tried again by the client."""
    version = publish_tiny(tmp_path / "models", 1)
    with served({"vllm": VllmServer, "tgi": TgiServer}[kind](version.path)) as engine:
        settings = PolicySettings(
            engine=kind, endpoint=engine.url, **{**QUICK, "endpoint_attempts": 2, "endpoint_seconds": 1.5}
        )
        model = loader_of(settings)(version.path, identify(version.path, version.version))
        rows = [Row(PROMPTS[0], 0)]
        engine.faults += [fault] * 40
        with pytest.raises((BusyError, NotReadyError, PreconditionError)) as caught:
            model.generate(rows, Sampling())
        error = caught.value
        assert status_of(error)[0].name == code and getattr(error, "reason", "busy") == reason, error
        engine.faults.clear()
        assert len(model.generate(rows, Sampling())) == 1, "it answers again"


def change_of(kind: str, what: str) -> Any:
    """Spoils a completion in the words of its protocol."""

    def vllm(told: dict[str, Any]) -> dict[str, Any]:
        choice = told["choices"][0]
        if what == "no log-probs":
            choice["logprobs"] = None
        elif what == "a log-prob missing":
            choice["logprobs"]["token_logprobs"][0] = None
        elif what == "too few log-probs":
            choice["logprobs"]["token_logprobs"].pop()
        elif what == "no ids":
            choice["token_ids"] = None
        elif what == "a foreign id":
            choice["token_ids"][0] = 64
        elif what == "a strange log-prob":
            choice["logprobs"]["token_logprobs"][0] = 3.5
        elif what == "an early end":
            choice["token_ids"] = [9]
            choice["logprobs"]["token_logprobs"] = [-1.0]
        return told

    def tgi(told: dict[str, Any]) -> dict[str, Any]:
        tokens = told["details"]["tokens"]
        if what == "no log-probs":
            for each in tokens:
                each.pop("logprob")
        elif what == "a log-prob missing":
            tokens[0]["logprob"] = None
        elif what == "too few log-probs":
            tokens[-1].pop("logprob")
        elif what == "no ids":
            tokens[0].pop("id")
        elif what == "a foreign id":
            tokens[0]["id"] = 64
        elif what == "a strange log-prob":
            tokens[0]["logprob"] = 3.5
        elif what == "an early end":
            told["details"]["tokens"] = [{"id": 9, "logprob": -1.0}]
        return told

    return {"vllm": vllm, "tgi": tgi}[kind]


@pytest.mark.parametrize("kind", REMOTE)
@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("no log-probs", "logprobs_missing"),
        ("a log-prob missing", "logprobs_missing"),
        ("too few log-probs", "logprobs_missing"),
        ("no ids", "engine_garbage"),
        ("a foreign id", "engine_garbage"),
        ("a strange log-prob", "non_finite"),
        ("an early end", "engine_garbage"),
    ],
)
async def test_a_completion_that_cannot_be_trained_on_is_none(tmp_path, kind, what, reason):
    async with contract(kind, tmp_path) as under:
        under.engine.change = change_of(kind, what)
        error = await refusal(under.draw(PROMPTS[0], samples=1, max_new_tokens=5))
        assert (error.code.name, error.reason) == ("FAILED_PRECONDITION", reason), error


@pytest.mark.parametrize("kind", REMOTE)
async def test_an_engine_that_came_back_with_another_version_is_given_ours_again(tmp_path, kind):
    async with contract(kind, tmp_path) as under:
        await under.load(1)
        if kind == "vllm":
            under.engine.start(under.versions[0].path)  # its process was started again as it was at first
        else:
            under.engine.path = under.versions[0].path
        rollouts = await under.draw(max_new_tokens=6)
        truth = logprobs_of(under.versions[1], rollouts, 1.0)
        for rollout, expected in zip(rollouts, truth, strict=True):
            assert rollout.policy_logprobs == pytest.approx(expected, abs=1e-4)


async def test_a_vllm_that_says_another_version_than_it_was_told_serves_nothing(tmp_path):
    async with contract("vllm", tmp_path) as under:
        under.engine.wrong_label = True
        error = await refusal(under.draw(max_new_tokens=4))
        assert error.reason == "wrong_version"


async def test_a_vllm_swap_pauses_flushes_names_and_resumes_in_that_order(tmp_path):
    async with contract("vllm", tmp_path) as under:
        under.engine.calls.clear()
        await under.load(1)
        control = [each for each in under.engine.calls if each not in ("/weight_info", "/v1/models")]
        assert control == [
            "/pause?mode=wait",
            "/update_weight_version",
            "/collective_rpc",
            "/reset_prefix_cache",
            "/update_weight_version",
            "/resume",
            *["/v1/completions"] * 8,  # the probe of the kind of log-prob
        ]
        sha256 = under.versions[1].version.sha256
        assert under.engine.label.endswith(sha256) and under.engine.running.is_set()


@pytest.mark.parametrize("broken", ["reload", "flush"])
async def test_a_vllm_swap_that_fails_is_resumed_and_leaves_the_version_before(tmp_path, broken):
    async with contract("vllm", tmp_path) as under:
        if broken == "reload":
            under.engine.broken_reload = True
        else:
            under.engine.flush_refused = 1
        error = await refusal(under.load(1))
        assert error.code is grpc.StatusCode.UNAVAILABLE and under.engine.running.is_set()
        if broken == "flush":  # the version before was put back
            rollouts = await under.draw(max_new_tokens=4)
            assert {r.policy_version.number for r in rollouts} == {1}
        under.engine.broken_reload = False
        await under.load(1, "once more")
        assert {r.policy_version.number for r in await under.draw(max_new_tokens=4)} == {2}


async def test_a_vllm_with_raw_log_probs_is_refused_at_the_load(tmp_path):
    versions = [publish_tiny(tmp_path / "models", 1)]
    with served(VllmServer(versions[0].path)) as engine:
        engine.raw = True
        async with policy_service(engine="vllm", endpoint=engine.url, **QUICK) as (policy, _):
            error = await refusal(policy.load_weights(header=header("1"), location=location(versions[0])))
            assert error.reason == "logprob_kind" and "processed_logprobs" in error.message
            assert not (await policy.get_policy()).HasField("version")


async def test_a_tgi_without_a_restart_file_serves_what_it_was_started_with_and_says_so(tmp_path):
    versions = [publish_tiny(tmp_path / "models", number) for number in (1, 2)]
    with served(TgiServer(versions[0].path)) as engine:
        async with policy_service(engine="tgi", endpoint=engine.url, **QUICK) as (policy, _):
            await policy.load_weights(header=header("1"), location=location(versions[0]))
            able = await policy.get_policy()
            assert (able.hot_swap, able.restarts) == (False, False)
            error = await refusal(policy.load_weights(header=header("2"), location=location(versions[1])))
            assert error.reason == "restart_needed" and str(versions[1].path) in error.message
            reply = await policy.generate(prompts=asked(PROMPTS[0]), sampling=sampling())
            assert reply.rollouts[0].policy_version == version_pb(versions[0])


async def test_a_tgi_prompt_that_does_not_survive_as_text_is_refused(tmp_path):
    async with contract("tgi", tmp_path) as under:
        under.engine.model.tokenizer.add_bos_token = True
        tokenizer = under.engine.model.tokenizer
        under.engine.model.tokenizer = lambda text: {"input_ids": [1, *tokenizer(text)["input_ids"]]}
        error = await refusal(under.draw(PROMPTS[0]))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT and error.reason == "retokenised"


async def test_the_endpoints_key_goes_with_every_request(tmp_path):
    key = tmp_path / "key"
    key.write_text("sesame\n")
    async with contract("vllm", tmp_path, endpoint_key_file=key) as under:
        await under.draw(max_new_tokens=2)
        assert under.engine.keys == {"Bearer sesame"}


def test_settings_that_do_not_fit_are_told(tmp_path):
    def faults(**given: Any) -> str:
        return " ".join(PolicySettings(**given).faults())

    assert "need it" in faults(engine="vllm")
    assert "need it" in faults(endpoint="http://127.0.0.1:1")
    assert "runs one" in faults(chunks_at_once=2)
    assert "--restart-file" in faults(engine="vllm", endpoint="http://127.0.0.1:1", restart_file=tmp_path)
    assert faults(engine="tgi", endpoint="http://127.0.0.1:1", chunks_at_once=4) == ""
