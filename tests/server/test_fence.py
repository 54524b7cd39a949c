"""The fence: old leaders are refused, repeats are answered or joined, and nothing is done twice."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from services.errors import FieldError, PreconditionError
from services.fence import CallHeader, Fence
from services.progress import Finished, ProgressEvent, ProgressFeed, stream_with_progress


def header(request_id: str = "step 1", epoch: int = 1, run_id: str = "run") -> CallHeader:
    return CallHeader(run_id, epoch, request_id)


class Steps:
    """Counts how often a step ran; `release` lets it end."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.release = asyncio.Event()

    async def step(self) -> int:
        self.begun += 1
        await self.release.wait()
        self.ended += 1
        return self.ended


@pytest.fixture
async def steps() -> Steps:
    return Steps()


async def test_a_repeat_gets_the_stored_answer(steps: Steps):
    fence = Fence()
    steps.release.set()
    assert [await fence.run(header(), steps.step) for _ in range(3)] == [1, 1, 1]
    assert await fence.run(header("step 2"), steps.step) == 2


async def test_repeats_of_a_running_request_join_it(steps: Steps):
    fence = Fence()
    callers = [asyncio.create_task(fence.run(header(), steps.step)) for _ in range(4)]
    await asyncio.sleep(0.01)
    assert (steps.begun, fence.running_request_id) == (1, "step 1")
    steps.release.set()
    assert await asyncio.gather(*callers) == [1, 1, 1, 1]
    assert (steps.begun, fence.running_request_id) == (1, "")


@pytest.mark.parametrize("style", ["run", "stream"])
async def test_a_caller_that_goes_away_does_not_stop_the_step(steps: Steps, style: str):
    fence = Fence()

    async def call() -> object:
        if style == "run":
            return await fence.run(header(), steps.step)
        return [event async for event in fence.stream(header(), lambda progress: steps.step())]

    gone = asyncio.create_task(call())
    await asyncio.sleep(0.01)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    joined = asyncio.create_task(fence.run(header(), steps.step))
    await asyncio.sleep(0.01)
    steps.release.set()
    assert (await joined, steps.begun, steps.ended) == (1, 1, 1)


async def test_a_failed_request_is_seen_by_all_who_joined_and_tried_again_by_a_repeat():
    fence, attempts = Fence(), []

    async def step() -> str:
        attempts.append(1)
        await asyncio.sleep(0.01)
        if len(attempts) == 1:
            raise PreconditionError("stale_step", "not yet")
        return "done"

    failed = await asyncio.gather(*(fence.run(header(), step) for _ in range(2)), return_exceptions=True)
    assert [type(error) for error in failed] == [PreconditionError, PreconditionError]
    assert len(attempts) == 1
    assert await fence.run(header(), step) == "done"


async def test_a_lower_epoch_is_refused_once_a_higher_one_was_seen(steps: Steps):
    fence = Fence()
    steps.release.set()
    await fence.run(header(epoch=3), steps.step)
    for request_id in ("step 1", "step 2"):
        with pytest.raises(PreconditionError, match="2 is lower than 3") as refused:
            await fence.run(header(request_id, epoch=2), steps.step)
        assert refused.value.reason == "stale_epoch"
    assert steps.begun == 1
    assert fence.epoch("run") == 3


async def test_a_new_leader_gets_the_answer_of_the_one_before_it(steps: Steps):
    fence = Fence()
    steps.release.set()
    await fence.run(header(epoch=1), steps.step)
    assert await fence.run(header(epoch=2), steps.step) == 1
    assert steps.begun == 1


async def test_another_run_starts_afresh_and_each_run_keeps_its_epoch(steps: Steps):
    fence = Fence()
    steps.release.set()
    await fence.run(header(epoch=5), steps.step)
    assert await fence.run(header(epoch=1, run_id="other"), steps.step) == 2
    with pytest.raises(PreconditionError, match="lower than 5"):
        await fence.run(header(epoch=4), steps.step)
    # Its answers are gone: the same request is done anew.
    assert await fence.run(header(epoch=5), steps.step) == 3


async def test_a_request_id_that_names_something_else_is_refused(steps: Steps):
    fence = Fence()
    steps.release.set()
    await fence.run(header(), steps.step, "PpoStep:aa")
    with pytest.raises(PreconditionError) as refused:
        await fence.run(header(), steps.step, "PpoStep:bb")
    assert refused.value.reason == "request_id_reused"


async def test_empty_ids_are_refused(steps: Steps):
    for empty, field in ((header(""), "header.request_id"), (header(run_id=""), "header.run_id")):
        with pytest.raises(FieldError) as refused:
            await Fence().run(empty, steps.step)
        assert refused.value.field == field


async def test_memory_is_bounded_and_running_requests_are_never_forgotten(steps: Steps):
    fence, done = Fence(stored_answers=3, remembered_runs=2), asyncio.Event()
    running = asyncio.create_task(fence.run(header("long"), steps.step))

    async def quick() -> bool:
        return done.is_set()

    for number in range(20):
        await fence.run(header(f"quick {number}"), quick)
    assert len(fence._requests) <= 5 and fence.running_request_id == "long"
    done.set()
    assert await fence.run(header("quick 19"), quick) is False
    assert await fence.run(header("quick 0"), quick) is True
    steps.release.set()
    assert await running == 1
    for number in range(9):
        await fence.run(header(run_id=f"run {number}"), quick)
    assert len(fence._epochs) == 2


def feeding(feed_to: list[ProgressFeed], steps: Steps) -> Callable[[ProgressFeed], Awaitable[int]]:
    async def step(progress: ProgressFeed) -> int:
        feed_to.append(progress)
        return await steps.step()

    return step


async def test_whoever_joins_a_stream_sees_the_progress_of_the_one_step(steps: Steps):
    fence, feeds = Fence(), []
    streams = [fence.stream(header(), feeding(feeds, steps), heartbeat=0.02) for _ in range(2)]
    for stream in streams:
        assert await anext(stream) == ProgressEvent("waiting")
    await asyncio.sleep(0.01)
    (feed,) = feeds
    feed.report("epoch 2 of 4", 3, 8)
    for stream in streams:
        assert await anext(stream) == ProgressEvent("epoch 2 of 4", 3, 8)
    steps.release.set()
    for stream in streams:
        *_, last = [event async for event in stream]
        assert last == Finished(1)


async def test_a_stream_begins_at_once_beats_on_silence_and_ends_with_the_result():
    enough = asyncio.Event()

    async def work() -> str:
        await enough.wait()
        return "result"

    loop = asyncio.get_running_loop()
    began, times, events = loop.time(), [], []
    async for event in stream_with_progress(work(), ProgressFeed("loading"), heartbeat=1.0):
        times.append(loop.time() - began)
        events.append(event)
        if len(events) == 3:
            enough.set()
    assert events == [ProgressEvent("loading")] * 3 + [Finished("result")]
    at_once, beat, next_beat, ended = times
    assert at_once < 0.9 <= beat < 1.9 <= next_beat < 2.9 and ended - next_beat < 0.9


async def test_a_stream_raises_what_the_work_raises():
    async def work() -> str:
        raise FieldError("location.uri", "", "must not be empty")

    with pytest.raises(FieldError):
        async for _ in stream_with_progress(work(), ProgressFeed()):
            pass
