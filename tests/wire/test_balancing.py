"""Which replica a call goes to, and how much fits into one message."""

import asyncio
import dataclasses
import time

import grpc
import pytest

from services.server import MIN_PING_INTERVAL_SECONDS
from services.settings import ServerSettings
from tests.wire.scripted_services import ScriptedReward, serve
from trueline import CallError, RewardClient, TrainerClient
from trueline.channel import KEEPALIVE_SECONDS, MESSAGE_LIMIT_BYTES, resolve_target, split_address
from trueline.v1 import types_pb2

PAIR = [("prompt", "response")]


async def until(condition, timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


async def both_connected(reward: RewardClient, *servers) -> None:
    """Calls until every server has answered once, then forgets these calls."""
    deadline = time.monotonic() + 10
    while not all(server.script.calls for server in servers):
        assert time.monotonic() < deadline, "a replica gets no calls"
        await reward.score("", PAIR)
    for server in servers:
        server.script.calls.clear()


async def test_calls_go_in_turn_to_two_replicas():
    async with serve(ScriptedReward) as one, serve(ScriptedReward) as two:
        async with RewardClient([one.address, two.address]) as reward:
            await both_connected(reward, one, two)
            for _ in range(40):
                await reward.score("", PAIR)
    assert (len(one.script.calls), len(two.script.calls)) == (20, 20)


async def test_a_replica_that_stops_serving_gets_no_calls_until_it_serves_again():
    async with serve(ScriptedReward) as one, serve(ScriptedReward) as two:
        async with RewardClient([one.address, two.address]) as reward:
            await both_connected(reward, one, two)
            await one.say(False)
            await asyncio.sleep(0.5)
            for _ in range(20):
                await reward.score("", PAIR)
            assert (len(one.script.calls), len(two.script.calls)) == (0, 20)
            await one.say(True)
            await both_connected(reward, one)


async def test_a_replica_that_dies_costs_no_call():
    async with serve(ScriptedReward) as one, serve(ScriptedReward) as two:
        async with RewardClient([one.address, two.address]) as reward:
            await both_connected(reward, one, two)
            await one.server.stop(0)
            for _ in range(20):
                await reward.score("", PAIR)
            assert len(two.script.calls) == 20


async def test_a_single_unready_replica_is_hidden_from_a_balanced_client_and_reached_by_a_direct_one():
    async with serve(ScriptedReward) as server:
        await server.say(False)
        async with RewardClient(server.address, deadline=1.0) as balanced:
            with pytest.raises(CallError) as caught:
                await balanced.score("", PAIR)
        async with RewardClient.direct(server.address) as direct:
            reply = await direct.score("", PAIR)
    assert caught.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert reply.scores[0].value.raw == len("response")


async def test_weights_are_loaded_by_a_direct_client_only():
    location = types_pb2.ModelLocation(version=types_pb2.ModelVersion(model="reward", number=2))
    async with serve(ScriptedReward) as server:
        await server.say(False)
        async with RewardClient(server.address) as balanced:
            with pytest.raises(ValueError, match=r"use RewardClient.direct\(address\)"):
                await balanced.load_weights(location=location)
        async with RewardClient.direct(server.address) as direct:
            loaded = await direct.load_weights(location=location)
    assert loaded.version.number == 2


async def test_a_client_is_usable_again_after_close():
    async with serve(ScriptedReward) as server:
        reward = RewardClient(server.address)
        await reward.score("", PAIR)
        await reward.close()
        await reward.score("", PAIR)
        await reward.close()
        assert server.script.calls == ["Score", "Score"]


async def test_a_reply_of_five_mebibytes_passes():
    async with serve(ScriptedReward) as server, RewardClient(server.address) as reward:
        server.script.reply_bytes = 5 * 1024 * 1024
        reply = await reward.score("", PAIR)
    assert len(reply.scorer.function) == 5 * 1024 * 1024


async def test_a_reply_over_the_limit_is_resource_exhausted():
    async with serve(ScriptedReward) as server, RewardClient(server.address) as reward:
        server.script.reply_bytes = MESSAGE_LIMIT_BYTES + 1024
        with pytest.raises(CallError) as caught:
            await reward.score("", PAIR)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not caught.value.retryable


async def test_a_request_over_the_limit_is_resource_exhausted():
    async with serve(ScriptedReward) as server, RewardClient(server.address) as reward:
        with pytest.raises(CallError) as caught:
            await reward.score("", [("prompt", "x" * (MESSAGE_LIMIT_BYTES + 1024))])
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_servers_allow_the_clients_keepalive_and_its_messages():
    """Else every quiet connection ends with GOAWAY too_many_pings, which nobody can explain."""
    assert MIN_PING_INTERVAL_SECONDS < KEEPALIVE_SECONDS
    (limit,) = [each for each in dataclasses.fields(ServerSettings) if each.name == "max_message_bytes"]
    assert limit.default == MESSAGE_LIMIT_BYTES


async def test_a_web_proxy_in_the_environment_does_not_swallow_calls(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    async with serve(ScriptedReward) as server, RewardClient(server.address) as reward:
        assert (await reward.score("", PAIR)).scores[0].value.raw == len("response")


@pytest.mark.parametrize(
    ("target", "resolved"),
    [
        ("reward:50053", "reward:50053"),
        (["reward:50053"], "reward:50053"),
        ("dns:///reward.trueline.svc:50053", "dns:///reward.trueline.svc:50053"),
        (["127.0.0.1:1", "10.0.0.7:2"], "ipv4:127.0.0.1:1,10.0.0.7:2"),
        (["localhost:1", "localhost:2"], "ipv4:127.0.0.1:1,127.0.0.1:2"),
        (["[::1]:1", "[::2]:2"], "ipv6:[::1]:1,[::2]:2"),
    ],
)
def test_targets_are_names_lists_and_grpcs_own(target, resolved):
    assert resolve_target(target) == resolved


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("", "must be host:port"),
        ([], "the list of addresses is empty"),
        (["127.0.0.1:1", "127.0.0.1"], "an address is host:port .* got '127.0.0.1'"),
        (["127.0.0.1:1", "127.0.0.1:99999"], "port from 1 to 65535; got '127.0.0.1:99999'"),
        (["127.0.0.1:1", "[::1]:2"], "IPv4 and IPv6 addresses cannot share a channel"),
        (["127.0.0.1:1", "no-such-host.invalid:2"], "cannot resolve 'no-such-host.invalid'"),
    ],
)
def test_a_target_that_cannot_be_one_is_refused(target, complaint):
    with pytest.raises(ValueError, match=complaint):
        resolve_target(target)


def test_an_ipv6_address_loses_its_brackets():
    assert split_address("[::1]:50053") == ("::1", 50053)


def test_the_trainer_has_one_address():
    with pytest.raises(ValueError, match="TrainerService has one address"):
        TrainerClient(["127.0.0.1:1", "127.0.0.1:2"])
