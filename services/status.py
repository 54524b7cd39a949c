"""From an exception to the gRPC status that tells the caller what to do about it."""

from __future__ import annotations

import errno

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from services.errors import (
    AlreadyExistsError,
    BusyError,
    FieldError,
    FieldErrors,
    NotReadyError,
    PreconditionError,
    RefusedError,
    UnauthorizedError,
)
from services.weights import DAMAGED, VersionExists, WeightsDamaged

ERROR_DOMAIN = "trueline"
DISK_FULL = "disk_full"
# Details travel as metadata, which peers limit to 8 KiB; text outside ASCII triples on its way there.
MESSAGE_BYTES = 1200
FIELD_BYTES = 300
FIELD_VIOLATIONS = 5


def status_of(error: Exception) -> tuple[grpc.StatusCode, str, list[Message]]:
    """Code, message and google.rpc details of an exception; INTERNAL for what is no caller's fault."""
    if isinstance(error, (AlreadyExistsError, VersionExists)):
        return grpc.StatusCode.ALREADY_EXISTS, str(error), []
    if isinstance(error, RefusedError):
        known = isinstance(error, UnauthorizedError)
        code = grpc.StatusCode.PERMISSION_DENIED if known else grpc.StatusCode.UNAUTHENTICATED
        return code, str(error), [_error_info(error.reason, error.info)]
    if isinstance(error, (FieldError, FieldErrors)):
        return grpc.StatusCode.INVALID_ARGUMENT, str(error), [_bad_request(error), *_reason_of(error)]
    if isinstance(error, WeightsDamaged):
        return grpc.StatusCode.INVALID_ARGUMENT, str(error), [_error_info(DAMAGED)]
    if isinstance(error, PreconditionError):
        return grpc.StatusCode.FAILED_PRECONDITION, str(error), [_error_info(error.reason)]
    if isinstance(error, NotReadyError):
        return grpc.StatusCode.UNAVAILABLE, str(error), [_error_info(error.reason)]
    if isinstance(error, BusyError):
        details = [_error_info("busy"), _retry_info(error.retry_seconds)]
        return grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), details
    if is_out_of_memory(error):
        # The first line only: torch adds a page of allocator statistics.
        message = f"out of memory: {str(error).strip().partition(chr(10))[0] or 'no details'}"
        return grpc.StatusCode.RESOURCE_EXHAUSTED, message, [_error_info("out_of_memory")]
    if is_disk_full(error):
        message = f"the disk is full: {error}; nothing is half done, free some space and repeat the call"
        return grpc.StatusCode.RESOURCE_EXHAUSTED, message, [_error_info(DISK_FULL)]
    if isinstance(error, ValueError):
        return grpc.StatusCode.INVALID_ARGUMENT, str(error), []
    if isinstance(error, NotImplementedError):
        return grpc.StatusCode.UNIMPLEMENTED, str(error) or "not implemented", []
    message = f"internal error ({type(error).__name__}); the service's log has more"
    return grpc.StatusCode.INTERNAL, message, []


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, Python's or torch's, on any device. Told by name: needs no torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def is_disk_full(error: Exception) -> bool:
    """Whether a disk or a quota was full. Libraries that write for us say so in words only."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error) or "(os error 28)" in str(error)


def is_trouble(error: Exception) -> bool:
    """Whether an error has to be in the service's log in full: a fault of ours, of a disk or of a file."""
    code, _, _ = status_of(error)
    return (
        code is grpc.StatusCode.INTERNAL
        or is_disk_full(error)
        or isinstance(error, WeightsDamaged)
        or getattr(error, "reason", "") == DAMAGED
    )


def rich_status(code: grpc.StatusCode, message: str, details: list[Message]) -> status_pb2.Status:
    """The google.rpc.Status that carries the details, short enough for metadata."""
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    number: int = code.value[0]
    return status_pb2.Status(code=number, message=shortened(message, MESSAGE_BYTES), details=packed)


def shortened(text: str, limit: int) -> str:
    """The text's first `limit` bytes of UTF-8, and dots where it was cut: shortened("abc", 2) is "ab..."."""
    encoded = text.encode("utf-8", errors="replace")
    if len(encoded) <= limit:
        return encoded.decode("utf-8")
    return encoded[:limit].decode("utf-8", errors="ignore") + "..."


def _bad_request(error: FieldError | FieldErrors) -> Message:
    errors = error.errors if isinstance(error, FieldErrors) else [error]
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field=shortened(one.field, FIELD_BYTES), description=shortened(one.description, FIELD_BYTES)
            )
            for one in errors[:FIELD_VIOLATIONS]
        ]
    )


def _reason_of(error: FieldError | FieldErrors) -> list[Message]:
    reason = error.reason if isinstance(error, FieldError) else ""
    return [_error_info(reason)] if reason else []


def _error_info(reason: str, metadata: dict[str, str] | None = None) -> Message:
    return error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN, metadata=metadata)


def _retry_info(seconds: float) -> Message:
    delay = duration_pb2.Duration()
    delay.FromMilliseconds(int(seconds * 1000))
    return error_details_pb2.RetryInfo(retry_delay=delay)
