"""Health tells the truth: while loading, while busy, while draining; reflection works beside it."""

import asyncio
import time

import grpc
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.server import Server, running
from services.settings import ServerSettings
from tests.health_checks import percentile_99_beside
from tests.server.scripted import SERVICE, Caller, ScriptedApplication

STATUS = health_pb2.HealthCheckResponse.ServingStatus


async def check(channel: grpc.aio.Channel, service: str) -> str:
    stub = health_pb2_grpc.HealthStub(channel)
    reply = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    return STATUS.Name(reply.status)


class SlowApplication(ScriptedApplication):
    """Loads until it is told to go on."""

    async def start(self) -> None:
        self.loaded = asyncio.Event()
        await self.loaded.wait()
        await self.host.set_ready(True)


async def test_the_process_lives_while_it_loads_and_the_service_is_ready_only_then():
    async with (
        running(SERVICE, SlowApplication, ServerSettings(grace=5)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        assert (await check(channel, ""), await check(channel, SERVICE)) == ("SERVING", "NOT_SERVING")
        server.application.loaded.set()
        await server.started()
        assert (await check(channel, ""), await check(channel, SERVICE)) == ("SERVING", "SERVING")


async def test_an_unknown_service_is_not_found(channel: grpc.aio.Channel):
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await check(channel, "trueline.v1.Typo")
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_watcher_sees_not_serving_and_does_not_hold_up_the_drain(
    server: Server, channel: grpc.aio.Channel
):
    stub = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert STATUS.Name((await watch.read()).status) == "SERVING"
    began = time.monotonic()
    await server.drain(5.0)
    assert time.monotonic() - began < 4.0
    assert STATUS.Name((await watch.read()).status) == "NOT_SERVING"
    with pytest.raises(grpc.aio.AioRpcError) as stopped:
        await watch.read()
    assert stopped.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_drain_waits_for_running_calls_and_accepts_no_more(server: Server, caller: Caller):
    running_call = asyncio.create_task(caller.outcome("unary", b"sleep 0.7"))
    await asyncio.sleep(0.2)
    draining = asyncio.create_task(server.drain(5.0))
    await asyncio.sleep(0.2)
    async with grpc.aio.insecure_channel(server.address) as late:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Caller(late).outcome("unary", b"echo", timeout=2)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await running_call == [b"sleep 0.7"]
    await draining


@pytest.mark.parametrize("load", [b"compute 1", b"spin 1"])
async def test_a_health_check_answers_in_milliseconds_while_a_batch_runs(
    server: Server, caller: Caller, load: bytes
):
    torch.set_num_threads(1)
    assert await percentile_99_beside(lambda _: caller.outcome("unary", load), server.address, SERVICE) < 0.1


async def test_reflection_lists_the_services_and_their_files(channel: grpc.aio.Channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    questions = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health"),
    ]
    listed, file = [reply async for reply in stub.ServerReflectionInfo(iter(questions))]
    names = {service.name for service in listed.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names
    assert file.file_descriptor_response.file_descriptor_proto


async def test_reflection_is_off_unless_asked_for():
    async with (
        running(SERVICE, ScriptedApplication, ServerSettings(grace=5)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as off:
            async for _ in stub.ServerReflectionInfo(iter([])):
                pass
    assert off.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_messages_up_to_the_limit_pass_and_larger_ones_are_refused():
    settings = ServerSettings(grace=5, max_message_bytes=6 * 1024 * 1024)
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with (
        running(SERVICE, ScriptedApplication, settings) as server,
        grpc.aio.insecure_channel(server.address, options=options) as channel,
    ):
        caller = Caller(channel)
        large = b"x" * 5_000_000
        assert await caller.unary(large) == large
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await caller.unary(b"x" * 7_000_000)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_taken_port_is_an_error_and_not_half_of_the_calls(server: Server):
    settings = ServerSettings(address=server.address)
    with pytest.raises(RuntimeError, match="bind"):
        async with running(SERVICE, ScriptedApplication, settings):
            raise AssertionError("two servers share a port")


async def test_an_old_connection_is_replaced_and_its_running_call_goes_on():
    settings = ServerSettings(grace=5, max_connection_age=0.4, max_connection_age_grace=30)
    async with (
        running(SERVICE, ScriptedApplication, settings) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        caller = Caller(channel)
        assert await caller.outcome("unary", b"sleep 1.5") == [b"sleep 1.5"]
        assert await caller.outcome("unary", b"echo") == [b"echo"]
