"""The model that a replica serves: other work goes on while one loads, and loads wait for each other."""

import asyncio
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.errors import NotReadyError
from services.serving_model import LoadMetrics, ServingModel
from services.weights import Manifest
from tests.tiny_models import write_tiny_model


def slow_load(path: Path, manifest: Manifest) -> str:
    time.sleep(0.3)
    return path.name


@pytest.fixture
def serving() -> ServingModel[str]:
    return ServingModel("m", slow_load, LoadMetrics(CollectorRegistry()))


async def test_the_event_loop_goes_on_while_a_model_loads(tmp_path: Path, serving: ServingModel[str]) -> None:
    load = asyncio.create_task(serving.load(write_tiny_model(tmp_path / "a", layers=1), None))
    longest = 0.0
    while not load.done():
        before = time.perf_counter()
        await asyncio.sleep(0.005)
        longest = max(longest, time.perf_counter() - before)
    assert longest < 0.2
    assert serving.current().model == "a"


async def test_before_the_first_load_it_is_not_ready(serving: ServingModel[str]) -> None:
    assert serving.version is None
    with pytest.raises(NotReadyError, match="no version is loaded yet"):
        serving.current()


async def test_of_two_loads_at_once_the_later_one_serves(tmp_path: Path, serving: ServingModel[str]) -> None:
    paths = [write_tiny_model(tmp_path / name, layers=1, seed=seed) for seed, name in enumerate("ab")]
    loaded = await asyncio.gather(*(serving.load(path, None) for path in paths))
    assert [each.version.model for each in loaded] == ["a", "b"]
    assert serving.current().model == "b" and serving.swaps == 2


async def test_a_version_that_is_served_already_is_not_loaded_again(
    tmp_path: Path, serving: ServingModel[str]
) -> None:
    path = write_tiny_model(tmp_path / "a", layers=1)
    first = await serving.load(path, None)
    again = await serving.load(path, first.version)
    assert again.version == first.version and again.seconds == 0
    assert serving.swaps == 1


async def test_a_load_that_fails_keeps_what_is_served(tmp_path: Path) -> None:
    def load(path: Path, manifest: Manifest) -> str:
        if manifest.model == "bad":
            raise MemoryError
        return path.name

    serving: ServingModel[str] = ServingModel("m", load, LoadMetrics(CollectorRegistry()))
    await serving.load(write_tiny_model(tmp_path / "good", layers=1), None)
    with pytest.raises(MemoryError):
        await serving.load(write_tiny_model(tmp_path / "bad", layers=1), None)
    assert serving.current().model == "good"
