"""Weights into every pod, by real calls: pods that join and go between rounds, and mixed versions."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from orchestrator.cluster.endpoints import cluster_replicas
from orchestrator.mending import trouble_of
from orchestrator.peers import MixedVersions, Peers
from orchestrator.recipe_settings import Supervision
from tests.cluster.api_server import slice_of, stateful_set
from tests.cluster.test_election import until
from tests.cluster.test_endpoints import QUICK
from tests.orchestrator.test_mending import VersionedPolicy, located, replica
from trueline import CallError
from trueline.v1 import policy_pb2, types_pb2

HEADER = types_pb2.CallHeader(run_id="r", epoch=1, request_id="load")
ONE, TWO, THREE = "127.0.0.1", "127.0.0.2", "127.0.0.3"  # three pods, all on one port as in a cluster


class Pods:
    """Policy pods of a cluster, and a run's peers that look for them there."""

    def __init__(self, server: Any, connect: Any, opened: AsyncExitStack) -> None:
        self.server, self.connect, self.opened = server, connect, opened
        self.told: list[str] = []
        self.port = 0

    async def start(self, host: str) -> VersionedPolicy:
        address, servicer = await self.opened.enter_async_context(replica(host, self.port))
        self.port = int(address.rpartition(":")[2])
        return servicer

    def there(self, *hosts: str) -> None:
        """What the EndpointSlice says from now on."""
        self.server.put("endpointslices", slice_of("policy", list(hosts)))
        self.server.put("statefulsets", stateful_set("policy", len(hosts)))

    async def peers(self) -> Peers:
        addresses = {"policy": [f"kubernetes:///policy:{self.port}"]}
        found = cluster_replicas(addresses, 10.0, self.told.append, asyncio.Event(), self.connect(), QUICK)
        where = await self.opened.enter_async_context(found)
        return await self.opened.enter_async_context(Peers(where, Supervision(), self.told.append))

    async def seen(self, peers: Peers, *hosts: str) -> None:
        wanted = [f"{host}:{self.port}" for host in hosts]
        await asyncio.to_thread(until, lambda: peers.where.of("policy") == wanted)


async def sampled(peers: Peers, calls: int = 8) -> None:
    """A round's calls."""
    for _ in range(calls):
        await peers.policy.generate(policy_pb2.GenerateRequest())


async def test_a_pod_that_joins_gets_the_version_first_and_one_that_goes_leaves_rotation(
    server, connect
) -> None:
    async with AsyncExitStack() as opened:
        pods = Pods(server, connect, opened)
        one, two = await pods.start(ONE), await pods.start(TWO)
        pods.there(ONE, TWO)
        peers = await pods.peers()
        assert (await peers.serve_policy(located(1), HEADER)).number == 1
        assert one.version == two.version == located(1).version and peers.count("policy") == 2

        three = await pods.start(THREE)
        pods.there(ONE, TWO, THREE)
        await pods.seen(peers, ONE, TWO, THREE)
        assert peers.moved("policy") and not peers.moved("reward")
        await sampled(peers)
        assert three.asked == 0 and three.version is None, "no round uses a pod that has not loaded"
        assert (await peers.serve_policy(located(1), HEADER)).number == 1
        assert three.version == located(1).version and peers.count("policy") == 3
        assert not peers.moved("policy")

        pods.there(TWO, THREE)
        await pods.seen(peers, TWO, THREE)
        await peers.serve_policy(located(2), HEADER)
        assert one.version == located(1).version, "it is about to go, and was left alone"
        one.asked = 0
        await sampled(peers)
        assert one.asked == 0 and pods.told[-1] == f"policy: {ONE}:{pods.port} gone, out of rotation"


async def test_no_round_starts_on_mixed_versions(server, connect) -> None:
    async with AsyncExitStack() as opened:
        pods = Pods(server, connect, opened)
        one, two = await pods.start(ONE), await pods.start(TWO)
        two.loads = located(7).version  # whatever it is told
        pods.there(ONE, TWO)
        peers = await pods.peers()
        with pytest.raises(MixedVersions, match="policy@1 .*policy@7"):
            await peers.serve_policy(located(1), HEADER)
        assert one.asked == two.asked == 0


async def test_a_service_that_has_lost_all_its_pods_is_waited_for(server, connect) -> None:
    async with AsyncExitStack() as opened:
        pods = Pods(server, connect, opened)
        one = await pods.start(ONE)
        pods.there(ONE)
        peers = await pods.peers()
        pods.there()
        await pods.seen(peers)
        with pytest.raises(CallError, match="no replica just now") as caught:
            await peers.serve_policy(located(1), HEADER)
        assert trouble_of(caught.value) is not None
        pods.there(ONE)
        await pods.seen(peers, ONE)
        assert (await peers.serve_policy(located(1), HEADER)).number == 1 and one.version is not None
