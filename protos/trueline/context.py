"""Who calls and why, for the services' logs: run, round and request id travel as metadata with every call."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from contextvars import ContextVar

RUN_KEY = "trueline-run"
ROUND_KEY = "trueline-round"
REQUEST_ID_KEY = "trueline-request-id"

_fields: ContextVar[dict[str, str] | None] = ContextVar("trueline_call_context", default=None)


@contextlib.contextmanager
def call_context(
    *, run: str | None = None, round: int | None = None, request_id: str | None = None
) -> Iterator[None]:
    """Names the calls made inside, in this task and in tasks started from it.

    Contexts nest; what an inner one leaves out is the outer one's:

        with call_context(run="helpdesk-ppo"):
            with call_context(round=3):
                await policy.generate(...)     # logged with run=helpdesk-ppo round=3
    """
    named = {RUN_KEY: run, ROUND_KEY: None if round is None else str(round), REQUEST_ID_KEY: request_id}
    given = {key: value for key, value in named.items() if value is not None}
    token = _fields.set({**(_fields.get() or {}), **given})
    try:
        yield
    finally:
        _fields.reset(token)


def call_metadata(header_request_id: str = "") -> list[tuple[str, str]]:
    """The metadata of one call. The request id: the call header's, else the context's, else a new one."""
    fields = dict(_fields.get() or {})
    if header_request_id:
        fields[REQUEST_ID_KEY] = header_request_id
    fields.setdefault(REQUEST_ID_KEY, uuid.uuid4().hex)
    return [(key, _printable(value)) for key, value in fields.items()]


def _printable(value: str) -> str:
    """Metadata is printable ASCII; a run called "café" must not fail its calls, so the rest is escaped."""
    return value.encode("unicode_escape").decode("ascii")
