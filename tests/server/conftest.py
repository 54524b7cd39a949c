"""A scripted service in this process, and a caller of it."""

from collections.abc import AsyncIterator

import grpc
import pytest

from services.server import Server, running
from services.settings import ServerSettings
from tests.server.scripted import SERVICE, Caller, ScriptedApplication


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    settings = ServerSettings(grace=5.0, max_waiting=2, reflection=True)
    async with running(SERVICE, ScriptedApplication, settings) as server:
        await server.started()
        yield server


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture
async def caller(channel: grpc.aio.Channel) -> Caller:
    return Caller(channel)
