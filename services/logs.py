"""Log lines: JSON for machines, text on a terminal; each names the call, run and round it belongs to.

{"time": "2026-01-31T12:00:00.123Z", "level": "info", "logger": "services.calls", "message": "call",
 "service": "trueline.v1.RewardService", "method": "Score", "code": "OK", "seconds": 0.012, "run": "r7"}
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime, timezone
from types import MappingProxyType
from typing import IO, Any

_NO_FIELDS: Mapping[str, str] = MappingProxyType({})
# The call that the running code serves; Work carries it into its threads.
call_fields: ContextVar[Mapping[str, str]] = ContextVar("call_fields", default=_NO_FIELDS)

_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def set_up_logs(log_format: str = "auto", level: int = logging.INFO, stream: IO[str] | None = None) -> None:
    """Sends all log lines to `stream` (standard error) as "json", "text" or "auto": text on a terminal."""
    stream = stream or sys.stderr
    text = log_format == "text" or (log_format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if text else JsonFormatter())
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(level)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it has a line for every request that went well


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What the line carries beside its message: the call's fields, then those given as `extra`."""
    extra = {key: value for key, value in vars(record).items() if key not in _OWN_ATTRIBUTES}
    return {**call_fields.get(), **extra}


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line; the traceback is one string in it."""
        time = datetime.fromtimestamp(record.created, timezone.utc)
        line = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """A line for a person: time, level, message, then key=value."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text; the traceback follows on lines of its own."""
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        fields = " ".join(f"{key}={value}" for key, value in fields_of(record).items())
        line = f"{time} {record.levelname.lower():7} {record.getMessage()} {fields}".rstrip()
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line
