"""What goes wrong, in words a service's inside may use: no grpc here, the edge turns each into a status.

    FieldError          INVALID_ARGUMENT     one field of the request is wrong; BadRequest names it
    other ValueErrors   INVALID_ARGUMENT     something about the request is wrong
    PreconditionError   FAILED_PRECONDITION  the request is right, the state is not: wrong version, stale step
    NotReadyError       UNAVAILABLE          not yet: a model is still loading; worth a retry
    UnauthenticatedError  UNAUTHENTICATED    no token, or none that is known here and has not ended
    UnauthorizedError   PERMISSION_DENIED    the token's scopes do not reach
    AlreadyExistsError  ALREADY_EXISTS       there is another thing of that name
    BusyError           RESOURCE_EXHAUSTED   the queue is full; RetryInfo says when to come back
    MemoryError, torch out of memory         RESOURCE_EXHAUSTED
    no space left on a disk                  RESOURCE_EXHAUSTED   "disk_full": the same call succeeds later
    anything else       INTERNAL             a fault of ours, logged with its traceback

Example: raise FieldError("sampling.temperature", 0.0, "must be above 0")
"""

from __future__ import annotations

SHOWN_VALUE_CHARACTERS = 80


class FieldError(ValueError):
    """One field of a request is wrong: its path, the value it had and the limit it broke.

    str(FieldError("items[3].response", "", "must not be empty")) is
    "items[3].response: must not be empty (got '')". `reason` is a short stable word where a caller needs one.
    """

    def __init__(self, field: str, value: object, limit: str, reason: str = "") -> None:
        self.field, self.value, self.limit, self.reason = field, value, limit, reason
        super().__init__(f"{field}: {self.description}")

    @property
    def description(self) -> str:
        """The limit and the value, without the field's name."""
        shown = repr(self.value)
        if len(shown) > SHOWN_VALUE_CHARACTERS:
            shown = f"{shown[:SHOWN_VALUE_CHARACTERS]}... ({len(shown)} characters)"
        return f"{self.limit} (got {shown})"


class FieldErrors(ValueError):
    """Several fields are wrong; all are reported at once."""

    def __init__(self, errors: list[FieldError]) -> None:
        self.errors = errors
        super().__init__("; ".join(str(error) for error in errors))


class PreconditionError(Exception):
    """The service is not in the state that the request needs; `reason` is a short stable word."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class RefusedError(Exception):
    """A caller that may not; `reason` is a short stable word, `info` what it is about. Never a token."""

    def __init__(self, reason: str, message: str, info: dict[str, str] | None = None) -> None:
        self.reason, self.info = reason, info or {}
        super().__init__(message)


class UnauthenticatedError(RefusedError):
    """Who calls is not known: the token is missing, unknown or has ended."""


class UnauthorizedError(RefusedError):
    """Who calls is known, and may not do this."""


class NotReadyError(Exception):
    """The service cannot answer yet, but will: a model is still loading."""

    def __init__(self, message: str, reason: str = "not_ready") -> None:
        self.reason = reason
        super().__init__(message)


class AlreadyExistsError(Exception):
    """There is another thing of that name."""


class BusyError(Exception):
    """The queue is full; come back in `retry_seconds`."""

    def __init__(self, message: str, retry_seconds: float = 1.0) -> None:
        self.retry_seconds = retry_seconds
        super().__init__(message)
