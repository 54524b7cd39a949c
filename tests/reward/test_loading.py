"""Loading over the wire: swaps between batches, and a failed load leaves the old version serving."""

import asyncio
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from services.logs import JsonFormatter
from services.weights import MANIFEST, POINTER, PublishedVersion, publish
from tests.reward.hosting import header, location, publish_reward, reward_service, version_pb
from tests.tiny_models import write_tiny_model
from trueline import CallError, RewardClient
from trueline.v1 import types_pb2

ITEMS = [([{"role": "user", "content": "w1 w2"}], "w3")]


async def test_a_service_with_nothing_to_serve_is_not_serving_until_a_load(tmp_path: Path):
    published = publish_reward(tmp_path)
    async with reward_service(rules=()) as (client, _):
        assert (await client.health(), await client.health("")) == ("NOT_SERVING", "SERVING")
        await client.load_weights(header=header("load"), location=location(published))
        assert await client.health() == "SERVING"


async def test_a_load_reports_progress_then_what_is_served(tmp_path: Path):
    first, second = publish_reward(tmp_path, 1), publish_reward(tmp_path, 2)
    activities: list[str] = []
    async with reward_service(learned=(("reward", first.path),)) as (client, _):
        before = await client.score("reward", ITEMS)
        loaded = await client.load_weights(
            header=header("load"),
            scorer="reward",
            location=location(second),
            on_progress=lambda progress: activities.append(progress.activity),
        )
        after = await client.score("reward", ITEMS, expected_version=version_pb(second))
    assert activities
    assert loaded.version == after.scorer.version == version_pb(second)
    assert loaded.bytes == second.bytes and loaded.seconds > 0
    assert before.scores[0].value.raw != after.scores[0].value.raw


async def test_every_batch_is_of_the_one_version_it_names_however_loads_fall(tmp_path: Path):
    versions = {number: publish_reward(tmp_path, number) for number in (1, 2)}
    async with reward_service(learned=(("reward", versions[1].path),)) as (client, _):
        truth = {}
        for number in (2, 1):
            await client.load_weights(header=header(f"{number}"), location=location(versions[number]))
            truth[number] = (await client.score("reward", ITEMS)).scores[0]

        async def swap() -> None:
            for turn in range(6):
                await client.load_weights(
                    header=header(f"swap {turn}"), location=location(versions[turn % 2 + 1])
                )

        swapping = asyncio.create_task(swap())
        seen = set()
        while not swapping.done():
            reply = await client.score("reward", ITEMS * 8)
            seen.add(reply.scorer.version.number)
            raw = [score.value.raw for score in reply.scores]
            assert raw == pytest.approx([truth[reply.scorer.version.number].value.raw] * 8, abs=1e-5)
        await swapping
    assert seen == {1, 2}


def damage(path: Path) -> str:
    file = path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    return file.name


def cut_off(path: Path) -> str:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return file.name


def lose_tokenizer(path: Path) -> str:
    (path / "tokenizer.json").unlink()
    return "tokenizer.json"


def lose_manifest(path: Path) -> str:
    (path / MANIFEST).unlink()
    return MANIFEST


def lose_all(path: Path) -> str:
    shutil.rmtree(path)
    return path.name


def change_config(path: Path) -> str:
    file = path / "config.json"
    file.write_text(file.read_text().replace("64", "63", 1))
    return file.name


@pytest.mark.parametrize("harm", [damage, cut_off, lose_tokenizer, lose_manifest, lose_all, change_config])
async def test_a_failed_load_names_the_file_and_leaves_the_old_version_serving(
    tmp_path: Path, harm: Callable[[Path], str]
):
    first, second = publish_reward(tmp_path, 1), publish_reward(tmp_path, 2)
    file = harm(second.path)
    async with reward_service(learned=(("reward", first.path),)) as (client, _):
        before = await client.score("reward", ITEMS)
        with pytest.raises(CallError) as refused:
            await client.load_weights(header=header("load"), location=location(second))
        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert file in refused.value.message
        after = await client.score("reward", ITEMS, expected_version=version_pb(first))
        assert (after.scores, await client.health()) == (before.scores, "SERVING")


@pytest.mark.parametrize(
    "fitted", [{"gain": 1.0}, {"gain": -1.0, "bias": 0.0}, {"gain": "much", "bias": 0.0}, [1.0, 0.0]]
)
async def test_an_impossible_normalisation_is_refused(tmp_path: Path, fitted: object):
    published = publish_reward(tmp_path, extra={"normalisation": fitted})
    async with reward_service() as (client, _):
        with pytest.raises(CallError, match=r"extra\.normalisation"):
            await client.load_weights(header=header("load"), location=location(published))


async def test_a_causal_model_is_no_reward_model(tmp_path: Path):
    def write(path: Path) -> None:
        write_tiny_model(path)

    published = publish(tmp_path, "reward", 1, write, parent=None)
    async with reward_service() as (client, _):
        with pytest.raises(CallError, match=r"score\.weight"):
            await client.load_weights(header=header("load"), location=location(published))


