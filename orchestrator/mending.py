"""Where a run outlives its services: work that failed under one is done again once the service is mended.

    reply = await mending.persist("policy", lambda: policy.generate(request), mend=serve_again)

It is the SAME work, under the same request ids: a service that was only slow answers from memory or lets the
repeat join, one that was restarted is first brought to where the ledger stands (`mend`). Those who find the
same service broken share one mend. Errors that no waiting cures, such as a refused field, are raised at once.
"""

import asyncio
import errno
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TypeVar

import grpc
from sqlalchemy.exc import DBAPIError

from orchestrator.recipe_settings import Supervision
from trueline import CallError

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
REFUSALS = 3  # of one piece of work by a peer that was mended each time: it will not take it
DEADLINES = 2  # of one piece of work, missed by a local service before it is killed
OUTAGES = 10  # under one piece of work
# Work that went so long before it failed was not failed by what failed it before.
NEW_OUTAGE_SECONDS = 60.0


class Stopped(Exception):
    """Somebody asked the run to stop, and it stands at a durable point."""


class Trouble(Enum):
    """What may be cured, and by what; the text says what a person can do meanwhile."""

    AWAY = "waiting for it to come back"
    LOST = "bringing it to where the ledger stands"
    UNCLEAR = "trying again; its log says more"
    DISK_FULL = "free some space: the run goes on by itself"
    DAMAGED = "the trainer writes the version again if it still holds it; else put the files back"


CODES = {
    grpc.StatusCode.UNAVAILABLE: Trouble.AWAY,
    grpc.StatusCode.DEADLINE_EXCEEDED: Trouble.AWAY,
    grpc.StatusCode.CANCELLED: Trouble.AWAY,
    # A service's own fault, or the transport's: nobody can tell them apart, so a few more tries decide.
    grpc.StatusCode.UNKNOWN: Trouble.UNCLEAR,
    grpc.StatusCode.INTERNAL: Trouble.UNCLEAR,
}
REASONS = {
    **dict.fromkeys(("no_stage", "other_run", "wrong_stage", "stale_step", "skipped_step"), Trouble.LOST),
    **dict.fromkeys(("wrong_version", "not_loaded"), Trouble.LOST),
    "busy": Trouble.AWAY,
    "disk_full": Trouble.DISK_FULL,
    "weights_damaged": Trouble.DAMAGED,
}


def trouble_of(error: BaseException) -> Trouble | None:
    """What an error can be cured by; None where the same work would only fail again."""
    if isinstance(error, CallError):
        return REASONS.get(error.reason) or CODES.get(error.code)
    if isinstance(error, OSError):
        return Trouble.DISK_FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
    if isinstance(error, DBAPIError):
        return database_trouble(error)
    return None


def database_trouble(error: DBAPIError) -> Trouble | None:
    """A database whose disk is full, or whose server is away for the moment."""
    text = str(error.orig)
    if "disk is full" in text or "disk I/O error" in text or "No space left" in text:
        return Trouble.DISK_FULL
    server = type(error.orig).__module__.startswith("psycopg")
    gone = error.connection_invalidated or type(error).__name__ in ("OperationalError", "InterfaceError")
    return Trouble.AWAY if server and gone else None


def own_trouble(error: BaseException) -> Trouble | None:
    """As trouble_of, for the orchestrator's own disk and database: services were persisted with already."""
    return None if isinstance(error, CallError) else trouble_of(error)


Cause = Callable[[BaseException], Trouble | None]


