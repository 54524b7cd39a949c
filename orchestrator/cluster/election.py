"""Who tries to drive a run: the holder of a Lease (coordination.k8s.io/v1).

It decides who TRIES, no more: what is written is fenced by the ledger's epoch. So a leader whom the API
server does not answer goes on, since nobody else can be elected meanwhile, and stops when it sees another.

    election = Election(api, "orchestrator", identity)
    election.start()
    election.leading            True from when it holds the Lease
    election.stop()             gives it back, so that the standby need not wait
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from kubernetes.client.exceptions import ApiException

from orchestrator.cluster.api import CONFLICT, FAILURES, Api, Object

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """Seconds of an election. A standby leads `duration` + 2 x `retry` after the last renewal, at most."""

    duration: int = 15
    """A Lease that was not renewed for so long is anybody's."""
    retry: float = 2.0
    """Between two looks at the Lease."""


@dataclass
class Observed:
    """What a Lease said, and when we first saw it say that: clocks of other machines are not trusted."""

    record: tuple[Any, ...] = ()
    at: float = 0.0

    def expired(self, spec: Object, now: float) -> bool:
        """True where the record has not changed for the duration that its holder chose."""
        record = tuple(spec.get(key) for key in ("holderIdentity", "renewTime", "leaseTransitions"))
        if record != self.record:
            self.record, self.at = record, now
        return now - self.at > spec.get("leaseDurationSeconds", 0)


class Election:
    """Looks at a Lease again and again, in a thread of its own: the ledger may block the event loop."""

    def __init__(
        self,
        api: Api,
        lease: str,
        identity: str,
        timing: Timing | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.api, self.lease, self.identity = api, lease, identity
        self.timing, self.changed = timing or Timing(), changed
        self.leading, self.holder = False, ""
        self.looked = self.answered = time.monotonic()
        self._observed, self._stopping = Observed(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="election", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stops looking, and gives the Lease back if it is ours."""
        self._stopping.set()
        self._thread.join()
        if self.leading:
            self.leading = False
            try:
                self._release()
            except FAILURES as error:
                log.warning("the Lease %s could not be given back: %s", self.lease, told(error))

    @property
    def fresh(self) -> bool:
        """Whether the API server has answered lately: who cannot ask cannot take over."""
        return time.monotonic() - self.answered < 2 * self.timing.duration

    @property
    def sure(self) -> bool:
        """Whether its Lease cannot be another's yet: who was stopped for a while begins nothing."""
        return self.leading and time.monotonic() - self.answered < self.timing.duration

    @property
    def alive(self) -> bool:
        """Whether the thread still looks; a look takes no longer than its calls."""
        limit = 4 * self.api.call_seconds + 10 * self.timing.retry
        return self._thread.is_alive() and time.monotonic() - self.looked < limit

    def _run(self) -> None:
        failing = False
        while not self._stopping.is_set():
            self.looked = time.monotonic()
            try:
                self.look(self.looked)
                self.answered, failing = time.monotonic(), False
            except FAILURES as error:
                if not failing:
                    log.warning("the Lease %s cannot be read or written: %s", self.lease, told(error))
                failing = True
            self._stopping.wait(self.timing.retry)

    def look(self, now: float) -> None:
        """One look: takes the Lease where it is free, renews it where it is ours. One of FAILURES."""
        lease = self.api.lease(self.lease)
        try:
            if lease is None:
                fresh = {"metadata": {"name": self.lease}, "spec": self._spec({})}
                self.api.create_lease(fresh)
                self._seen(self.identity)
                return
            spec = lease.get("spec") or {}
            holder = spec.get("holderIdentity") or ""
            expired = self._observed.expired(spec, now)
            if holder not in ("", self.identity) and not expired:
                self._seen(holder)
                return
            self.api.replace_lease({**lease, "spec": self._spec(spec)})
        except ApiException as error:
            if error.status != CONFLICT:
                raise
            return  # somebody was faster; the next look says who
        self._seen(self.identity)

    def _seen(self, holder: str) -> None:
        leading = holder == self.identity
        changed = (holder, leading) != (self.holder, self.leading)
        self.holder, self.leading = holder, leading
        if changed:
            log.info("the Lease %s is held by %s", self.lease, holder)
            self.changed()

    def _spec(self, before: Object) -> Object:
        ours, now = before.get("holderIdentity") == self.identity, micro_time()
        transitions = before.get("leaseTransitions") or 0
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self.timing.duration,
            "acquireTime": before.get("acquireTime", now) if ours else now,
            "renewTime": now,
            "leaseTransitions": transitions if ours or not before else transitions + 1,
        }

    def _release(self) -> None:
        lease = self.api.lease(self.lease)
        if lease is not None and lease["spec"].get("holderIdentity") == self.identity:
            free = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": micro_time()}
            self.api.replace_lease({**lease, "spec": {**lease["spec"], **free}})


def micro_time() -> str:
    """Now, as Kubernetes writes it: six digits, which the client keeps only where they are not all 0."""
    now = datetime.now(timezone.utc)
    return now.replace(microsecond=now.microsecond or 1).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def told(error: BaseException) -> str:
    """An error in one line: an ApiException says its status and reason, and leaves its headers out."""
    if isinstance(error, ApiException):
        return f"{error.status} {error.reason}"
    return str(error).partition("\n")[0]
