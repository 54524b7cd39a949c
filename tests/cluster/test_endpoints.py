"""Every pod of a Service by its EndpointSlices: pods that come and go, and watches that end in every way."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from orchestrator.cluster.api import Api
from orchestrator.cluster.endpoints import ClusterReplicas, Watching, cluster_replicas, rollout_lack
from orchestrator.replicas import ReplicasMissing, find_replicas
from tests.cluster.api_server import ApiServer, slice_of, stateful_set
from tests.cluster.test_election import until

QUICK = Watching(renew=60, silence=2.0, pause=0.05)
ADDRESSES = {"policy": ["kubernetes:///policy:50051"], "trainer": ["trainer-0.trainer:50054"]}


@asynccontextmanager
async def replicas(
    connect: Callable[[], Api],
    watching: Watching = QUICK,
    patience: float = 10.0,
    told: list[str] | None = None,
) -> AsyncIterator[ClusterReplicas]:
    tell = (told if told is not None else []).append
    stopping = asyncio.Event()
    async with cluster_replicas(ADDRESSES, patience, tell, stopping, connect(), watching) as found:
        yield found


async def seen(found: ClusterReplicas, *hosts: str) -> float:
    """Seconds until exactly these pods of policy are seen."""
    wanted = [f"{host}:50051" for host in hosts]
    return await asyncio.to_thread(until, lambda: found.of("policy") == wanted)


def roll_out(server: ApiServer, *ips: str) -> None:
    server.put("endpointslices", slice_of("policy", list(ips)))
    server.put("statefulsets", stateful_set("policy", len(ips)))


async def test_pods_that_come_and_go_are_followed_unready_ones_too(server, connect) -> None:
    roll_out(server, "10.0.0.1")
    server.put("endpointslices", slice_of("other", ["10.9.9.9"]))
    async with replicas(connect) as found:
        await seen(found, "10.0.0.1")
        assert found.of("trainer") == ["trainer-0.trainer:50054"]
        assert (found.server_name("policy"), found.server_name("trainer")) == ("policy", "")
        server.put("endpointslices", slice_of("policy", ["10.0.0.1", "10.0.0.2"]))
        await seen(found, "10.0.0.1", "10.0.0.2")
        # A second slice, a pod that is about to go, and one known by both families of addresses.
        second = slice_of("policy", ["10.0.0.3", "10.0.0.4"], terminating=("10.0.0.4",), suffix="y")
        server.put("endpointslices", second)
        sixth = slice_of("policy", ["fd00::3"], suffix="z") | {"addressType": "IPv6"}
        sixth["endpoints"][0]["targetRef"]["uid"] = "policy-10.0.0.3"
        server.put("endpointslices", sixth)
        await seen(found, "10.0.0.1", "10.0.0.2", "10.0.0.3")
        server.delete("endpointslices", "policy-x")
        await seen(found, "10.0.0.3")


async def test_a_watch_that_ends_silently_goes_on_where_it_stood(server, connect) -> None:
    roll_out(server, "10.0.0.1")
    async with replicas(connect) as found:
        for number in range(2, 6):
            server.end_watches()
            server.put("endpointslices", slice_of("policy", ["10.0.0.1", f"10.0.0.{number}"]))
            await seen(found, "10.0.0.1", f"10.0.0.{number}")
        assert server.asked.count(("list", "endpointslices")) == 1, "no list was needed"


async def test_a_watch_that_is_told_410_lists_anew(server, connect) -> None:
    roll_out(server, "10.0.0.1")
    async with replicas(connect) as found:
        await asyncio.to_thread(until, lambda: server.watches == 1)
        server.frozen = True  # the watch stays where it is
        server.put("endpointslices", slice_of("policy", ["10.0.0.2"]))
        server.forget()
        server.frozen = False
        server.end_watches()
        await seen(found, "10.0.0.2")
        assert server.asked.count(("list", "endpointslices")) == 2


async def test_a_watch_that_says_nothing_at_all_is_given_up(server, connect) -> None:
    roll_out(server, "10.0.0.1")
    async with replicas(connect) as found:
        await asyncio.to_thread(until, lambda: server.watches == 1)
        server.frozen = True  # a connection that died without a word
        server.put("endpointslices", slice_of("policy", ["10.0.0.2"]))
        took = await seen(found, "10.0.0.2")
        assert 0.5 < took < 3 * QUICK.silence
        server.frozen = False


async def test_while_the_api_server_is_away_the_last_addresses_stay(server, connect) -> None:
    roll_out(server, "10.0.0.1")
    async with replicas(connect) as found:
        with server.away():
            server.put("endpointslices", slice_of("policy", ["10.0.0.2"]))
            await asyncio.sleep(1.0)
            assert found.of("policy") == ["10.0.0.1:50051"]
        await seen(found, "10.0.0.2")


async def test_a_run_waits_until_every_pod_of_the_newest_revision_has_an_address(server, connect) -> None:
    told: list[str] = []
    server.put("statefulsets", stateful_set("policy", 2, updated=1))

    async def roll() -> None:
        await asyncio.sleep(1.5)
        server.put("endpointslices", slice_of("policy", ["10.0.0.1", "10.0.0.2"]))
        server.put("statefulsets", stateful_set("policy", 2))

    rolling = asyncio.ensure_future(roll())
    async with replicas(connect, told=told) as found:
        assert len(found.of("policy")) == 2
    await rolling
    assert told == ["waiting for services (policy: 0 of 2 pods with an address)"]


async def test_a_rollout_that_does_not_come_about_ends_the_wait(server, connect) -> None:
    server.put("statefulsets", stateful_set("policy", 1))
    with pytest.raises(
        ReplicasMissing, match=r"not rolled out after 1 s: policy: 0 of 1 pods with an address"
    ):
        async with replicas(connect, patience=1.0):
            pass


def test_a_rollout_lacks_what_its_controller_has_not_done() -> None:
    assert rollout_lack(None, 0) == "no pod yet" and rollout_lack(None, 1) == ""
    stale = stateful_set("policy", 1)
    stale["metadata"]["generation"] = 2
    assert "not been looked at" in rollout_lack(stale, 1)
    assert rollout_lack(stateful_set("policy", 2), 3) != "", "an old pod is still there"
    assert rollout_lack(stateful_set("policy", 2), 2) == ""
    # The controller replaced one pod and waits until it is ready, which takes weights: ours to load.
    amid = stateful_set("policy", 2)
    amid["status"] |= {"updatedReplicas": 1, "readyReplicas": 0}
    assert rollout_lack(amid, 2) == ""


async def test_addresses_that_stay_need_no_cluster() -> None:
    async with find_replicas({"policy": ["a:1", "b:2"]}, 1.0, print, asyncio.Event()) as where:
        assert where.of("policy") == ["a:1", "b:2"] and where.of("judge") == []
