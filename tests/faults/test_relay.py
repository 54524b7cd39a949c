"""The relay: forwards, vanishes without a word, and garbles; over real gRPC."""

import asyncio
import time
from pathlib import Path

import grpc
import pytest

from tests.faults.relay import Relay
from tests.model_services import asked, policy_service, sampling
from tests.tiny_models import write_tiny_model
from trueline import CallError, PolicyClient

DEADLINE = 2.0


async def test_a_frozen_connection_answers_nothing_and_a_new_one_does(tmp_path: Path) -> None:
    async with policy_service(model=write_tiny_model(tmp_path / "model")) as (_, server):
        relay = Relay()
        through = await asyncio.to_thread(relay.through, server.address)
        async with PolicyClient.direct(through) as policy:
            assert (await policy.get_policy()).version.number == 0
            assert relay.freeze(server.address) == 1
            began = time.monotonic()
            with pytest.raises(CallError) as caught:
                await policy.get_policy(deadline=DEADLINE)
            assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert time.monotonic() - began >= DEADLINE - 0.1
            assert relay.freeze(server.address) == 0, "it is frozen already, and the socket still open"
            await server.drain(1.0)
            with pytest.raises(CallError) as caught:
                await policy.get_policy(deadline=DEADLINE)
            assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED, "no FIN came through"


async def test_a_new_connection_passes_where_an_old_one_is_frozen(tmp_path: Path) -> None:
    async with policy_service(model=write_tiny_model(tmp_path / "model")) as (_, server):
        relay = Relay()
        through = await asyncio.to_thread(relay.through, server.address)
        async with PolicyClient.direct(through) as first:
            await first.get_policy()
            relay.freeze(server.address)
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(through, options=options) as channel:
            await asyncio.wait_for(channel.channel_ready(), 20)


async def test_garbled_bytes_end_the_call_with_an_error_and_the_next_is_answered(tmp_path: Path) -> None:
    async with policy_service(model=write_tiny_model(tmp_path / "model")) as (_, server):
        relay = Relay()
        through = await asyncio.to_thread(relay.through, server.address)
        async with PolicyClient.direct(through) as policy:
            request = {"prompts": asked([5, 6, 7]), "sampling": sampling()}
            plainly = await policy.generate(**request)
            assert relay.corrupt(server.address) == 1
            with pytest.raises(CallError) as caught:
                await policy.generate(**request)
            assert caught.value.code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE)
            assert (await policy.generate(**request)).rollouts == plainly.rollouts
