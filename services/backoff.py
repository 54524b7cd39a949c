"""How long to wait before an HTTP endpoint is asked again."""

from __future__ import annotations

import random
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

FIRST_BACKOFF_SECONDS = 0.5


def backoff_seconds(attempt: int, longest: float) -> float:
    """Seconds behind attempt 1, 2, ...: doubling, with jitter, or what failed together returns together."""
    return min(longest, FIRST_BACKOFF_SECONDS * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)


def retry_after_seconds(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, "7" or an HTTP date; None for none and for nonsense."""
    if not header:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        when = parsedate_to_datetime(header)
    except (TypeError, ValueError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - (now or datetime.now(timezone.utc))).total_seconds())