class Trial:
    """The tries of one piece of work. `failed` raises the error once they were enough."""

    def __init__(self, patience: float, cause: Cause) -> None:
        self.patience, self.cause = patience, cause
        self.outages = self.refusals = self.deadlines = 0
        self.since: float | None = None
        self.pause = FIRST_PAUSE_SECONDS

    def failed(self, error: Exception, began: float) -> Trouble:
        """Counts a failure of a try that began then; returns what may cure it."""
        trouble, now = self.cause(error), time.monotonic()
        if trouble is None:
            raise error
        worked = now - began > NEW_OUTAGE_SECONDS and not is_late(error)  # a deadline missed is no work
        if self.since is None or worked:
            self.since, self.pause, self.outages = now, FIRST_PAUSE_SECONDS, self.outages + 1
        self.refusals += trouble in (Trouble.LOST, Trouble.UNCLEAR)
        self.deadlines += is_late(error)
        if self.refusals > REFUSALS or self.outages > OUTAGES or now - self.since > self.patience:
            raise error
        return trouble

    def next_pause(self) -> float:
        """Seconds until the next try; each is twice the one before."""
        pause, self.pause = self.pause, min(2 * self.pause, LONGEST_PAUSE_SECONDS)
        return pause


def is_late(error: BaseException) -> bool:
    """True where a peer did not answer in time, and may never."""
    return isinstance(error, CallError) and error.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def nothing() -> None:
    """Mends a peer that needs no more than time."""


class Mending:
    """Persists with work, mends peers, and says so.

    `stuck(peer, deadlines, began)` hears of missed deadlines, and when the last try began (monotonic): it
    renews connections and kills what hangs.
    """

    def __init__(
        self,
        supervision: Supervision,
        stopping: asyncio.Event,
        tell: Callable[[str], None],
        stuck: Callable[[str, int, float], None] = lambda peer, deadlines, began: None,
    ) -> None:
        self.patience, self.stopping = supervision.patience_seconds, stopping
        self._tell, self._stuck = tell, stuck
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._mends: dict[str, int] = defaultdict(int)  # by peer: what is mended once is mended for all
        self._failing: dict[str, tuple[Trouble, float]] = {}
        self.retries: dict[str, int] = defaultdict(int)  # by peer: tries that failed and were repeated

    async def persist(
        self,
        peer: str,
        work: Callable[[], Awaitable[T]],
        mend: Callable[[], Awaitable[object]] = nothing,
        cause: Cause = trouble_of,
    ) -> T:
        """The result of `work`, however often `peer` has to be mended for it within patience.

        Raises what no mending cures, and Stopped where the run is told to stop while it waits.
        """
        trial, broken, seen = Trial(self.patience, cause), False, 0
        while True:
            began = time.monotonic()
            try:
                if broken:
                    await self._mend(peer, seen, mend)
                broken, seen = False, self._mends[peer]
                began = time.monotonic()
                result = await work()
            except Exception as error:
                broken = True
                await self._wait_out(peer, error, trial, began)
            else:
                if trial.outages:
                    self._works_again(peer)
                return result

    async def _mend(self, peer: str, seen: int, mend: Callable[[], Awaitable[object]]) -> None:
        """Mends a peer, unless somebody else has since `seen` was read."""
        async with self._locks[peer]:
            if self._mends[peer] == seen:
                await mend()
                self._mends[peer] += 1

    async def _wait_out(self, peer: str, error: Exception, trial: Trial, began: float) -> None:
        trouble = trial.failed(error, began)
        self.retries[peer] += 1
        if self._failing.get(peer, (None, 0.0))[0] is not trouble:
            self._failing[peer] = (trouble, self._failing.get(peer, (None, time.monotonic()))[1])
            self._tell(f"{first_line(error)}; {trouble.value} (for {self.patience:g} s at most)")
        if is_late(error):
            self._stuck(peer, trial.deadlines, began)
        if await self._told_to_stop(trial.next_pause()):
            raise Stopped(f"stopped while {peer} was failing") from error

    async def _told_to_stop(self, seconds: float) -> bool:
        """Waits so long, or until the run is told to stop."""
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except asyncio.TimeoutError:
            pass
        return self.stopping.is_set()

    def _works_again(self, peer: str) -> None:
        _, since = self._failing.pop(peer, (None, None))
        if since is not None:
            self._tell(f"{peer} works again, {time.monotonic() - since:.1f} s after it first failed")


def first_line(error: Exception) -> str:
    """An error as one line of a log."""
    return str(error).partition("\n")[0]
