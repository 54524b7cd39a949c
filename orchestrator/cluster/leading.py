"""One of several orchestrators of one run: waits for the Lease, drives while it holds it, stands by when not.

    python -m orchestrator run RECIPE --or-resume --elect orchestrator --probe-address 0.0.0.0:8080

The leader of before may be dead, or cut off and still at work: the ledger's epoch keeps it from writing.
After the last stage the leader stays until it is told to stop: a Deployment would start the run again.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cluster.api import Api, Identity
from orchestrator.cluster.election import Election, Timing
from orchestrator.cluster.events import EventProgress, Events
from orchestrator.cluster.standing import Standing, probed
from orchestrator.drive import drive_alone
from orchestrator.ending import stop_on_signals
from orchestrator.ledger import Ledger, LostLease
from orchestrator.mending import Stopped
from orchestrator.metrics_door import MetricsPage
from orchestrator.progress import Progress
from orchestrator.recipe import RecipeError

log = logging.getLogger(__name__)

Begin = Callable[[], tuple[Path, Ledger]]
ABSENT = ("no such file", "no such directory", "holds no config.json")  # inputs that somebody may yet write
INPUT_SECONDS, INPUT_PAUSE_SECONDS = 600.0, 2.0


@dataclass
class Candidate:
    """One orchestrator that would drive a run: its part in the election, and whom it tells."""

    election: Election
    standing: Standing
    events: Events
    progress: Progress
    changed: asyncio.Event  # something about the Lease
    stopping: asyncio.Event  # we are told to stop
    page: MetricsPage | None = None

    def note(self, text: str) -> None:
        """A sentence for the log and the Events."""
        self.progress.note(text)
        self.events.record("Note", text)


async def stand(
    lease: str,
    probe_address: str | None,
    begin: Begin,
    finish: Callable[[Path, Ledger], None],
    progress: Progress,
    *,
    api: Api | None = None,
    timing: Timing | None = None,
    page: MetricsPage | None = None,
) -> bool:
    """Drives the run whenever it holds the Lease, until it is told to stop; True where it saw the run's end.

    `begin` opens the run's ledger, `finish` hears of the run's end.
    """
    with candidacy(lease, progress, api or Api.of_this_pod(), timing) as candidate:
        candidate.page = page
        # In one piece from here to the end: a signal that came between two parts would be lost, or end us.
        with stop_on_signals(candidate.stopping):
            async with probed(candidate.standing, probe_address):
                candidate.election.start()
                while await elected(candidate):
                    finished = await lead(candidate, begin, finish)
                    if finished is not None:
                        return finished
                return False


@contextlib.contextmanager
def candidacy(lease: str, progress: Progress, api: Api, timing: Timing | None) -> Iterator[Candidate]:
    """A candidate whose Lease is given back at the end, however that comes."""
    pod, changed, loop = Identity(), asyncio.Event(), asyncio.get_running_loop()

    def tell() -> None:
        loop.call_soon_threadsafe(changed.set)

    election = Election(api, lease, f"{pod.name}_{secrets.token_hex(4)}", timing, tell)
    events = Events(api, pod)
    try:
        yield Candidate(election, Standing(election), events, progress, changed, asyncio.Event())
    finally:
        election.stop()
        events.close()


async def elected(candidate: Candidate) -> bool:
    """Waits for the Lease; False where it was told to stop first."""
    while not candidate.election.leading and not candidate.stopping.is_set():
        # What it is before the first answer, nobody knows.
        candidate.standing.what = "standby" if candidate.election.holder else "starting"
        candidate.changed.clear()
        if not candidate.election.leading:
            await either(candidate.changed, candidate.stopping)
    return not candidate.stopping.is_set()


async def lead(candidate: Candidate, begin: Begin, finish: Callable[[Path, Ledger], None]) -> bool | None:
    """Drives the run; None where the Lease or the ledger's went to another meanwhile.

    True once it is finished and we are told to stop, False where we are told to stop before.
    """
    candidate.standing.what = "leading"
    try:
        directory, ledger = await with_inputs(begin, candidate)
        candidate.events.record("Leading", f"drives {ledger.run} from where the ledger stands")
        finished = await while_leading(candidate, directory, ledger)
    except Stopped:
        return False
    except LostLease as error:
        candidate.note(f"another orchestrator took over: {error}")
        return None
    except Exception as error:
        candidate.standing.what = "failed"
        candidate.events.record("RunFailed", str(error), warning=True)
        raise
    if not finished:
        return finished
    await asyncio.to_thread(finish, directory, ledger)
    candidate.events.record("RunFinished", f"{ledger.run} is finished")
    candidate.standing.what = "finished"
    await candidate.stopping.wait()
    return True


async def with_inputs(begin: Begin, candidate: Candidate) -> tuple[Path, Ledger]:
    """The run; waits a while for inputs that another pod is still writing."""
    until, told = time.monotonic() + INPUT_SECONDS, False
    while True:
        try:
            if candidate.election.sure:
                return begin()
        except RecipeError as error:
            absent = all(any(word in fault for word in ABSENT) for fault in error.faults)
            if not absent or time.monotonic() > until:
                raise
            if not told:
                candidate.note(f"waiting for inputs: {error.faults[0].strip()}")
            told = True
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(candidate.stopping.wait(), INPUT_PAUSE_SECONDS)
        if candidate.stopping.is_set():
            raise Stopped("stopped while it waited for inputs")
        if not candidate.election.leading:
            raise LostLease(f"{candidate.election.holder} holds the Lease")


async def while_leading(candidate: Candidate, directory: Path, ledger: Ledger) -> bool | None:
    """Drives until the run's end, or None as soon as somebody else holds the Lease."""
    progress = EventProgress(candidate.progress, candidate.events)
    # No lock of this machine's: a leader that hangs would hold it, and the ledger's epoch fences.
    run = drive_alone(directory, ledger, progress, candidate.stopping, candidate.page)
    driving = asyncio.ensure_future(run)
    try:
        while True:
            candidate.changed.clear()
            if not candidate.election.leading:
                candidate.note(f"{candidate.election.holder} holds the Lease: standing by")
                return None
            changed = asyncio.ensure_future(candidate.changed.wait())
            await asyncio.wait({driving, changed}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if driving.done():
                return driving.result()
    finally:
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)


async def either(one: asyncio.Event, other: asyncio.Event) -> None:
    """Waits until one of two events is set."""
    waiting = {asyncio.ensure_future(each.wait()) for each in (one, other)}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()
