"""How the driving of a run ends: what takes long beside the loop is no reason to wait."""

import asyncio
import threading

import pytest

from orchestrator.ending import unless_stopped
from orchestrator.mending import Stopped


async def test_a_run_that_is_told_to_stop_does_not_wait_for_what_takes_long() -> None:
    arrived, stopping = threading.Event(), asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, stopping.set)
    with pytest.raises(Stopped, match="while a data set was copied"):
        await unless_stopped(stopping, "a data set was copied", arrived.wait, 60)
    arrived.set()


async def test_what_takes_long_gives_its_result_or_its_error() -> None:
    assert await unless_stopped(asyncio.Event(), "it was counted", sorted, [2, 1], reverse=True) == [2, 1]
    with pytest.raises(ZeroDivisionError):
        await unless_stopped(asyncio.Event(), "it was divided", divmod, 1, 0)