async def test_a_load_of_another_version_than_the_named_one_is_refused(tmp_path: Path):
    first, second = publish_reward(tmp_path, 1), publish_reward(tmp_path, 2)
    crossed = types_pb2.ModelLocation(version=version_pb(first), uri=str(second.path))
    async with reward_service() as (client, _):
        with pytest.raises(CallError, match="expected reward@1"):
            await client.load_weights(header=header("load"), location=crossed)


async def test_a_malformed_load_names_its_field(tmp_path: Path):
    good = location(publish_reward(tmp_path))
    relative = types_pb2.ModelLocation(version=good.version, uri="models/reward")
    unnamed = types_pb2.ModelLocation(version=types_pb2.ModelVersion(number=1), uri=good.uri)
    cases = [
        (header(""), "reward", good, "header.request_id"),
        (header("load", run_id=""), "reward", good, "header.run_id"),
        (header("load"), "words", good, "scorer"),
        (header("load"), "reward", relative, "location.uri"),
        (header("load"), "reward", unnamed, "location.version.model"),
    ]
    async with reward_service() as (client, _):
        for head, scorer, where, field in cases:
            with pytest.raises(CallError) as refused:
                await client.load_weights(header=head, scorer=scorer, location=where)
            assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
            assert [name for name, _ in refused.value.field_violations] == [field]


async def test_a_load_may_be_repeated_and_a_stale_epoch_is_refused(tmp_path: Path):
    first, second = publish_reward(tmp_path, 1), publish_reward(tmp_path, 2)
    async with reward_service() as (client, _):
        for _ in range(2):
            loaded = await client.load_weights(header=header("one", epoch=2), location=location(first))
            assert loaded.version == version_pb(first)
        with pytest.raises(CallError) as stale:
            await client.load_weights(header=header("two", epoch=1), location=location(second))
        assert (stale.value.code, stale.value.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "stale_epoch",
        )
        await client.score("reward", ITEMS, expected_version=version_pb(first))


async def wait_for_version(client: RewardClient, published: PublishedVersion) -> None:
    for _ in range(200):
        listed = {scorer.name: scorer for scorer in (await client.list_scorers()).scorers}
        if listed["reward"].version == version_pb(published):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{published.version} was never served")


async def test_a_followed_pointer_is_served_by_itself(tmp_path: Path):
    async with reward_service(rules=(), follow=(("reward", tmp_path / "reward"),)) as (client, _):
        assert await client.health() == "NOT_SERVING"
        # UNAVAILABLE until then, which the client tries again.
        early = asyncio.create_task(client.score("reward", ITEMS, deadline=30.0))
        await asyncio.sleep(0.1)
        first = publish_reward(tmp_path, 1)
        await wait_for_version(client, first)
        assert await client.health() == "SERVING"
        assert (await early).scorer.version == version_pb(first)
        # A pointer to what cannot be loaded leaves the old version serving; the next good one is taken.
        pointer = tmp_path / "reward" / POINTER
        pointer.write_text(json.dumps({"number": 2, "sha256": "0" * 64}))
        await asyncio.sleep(1.0)
        await client.score("reward", ITEMS, expected_version=version_pb(first))
        await wait_for_version(client, publish_reward(tmp_path, 3))


async def test_metrics_count_items_by_what_came_of_them(tmp_path: Path):
    published = publish_reward(tmp_path, 3, context=8)
    long = ([{"role": "user", "content": "w1"}], " ".join(["w2"] * 20))
    async with reward_service(learned=(("reward", published.path),)) as (client, server):
        await client.score("reward", [*ITEMS, ("", "w1"), long])
        value = server.host.registry.get_sample_value
        items, scorer = "trueline_reward_items_total", {"scorer": "reward"}
        assert value(items, {**scorer, "outcome": "scored"}) == 2
        assert value(items, {**scorer, "outcome": "empty_prompt"}) == 1
        assert value("trueline_reward_tokens_total", scorer) == 6 + 8
        assert value("trueline_reward_truncated_items_total", scorer) == 1
        assert value("trueline_weights_version", {"model": "reward"}) == 3


async def test_a_loads_log_lines_name_its_run_and_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    published, lines = publish_reward(tmp_path), list[str]()
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: lines.append(JsonFormatter().format(record)))
    monkeypatch.setattr(logging.root, "handlers", [handler])
    monkeypatch.setattr(logging.root, "level", logging.INFO)
    async with reward_service() as (client, _):
        await client.load_weights(header=header("r7/load", run_id="r7"), location=location(published))
        await client.list_scorers()
    named = [line for line in map(json.loads, lines) if line.get("run") == "r7"]
    assert [line["message"] for line in named] == ["serving", "call"]
    assert [line["request_id"] for line in named] == ["r7/load"] * 2
