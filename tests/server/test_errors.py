"""Exceptions become statuses, alike on unary and streaming methods."""

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from services.errors import FieldError
from tests.server.scripted import METHODS, Caller

CODES = {
    "FieldError": grpc.StatusCode.INVALID_ARGUMENT,
    "FieldErrors": grpc.StatusCode.INVALID_ARGUMENT,
    "LongError": grpc.StatusCode.INVALID_ARGUMENT,
    "ValueError": grpc.StatusCode.INVALID_ARGUMENT,
    "WeightsError": grpc.StatusCode.INVALID_ARGUMENT,
    "WeightsDamaged": grpc.StatusCode.INVALID_ARGUMENT,
    "DiskFull": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "SafetensorError": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "VersionExists": grpc.StatusCode.ALREADY_EXISTS,
    "AlreadyExistsError": grpc.StatusCode.ALREADY_EXISTS,
    "PreconditionError": grpc.StatusCode.FAILED_PRECONDITION,
    "NotReadyError": grpc.StatusCode.UNAVAILABLE,
    "BusyError": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "MemoryError": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "CudaOutOfMemory": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "CpuOutOfMemory": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "KeyError": grpc.StatusCode.INTERNAL,
    "RuntimeError": grpc.StatusCode.INTERNAL,
    "NotImplementedError": grpc.StatusCode.UNIMPLEMENTED,
}


async def failure(caller: Caller, method: str, script: bytes) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await caller.outcome(method, script)
    return failed.value


def detail(error: grpc.aio.AioRpcError, message: object) -> object:
    """The detail of that kind; the test fails where there is none."""
    status = rpc_status.from_call(error)
    assert status is not None
    assert any(each.Unpack(message) for each in status.details), status
    return message


@pytest.mark.parametrize("method", METHODS)
async def test_every_error_has_its_code_on_every_kind_of_method(caller: Caller, method: str):
    codes = {name: (await failure(caller, method, name.encode())).code() for name in CODES}
    assert codes == CODES


@pytest.mark.parametrize("method", METHODS)
async def test_a_wrong_field_is_named_with_its_value_and_limit(caller: Caller, method: str):
    error = await failure(caller, method, b"FieldError")
    assert error.details() == "sampling.temperature: must be above 0 (got 0.0)"
    violations = detail(error, error_details_pb2.BadRequest()).field_violations
    assert [(each.field, each.description) for each in violations] == [
        ("sampling.temperature", "must be above 0 (got 0.0)")
    ]


async def test_several_wrong_fields_are_all_named(caller: Caller):
    error = await failure(caller, "unary", b"FieldErrors")
    violations = detail(error, error_details_pb2.BadRequest()).field_violations
    assert [each.field for each in violations] == ["a", "b"]
    assert violations[1].description.endswith("... (1001 characters))")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (b"PreconditionError", "stale_step"),
        (b"NotReadyError", "not_loaded"),
        (b"BusyError", "busy"),
        (b"DiskFull", "disk_full"),
        (b"SafetensorError", "disk_full"),
        (b"WeightsDamaged", "weights_damaged"),
    ],
)
async def test_a_reason_travels_as_a_word(caller: Caller, script: bytes, reason: str):
    info = detail(await failure(caller, "unary", script), error_details_pb2.ErrorInfo())
    assert (info.reason, info.domain) == (reason, "trueline")


async def test_a_full_queue_says_when_to_come_back(caller: Caller):
    retry = detail(await failure(caller, "unary", b"BusyError"), error_details_pb2.RetryInfo())
    assert retry.retry_delay.ToMilliseconds() == 2500


async def test_a_fault_of_ours_tells_the_caller_nothing_of_the_inside(caller: Caller, caplog):
    error = await failure(caller, "unary", b"KeyError")
    assert "secret" not in error.details() and "KeyError" in error.details()
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "secret" in caplog.text and record.exc_info


async def test_out_of_memory_shows_one_line(caller: Caller):
    error = await failure(caller, "unary", b"CudaOutOfMemory")
    assert error.details() == "out of memory: CUDA out of memory. Tried to allocate 2 GiB"


async def test_a_very_long_message_is_cut_to_what_metadata_holds(caller: Caller):
    error = await failure(caller, "unary", b"LongError")
    assert len(error.details().encode()) < 1300 and error.details().endswith("...")
    assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field.startswith("é")


def test_a_field_error_reads_as_a_sentence():
    assert str(FieldError("items[3].response", "", "must not be empty")) == (
        "items[3].response: must not be empty (got '')"
    )
