"""How fast a service's health answers while it works, timed from a process of its own, as a probe's are."""

import asyncio
import itertools
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

CHECKS = 200
PROBE = """
import sys, time, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
address, service = sys.argv[1:]
stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(address))
for line in sys.stdin:
    start = time.perf_counter()
    status = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30).status
    assert status == health_pb2.HealthCheckResponse.SERVING, status
    print(time.perf_counter() - start, flush=True)
"""


async def percentile_99_beside(
    work: Callable[[int], Awaitable[Any]], address: str, service: str, checks: int = CHECKS
) -> float:
    """Seconds of the 99th of a hundred health checks while `work(0)`, `work(1)`, ... run one after another.

    There are at least `checks` checks and one whole piece of work, on a machine of whatever speed.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROBE, address, service, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin and process.stdout

    async def check() -> float:
        assert process.stdin and process.stdout
        process.stdin.write(b"\n")
        return float(await process.stdout.readline())

    seconds: list[float] = []

    async def working() -> None:
        for piece in itertools.count():
            await work(piece)
            if len(seconds) >= checks:
                return

    try:
        await check()  # the first one connects
        busy = asyncio.create_task(working())
        while not busy.done():
            seconds.append(await check())
            await asyncio.sleep(0.005)
        await busy
    finally:
        process.stdin.close()
        await process.wait()
    seconds.sort()
    return seconds[int(0.99 * len(seconds))]
