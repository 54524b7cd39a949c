"""Every call is counted, timed and logged, whatever its kind and its end."""

import asyncio
import json
import logging
import urllib.request

import grpc
import pytest

from services.logs import JsonFormatter, TextFormatter
from services.server import Server
from tests.server.scripted import METHODS, SERVICE, Caller

NAMES = {
    "unary": ("unary", "Unary"),
    "server_stream": ("server_stream", "ServerStream"),
    "client_stream": ("client_stream", "ClientStream"),
    "bidi_stream": ("bidi_stream", "BidiStream"),
    "writing": ("bidi_stream", "Writing"),
}


def labels(method: str) -> dict[str, str]:
    kind, name = NAMES[method]
    return {"grpc_type": kind, "grpc_service": SERVICE, "grpc_method": name}


def value(server: Server, name: str, method: str, **more: str) -> float:
    return server.host.registry.get_sample_value(name, {**labels(method), **more}) or 0.0


async def ended(server: Server, method: str, code: str) -> None:
    """Waits for the call's end on the server's side, which the client does not wait for."""
    for _ in range(200):
        if value(server, "grpc_server_handled_total", method, grpc_code=code):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"no {method} call ended with {code}")


@pytest.mark.parametrize("method", METHODS)
async def test_calls_and_messages_are_counted_by_method_and_code(server: Server, caller: Caller, method: str):
    await caller.outcome(method, b"echo", b"echo again")
    with pytest.raises(grpc.aio.AioRpcError):
        await caller.outcome(method, b"PreconditionError")
    await ended(server, method, "FAILED_PRECONDITION")
    many_in = method in ("client_stream", "bidi_stream", "writing")
    sent = {"server_stream": 3, "bidi_stream": 2, "writing": 2}.get(method, 1)
    assert value(server, "grpc_server_started_total", method) == 2
    assert value(server, "grpc_server_handled_total", method, grpc_code="OK") == 1
    assert value(server, "grpc_server_handling_seconds_count", method) == 2
    assert value(server, "grpc_server_msg_received_total", method) == (3 if many_in else 2)
    assert value(server, "grpc_server_msg_sent_total", method) == sent


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_that_its_caller_gave_up_is_cancelled(server: Server, caller: Caller, method: str):
    task = asyncio.create_task(caller.outcome(method, b"sleep 20"))
    await asyncio.sleep(0.2)
    task.cancel()
    await ended(server, method, "CANCELLED")


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_that_ran_out_of_time_is_deadline_exceeded(server: Server, caller: Caller, method: str):
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await caller.outcome(method, b"sleep 20", timeout=0.3)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await ended(server, method, "DEADLINE_EXCEEDED")


async def test_metrics_are_served_on_a_port_of_their_own(server: Server, caller: Caller):
    await caller.outcome("unary", b"echo")
    url = f"http://{server.metrics_address}/metrics"
    page = (await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode()
    for name in (
        'grpc_server_handled_total{grpc_code="OK",grpc_method="Unary"',
        "grpc_server_handling_seconds_bucket",
        "process_resident_memory_bytes",
        "trueline_build_info{",
        "trueline_work_waiting_calls 0.0",
        "trueline_work_compute_seconds_count",
    ):
        assert name in page, name


async def test_a_call_logs_one_line_that_names_run_round_and_request(caller: Caller, caplog):
    caplog.set_level(logging.INFO)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(JsonFormatter().format(record))  # type: ignore[method-assign]
    logging.root.addHandler(handler)
    try:
        metadata = (("trueline-run", "r7"), ("trueline-round", "3"), ("trueline-request-id", "r7/3"))
        await caller.unary(b"echo", metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError):
            await caller.unary(b"ValueError")
    finally:
        logging.root.removeHandler(handler)
    first, second = (line for line in map(json.loads, lines) if line["message"] == "call")
    assert (
        first.items()
        >= {
            "level": "info",
            "service": SERVICE,
            "method": "Unary",
            "code": "OK",
            "run": "r7",
            "round": "3",
            "request_id": "r7/3",
        }.items()
    )
    assert 0 < first["seconds"] < 5
    assert second["code"] == "INVALID_ARGUMENT" and "run" not in second


def test_text_lines_and_json_lines_keep_fields_and_tracebacks():
    try:
        raise RuntimeError("boom")
    except RuntimeError as error:
        fields = {"name": "x", "levelname": "ERROR", "msg": "it is %s", "args": ("so",), "code": "é"}
        record = logging.makeLogRecord({**fields, "exc_info": (type(error), error, error.__traceback__)})
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["level"], line["code"]) == ("it is so", "error", "é")
    assert "RuntimeError: boom" in line["traceback"]
    assert "it is so code=é\nTraceback" in TextFormatter().format(record)
