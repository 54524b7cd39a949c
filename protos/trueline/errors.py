"""The one exception of the client, with what the service said about the mistake."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

DETAILS_KEY = "grpc-status-details-bin"


class CallError(Exception):
    """A call that did not give its result.

    code              the canonical code, a grpc.StatusCode
    message           one sentence for a person
    service, method   such as "trueline.v1.RewardService" and "Score"
    target            the address or addresses as the client was given them
    field_violations  [("items[3].response", "must not be empty"), ...]; empty unless a field was wrong
    reason            a short stable word, such as "wrong_version"; empty where the service gave none
    info              what the reason is about, name by name
    retry_after       seconds after which the service invites another try; None where it does not
    retryable         whether the same call may succeed later: UNAVAILABLE, or an invitation
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        service: str,
        method: str,
        target: str,
        details: Iterable[Any] = (),
    ) -> None:
        self.code = code
        self.message = message
        self.service = service
        self.method = method
        self.target = target
        self.field_violations: list[tuple[str, str]] = []
        self.reason = ""
        self.info: dict[str, str] = {}
        self.retry_after: float | None = None
        for detail in details:
            self._take(detail)
        self.retryable = code is grpc.StatusCode.UNAVAILABLE or self.retry_after is not None
        super().__init__(self._sentence())

    @classmethod
    def from_rpc(cls, error: grpc.aio.AioRpcError, *, service: str, method: str, target: str) -> CallError:
        """The same error with the google.rpc details in its trailing metadata read."""
        return cls(
            error.code(),
            error.details() or "",
            service=service,
            method=method,
            target=target,
            details=_details_in(error.trailing_metadata()),
        )

    def _take(self, detail: Any) -> None:
        bad_request, info, retry = (
            error_details_pb2.BadRequest(),
            error_details_pb2.ErrorInfo(),
            error_details_pb2.RetryInfo(),
        )
        if detail.Unpack(bad_request):
            self.field_violations += [(each.field, each.description) for each in bad_request.field_violations]
        elif detail.Unpack(info):
            self.reason, self.info = info.reason, dict(info.metadata)
        elif detail.Unpack(retry):
            self.retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos * 1e-9

    def _sentence(self) -> str:
        text = f"{self.service}/{self.method} at {self.target}: {self.code.name}: {self.message}"
        # Services put the fields into the sentence too; say again only what it leaves out.
        missing = [f"{field}: {why}" for field, why in self.field_violations if field not in self.message]
        return f"{text} ({'; '.join(missing)})" if missing else text


def _details_in(metadata: Any) -> list[Any]:
    """The google.protobuf.Any messages of a google.rpc.Status in trailing metadata; [] without one."""
    for key, value in metadata or ():
        if key == DETAILS_KEY:
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return []
    return []
