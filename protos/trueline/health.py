"""Asking a service how it is: grpc.health.v1 without a dependency on grpcio-health-checking.

That package pins protobuf to the newest major, and outsiders pin old ones. Its two messages have one field
each: HealthCheckRequest { string service = 1 } has the bytes of a StringValue, HealthCheckResponse { enum
status = 1 } those of an Int32Value.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from trueline.calls import Rpc
from trueline.errors import CallError

if TYPE_CHECKING:
    from trueline.service_client import ServiceClient

STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
CHECK_DEADLINE = 5.0
POLL_SECONDS = 0.1


async def check(
    channel: grpc.aio.Channel, service: str = "", *, target: str = "", deadline: float = 5.0
) -> str:
    """What the process says of `service` ("" is the process itself): "SERVING", "NOT_SERVING", ...

    Raises CallError: NOT_FOUND for a service that the process does not know, UNAVAILABLE where nobody
    listens.
    """
    ask = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=Int32Value.FromString,
    )
    rpc = Rpc(ask, "grpc.health.v1.Health", "Check", target)
    response = await rpc.unary(StringValue(value=service), deadline=deadline)
    return STATUSES[response.value] if 0 <= response.value < len(STATUSES) else f"UNKNOWN_{response.value}"


async def wait_until_ready(
    *clients: ServiceClient, timeout: float = 60.0, service: str | None = None
) -> None:
    """Returns once every address of every client says SERVING, else raises CallError after `timeout` seconds.

    `service` is what is asked after: by default what the client's calls need, a loaded model; "" asks only
    whether the process answers, which is what a caller wants before it sends the first weights.
    """
    until = time.monotonic() + timeout
    waits = [
        asyncio.create_task(
            _wait_for_one(
                client.direct(address, access=client.access),
                client.READY_SERVICE if service is None else service,
                until,
            )
        )
        for client in clients
        for address in client.addresses
    ]
    try:
        await asyncio.gather(*waits)
    finally:
        for wait in waits:  # where one failed, the others would go on asking
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _wait_for_one(client: ServiceClient, service: str, until: float) -> None:
    """Polls one address until it serves or the time is over."""
    async with client:
        while True:
            left = until - time.monotonic()
            said = await _ask(client, service, min(CHECK_DEADLINE, max(left, POLL_SECONDS)))
            if said == "SERVING":
                return
            if time.monotonic() >= until:
                what = f"{service or 'the process'} is not ready: {said}"
                raise CallError(
                    grpc.StatusCode.UNAVAILABLE,
                    what,
                    service="grpc.health.v1.Health",
                    method="Check",
                    target=client.target,
                )
            await asyncio.sleep(POLL_SECONDS)


async def _ask(client: ServiceClient, service: str, deadline: float) -> str:
    """The status, or why there is none yet; a refusal that waiting cannot cure is raised."""
    try:
        return await client.health(service, deadline=deadline)
    except CallError as error:
        if error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return error.message
        raise
