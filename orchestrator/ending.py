"""How the driving of a run ends: finished, stopped, failed, for want of a service; the ledger says which."""

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, ParamSpec, TypeVar, cast

from sqlalchemy.exc import DBAPIError

from orchestrator.database import AT_ONCE
from orchestrator.ledger import Ledger, LedgerError
from orchestrator.mending import Stopped
from orchestrator.recipe import Recipe
from trueline import CallError

P = ParamSpec("P")
T = TypeVar("T")
DEATH_SECONDS = 1.0  # in which the launcher notices that a service has ended


def is_over(recipe: Recipe, ledger: Ledger) -> bool:
    """True where nothing is left to do: no service need be started to find that out."""
    finished = {row["stage"] for row in ledger.all_stages() if row["status"] == "finished"}
    return ledger.info()["status"] == "finished" and finished >= set(recipe.stages)


@contextlib.contextmanager
def failing(ledger: Ledger) -> Iterator[None]:
    """A run whose services do not come up has failed; it is not left to look as if it were under way."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(LedgerError, DBAPIError):  # what came first says more
            if ledger.info()["status"] == "running":
                ledger.set_run(status="failed")
        raise


async def until_done(work: Awaitable[None], died: "asyncio.Future[None]", ledger: Ledger) -> bool:
    """Waits for the stages; a service that dies ends the wait, and the run can be resumed."""
    stages = asyncio.ensure_future(work)
    try:
        await asyncio.wait({stages, died}, return_when=asyncio.FIRST_COMPLETED)
        if failed_with(stages, CallError):
            # A call to a dead service may fail before its death is known; the death says more.
            await asyncio.wait({died}, timeout=DEATH_SECONDS)
        if died.done() and (not stages.done() or failed_with(stages, CallError)):
            died.result()  # raises ServiceDied
        await stages
    except Stopped:
        ledger.set_run(status="stopped")
        return False
    except BaseException:
        await end(stages)
        with contextlib.suppress(LedgerError, DBAPIError):
            ledger.set_run(status="failed")
        raise
    ledger.set_run(status="finished", finished_at=time.time())
    return True


async def unless_stopped(
    stopping: asyncio.Event, what: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """What `work` returns, done in a thread beside the loop. Stopped as soon as the run is told to stop.

    The thread is left behind then, so that whatever it writes must be whole or not there.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(outcome: T | None, error: BaseException | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(cast(T, outcome))

    def do() -> None:
        outcome, error = None, None
        try:
            outcome = work(*args, **kwargs)
        except BaseException as raised:  # to be raised where it is waited for
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is over: nobody waits any more
            loop.call_soon_threadsafe(settle, outcome, error)

    threading.Thread(target=do, daemon=True).start()
    stopped = asyncio.ensure_future(stopping.wait())
    waiting: set[asyncio.Future[Any]] = {done, stopped}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise Stopped(f"stopped while {what}")
        return done.result()
    finally:
        stopped.cancel()
        done.cancel()


def failed_with(task: "asyncio.Future[None]", kind: type[BaseException]) -> bool:
    """True where a task has ended with an error of this kind."""
    return task.done() and not task.cancelled() and isinstance(task.exception(), kind)


async def end(task: "asyncio.Future[None]") -> None:
    """Cancels a task and waits until it has ended, whatever it ends with."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@contextlib.contextmanager
def stop_on_signals(stopping: asyncio.Event) -> Iterator[None]:
    """SIGTERM or Ctrl-C once: stop at the next durable point. Twice: stop now; nothing durable is lost."""
    loop, task, told = asyncio.get_running_loop(), asyncio.current_task(), 0

    def stop() -> None:
        if stopping.is_set() and task is not None:
            task.cancel()
        stopping.set()

    def hear(*_: object) -> None:
        # Not by the loop's own handlers: the loop itself may be waiting for the database.
        nonlocal told
        told += 1
        if told > 1:
            AT_ONCE.set()
        loop.call_soon_threadsafe(stop)

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        AT_ONCE.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
