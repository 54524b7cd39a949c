"""The services a run talks to: one balanced client each, and one per replica for loading weights."""

import asyncio
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from trueline import PolicyClient, ReferenceClient, RewardClient, TrainerClient
from trueline.v1 import policy_pb2, reference_pb2, reward_pb2, types_pb2

C = TypeVar("C")
CLIENTS: dict[str, Any] = {
    "policy": PolicyClient,
    "reference": ReferenceClient,
    "reward": RewardClient,
    "trainer": TrainerClient,
}


class MixedVersions(Exception):
    """Replicas of one service do not serve one version; no round may start."""


@dataclass
class Peers:
    """Clients by service. Calls go to any ready replica; loading goes to every one of them."""

    addresses: dict[str, list[str]]
    policy: PolicyClient = field(init=False)
    reference: ReferenceClient = field(init=False)
    reward: RewardClient = field(init=False)
    trainer: TrainerClient = field(init=False)
    opened: list[Any] = field(default_factory=list)

    async def __aenter__(self) -> "Peers":
        # A recipe without a trainer has no trainer's address, and no stage that would call it.
        for name, client in CLIENTS.items():
            if self.addresses[name]:
                setattr(self, name, self._open(client(self.addresses[name])))
        # An unready replica is hidden from balancing, and it is the one that must load.
        self.policy_replicas = [self._open(PolicyClient.direct(each)) for each in self.addresses["policy"]]
        self.reference_replicas = [
            self._open(ReferenceClient.direct(each)) for each in self.addresses["reference"]
        ]
        self.reward_replicas = [self._open(RewardClient.direct(each)) for each in self.addresses["reward"]]
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self.opened:
            await client.close()

    def _open(self, client: C) -> C:
        self.opened.append(client)
        return client

    async def serve_policy(
        self, location: types_pb2.ModelLocation, header: types_pb2.CallHeader
    ) -> types_pb2.ModelVersion:
        """Makes every policy replica serve what lies there; returns the version that they came to serve."""
        request = policy_pb2.PolicyServiceLoadWeightsRequest(header=header, location=location)

        async def serve(replica: PolicyClient) -> types_pb2.ModelVersion:
            if not is_named(location, (await replica.get_policy()).version):
                return (await replica.load_weights(request)).version
            return location.version

        return the_one(await in_parallel(serve(replica) for replica in self.policy_replicas))

    async def serve_reference(
        self, location: types_pb2.ModelLocation, header: types_pb2.CallHeader
    ) -> types_pb2.ModelVersion:
        """Makes every reference replica serve what lies there."""
        request = reference_pb2.ReferenceServiceLoadWeightsRequest(header=header, location=location)

        async def serve(replica: ReferenceClient) -> types_pb2.ModelVersion:
            if not is_named(location, (await replica.get_reference()).version):
                return (await replica.load_weights(request)).version
            return location.version

        return the_one(await in_parallel(serve(replica) for replica in self.reference_replicas))

    async def serve_reward(
        self, scorer: str, location: types_pb2.ModelLocation, header: types_pb2.CallHeader
    ) -> types_pb2.ModelVersion:
        """Makes every reward replica serve what lies there as one of its learned scorers."""
        request = reward_pb2.RewardServiceLoadWeightsRequest(header=header, scorer=scorer, location=location)

        async def serve(replica: RewardClient) -> types_pb2.ModelVersion:
            hosted = {each.name: each.version for each in (await replica.list_scorers()).scorers}
            if not is_named(location, hosted.get(scorer, types_pb2.ModelVersion())):
                return (await replica.load_weights(request)).version
            return location.version

        return the_one(await in_parallel(serve(replica) for replica in self.reward_replicas))


def is_named(location: types_pb2.ModelLocation, served: types_pb2.ModelVersion) -> bool:
    """True when the location names the version that is served. A plain directory is named by nothing."""
    return location.HasField("version") and location.version == served


def the_one(versions: list[types_pb2.ModelVersion]) -> types_pb2.ModelVersion:
    """The version that all replicas came to serve. MixedVersions when they differ."""
    if any(version != versions[0] for version in versions):
        served = ", ".join(f"{each.model}@{each.number} ({each.sha256[:12]})" for each in versions)
        raise MixedVersions(f"replicas serve different versions: {served}")
    return versions[0]


async def in_parallel(work: Iterable[Awaitable[Any]]) -> list[Any]:
    """Runs coroutines at once and returns their results in order; the first failure cancels the rest.

    Raises that first failure itself and not an ExceptionGroup, so that callers can name what they catch.
    """
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
