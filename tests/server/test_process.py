"""A service as a process: how it starts, how it ends, and with which exit code."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.server.scripted import Caller

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"}


@dataclass
class Service:
    """A running process, what its ready file says, and a caller of it."""

    process: Any
    ready: dict[str, Any]
    caller: Caller
    ended_at: float = 0.0

    async def exit_code(self, within: float) -> int:
        """Waits for the end; the test fails where it takes longer."""
        code = await asyncio.to_thread(self.process.wait, within)
        self.ended_at = time.monotonic()
        return code

    def log(self) -> list[dict[str, Any]]:
        """Its log lines, once it has ended."""
        return [json.loads(line) for line in self.process.stderr.read().splitlines() if line.startswith("{")]


def scripted_process(*flags: str) -> Any:
    """The scripted service with pipes on stdin and stderr."""
    command = [sys.executable, "-m", "tests.server.scripted", *flags]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, **pipes)


Start = Callable[..., Any]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    @asynccontextmanager
    async def started(*flags: str) -> AsyncIterator[Service]:
        ready_file = tmp_path / "ready.json"
        process = scripted_process("--ready-file", str(ready_file), *flags)
        try:
            while not ready_file.exists():
                assert process.poll() is None, process.stderr.read()
                await asyncio.sleep(0.05)
            ready = json.loads(ready_file.read_text())
            async with grpc.aio.insecure_channel(ready["address"]) as channel:
                caller = Caller(channel)
                assert await caller.outcome("unary", b"echo") == [b"echo"]
                yield Service(process, ready, caller)
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stderr.close()

    return started


async def test_the_ready_file_tells_addresses_and_pid(start: Start):
    async with start() as service:
        assert service.ready["pid"] == service.process.pid
        assert service.ready["metrics_address"].startswith("127.0.0.1:")
        assert sorted(service.ready) == ["address", "metrics_address", "pid"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_a_running_call_and_exits_0(start: Start, number: int):
    async with start("--grace", "10") as service:
        call = asyncio.create_task(service.caller.outcome("unary", b"compute 1.5"))
        await asyncio.sleep(0.4)
        service.process.send_signal(number)
        assert await call == [b"compute 1.5"]
        assert await service.exit_code(within=5) == 0
        messages = [line["message"] for line in service.log()]
    assert messages == ["listening", "call", "draining", "call", "stopped"]


@pytest.mark.parametrize("script", [b"compute 60", b"spin 60", b"sleep 60"])
async def test_after_the_grace_it_exits_0_and_says_what_it_cut_off(start: Start, script: bytes):
    async with start("--grace", "0.5") as service:
        call = asyncio.create_task(service.caller.outcome("server_stream", script, timeout=60))
        await asyncio.sleep(0.4)
        service.process.terminate()
        assert await service.exit_code(within=5) == 0
        with pytest.raises(grpc.aio.AioRpcError) as cut:
            await call
        (line,) = [line for line in service.log() if line["message"] == "calls cut off"]
    assert cut.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (line["level"], line["calls"], line["grace_seconds"]) == ("warning", 1, 0.5)


async def test_a_second_signal_ends_it_at_once(start: Start):
    async with start("--grace", "60") as service:
        call = asyncio.create_task(service.caller.outcome("unary", b"compute 60", timeout=60))
        await asyncio.sleep(0.3)
        service.process.terminate()
        await asyncio.sleep(0.3)
        assert service.process.poll() is None
        service.process.send_signal(signal.SIGINT)
        assert await service.exit_code(within=2) == 128 + signal.SIGINT
        with pytest.raises(grpc.aio.AioRpcError):
            await call


@pytest.mark.parametrize("script", [b"compute 60", b"spin 60", b"sleep 60"])
async def test_it_ends_within_moments_of_its_stdin_even_in_mid_call(start: Start, script: bytes):
    async with start("--until-stdin-closes", "--grace", "60") as service:
        call = asyncio.create_task(service.caller.outcome("unary", script, timeout=60))
        await asyncio.sleep(0.3)
        closed_at = time.monotonic()
        service.process.stdin.close()
        assert await service.exit_code(within=5) == 0
        assert service.ended_at - closed_at < 2.0
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_an_idle_service_ends_with_its_stdin_at_once(start: Start):
    async with start("--until-stdin-closes", "--grace", "60") as service:
        closed_at = time.monotonic()
        service.process.stdin.close()
        assert await service.exit_code(within=5) == 0
        assert service.ended_at - closed_at < 0.9


async def test_an_open_stdin_is_not_needed_where_nobody_watches_it(start: Start):
    async with start() as service:
        service.process.stdin.close()
        await asyncio.sleep(0.3)
        assert await service.caller.outcome("unary", b"echo") == [b"echo"]


def test_a_service_that_cannot_start_says_why_and_exits_1(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "services.reward", "--learned", f"reward={tmp_path / 'empty'}"]
    ended = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "holds no .safetensors file" in ended.stderr


def test_wrong_flags_exit_2_and_name_every_fault():
    flags = ["--threads", "0", "--rule", "gold=nowhere:score", "--learned", "a", "--learned", "a"]
    command = [sys.executable, "-m", "services.reward", *flags]
    ended = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "--threads: must be a finite number above 0" in ended.stderr
    assert "--rule: module 'nowhere' cannot be imported" in ended.stderr
