"""The `trueline` command as a shell sees it: output, complaints, exit codes."""

import json
import sys
from pathlib import Path

import pytest

from tests.wire.scripted_services import ScriptedReward, serve

PROTOS = str(Path(__file__).resolve().parents[2] / "protos")


@pytest.fixture
def trueline(program):
    async def run(*arguments, stdin=""):
        return await program(sys.executable, "-m", "trueline", *arguments, stdin=stdin, PYTHONPATH=PROTOS)

    return run


def line(prompt, response) -> str:
    return json.dumps({"prompt": prompt, "response": response, "id": "ignored"}) + "\n"


async def test_scores_come_back_a_line_per_item_whatever_the_batch(trueline):
    messages = [{"role": "user", "content": "Hello"}]
    items = line("p", "one") + "\n" + line(messages, "three") + line("p", "seven..")
    async with serve(ScriptedReward) as server:
        ran = await trueline("score", server.address, "--scorer", "length", "--batch", "2", stdin=items)
        assert [len(request.items) for request in server.script.requests] == [2, 1]
    assert ran.code == 0, ran.err
    assert [json.loads(each)["raw"] for each in ran.out.splitlines()] == [3.0, 5.0, 7.0]


async def test_an_item_without_a_score_is_said_and_the_exit_code_tells(trueline):
    async with serve(ScriptedReward) as server:
        ran = await trueline("score", server.address, stdin=line("p", "") + line("p", "ab"))
    assert ran.code == 3
    error, score = map(json.loads, ran.out.splitlines())
    assert error == {"error": {"reason": "empty", "message": "the response is empty"}}
    assert score["raw"] == 2.0


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ("nonsense\n", "trueline: line 2: not JSON"),
        ('{"prompt": "p"}\n', "trueline: line 2: must be an object with response"),
        ("[1]\n", "trueline: line 2: must be an object with prompt and response"),
        (line("p", 7), "trueline: line 2: response: must be text; got 7"),
        (line([{"role": "bot", "content": "x"}], "y"), "trueline: line 2: prompt[0].role: must be one of"),
    ],
)
async def test_a_bad_line_is_named(trueline, bad, complaint):
    async with serve(ScriptedReward) as server:
        ran = await trueline("score", server.address, stdin=line("p", "r") + bad)
    assert ran.code == 2
    assert ran.err.startswith(complaint), ran.err


async def test_scorers_are_listed(trueline):
    async with serve(ScriptedReward) as server:
        ran = await trueline("scorers", server.address)
    rule, learned = map(json.loads, ran.out.splitlines())
    assert rule == {"name": "length", "kind": "rule", "function": "builtins:len"}
    assert learned == {
        "name": "proxy",
        "kind": "learned",
        "version": None,
        "sha256": None,
        "context_length": 128,
    }


async def test_health_says_serving_and_the_exit_code_follows(trueline):
    async with serve(ScriptedReward) as server:
        well = await trueline("health", server.address, "trueline.v1.RewardService")
        await server.say(False)
        ill = await trueline("health", server.address, "trueline.v1.RewardService")
        alive = await trueline("health", server.address)
    assert (well.code, json.loads(well.out)["status"]) == (0, "SERVING")
    assert (ill.code, json.loads(ill.out)["status"]) == (1, "NOT_SERVING")
    assert (alive.code, json.loads(alive.out)["service"]) == (0, "")


async def test_nobody_listening_is_one_sentence(trueline):
    ran = await trueline("health", "127.0.0.1:1")
    assert ran.code == 1
    assert ran.err.startswith("trueline: grpc.health.v1.Health/Check at 127.0.0.1:1: UNAVAILABLE")
    assert "Traceback" not in ran.err


async def test_an_unknown_service_is_not_found(trueline):
    async with serve(ScriptedReward) as server:
        ran = await trueline("health", server.address, "trueline.v1.Typo")
    assert (ran.code, "NOT_FOUND" in ran.err) == (1, True)


@pytest.mark.parametrize(
    "arguments", [(), ("score",), ("score", "x:1", "--batch", "0"), ("health", "x:1", "--deadline", "-1")]
)
async def test_wrong_usage_is_exit_code_two(trueline, arguments):
    ran = await trueline(*arguments)
    assert ran.code == 2
    assert ran.err.startswith("usage: trueline")
