"""What goes wrong with an engine behind an HTTP API is told for what it is, and nothing half is kept."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from services.errors import BusyError, NotReadyError, PreconditionError
from services.policy.engine import Row, Sampling
from services.policy.engines import loader_of
from services.policy.settings import PolicySettings, http_url
from services.status import status_of
from services.weights import identify
from tests.model_services import (
    asked,
    header,
    location,
    policy_service,
    publish_tiny,
    sampling,
    version_pb,
)
from tests.policy.engine_contract import (
    PROMPTS,
    QUICK,
    REMOTE,
    contract,
    logprobs_of,
    refusal,
)
from tests.policy.scripted_engines import SILENCE, Reply, TgiServer, VllmServer, served


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
        looks = ("/weight_info", "/is_paused", "/v1/models")
        control = [each for each in under.engine.calls if each not in looks]
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


async def test_a_vllm_that_a_dead_service_left_paused_is_resumed_by_the_next(tmp_path):
    version = publish_tiny(tmp_path / "models", 1)
    with served(VllmServer(version.path)) as engine:
        settings = {"engine": "vllm", "endpoint": engine.url, **QUICK, "endpoint_seconds": 5.0}
        for request_id in ("1", "2"):
            async with policy_service(**settings) as (policy, _):
                await policy.load_weights(header=header(request_id), location=location(version))
                reply = await policy.generate(prompts=asked(PROMPTS[0]), sampling=sampling())
                assert reply.rollouts[0].policy_version == version_pb(version)
            engine.running.clear()  # as if it had died between the new version's name and /resume


@pytest.mark.parametrize("broken", ["pause", "reload", "flush"])
async def test_a_vllm_swap_that_fails_is_resumed_and_leaves_the_version_before(tmp_path, broken):
    async with contract("vllm", tmp_path) as under:
        if broken == "pause":
            under.engine.pause_lost = True
        elif broken == "reload":
            under.engine.broken_reload = True
        else:
            under.engine.flush_refused = 1
        error = await refusal(under.load(1))
        assert error.code is grpc.StatusCode.UNAVAILABLE and under.engine.running.is_set()
        under.engine.broken_reload = under.engine.pause_lost = False
        # The version before was put back: at once, or, where that failed too, before the next chunk.
        rollouts = await under.draw(max_new_tokens=4)
        assert {r.policy_version.number for r in rollouts} == {1}
        await under.load(1, "once more")
        assert {r.policy_version.number for r in await under.draw(max_new_tokens=4)} == {2}


async def test_a_vllm_load_may_take_longer_than_a_completion(tmp_path):
    async with contract("vllm", tmp_path, endpoint_seconds=5.0) as under:
        under.engine.reload_seconds = 6.0  # of the 20 that a load may take
        await under.load(1)
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


def test_an_endpoint_is_a_host_and_a_port_without_the_paths_that_are_called_there():
    assert http_url("http://127.0.0.1:8000/") == "http://127.0.0.1:8000"
    for text in ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000?a=b", "127.0.0.1:8000", "http://:8000"):
        with pytest.raises(ValueError, match="must be like"):
            http_url(text)
