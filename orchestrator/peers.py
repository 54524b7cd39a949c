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

    async def serve_policy(self, location: types_pb2.ModelLocation, header: types_pb2.CallHeader) -> None:
        """Makes every policy replica serve a version; those that do already are left alone."""

        async def load(replica: PolicyClient) -> None:
            served = (await replica.get_policy()).version
            if served != location.version:
                await replica.load_weights(
                    policy_pb2.PolicyServiceLoadWeightsRequest(header=header, location=location)
                )

        await in_parallel(load(replica) for replica in self.policy_replicas)

    async def serve_reference(self, location: types_pb2.ModelLocation, header: types_pb2.CallHeader) -> None:
        """Makes every reference replica serve a version."""

        async def load(replica: ReferenceClient) -> None:
            served = (await replica.get_reference()).version
            if served != location.version:
                await replica.load_weights(
                    reference_pb2.ReferenceServiceLoadWeightsRequest(header=header, location=location)
                )

        await in_parallel(load(replica) for replica in self.reference_replicas)

    async def serve_reward(
        self, scorer: str, location: types_pb2.ModelLocation, header: types_pb2.CallHeader
    ) -> None:
        """Makes every reward replica serve a version of one learned scorer."""

        async def load(replica: RewardClient) -> None:
            hosted = {each.name: each.version for each in (await replica.list_scorers()).scorers}
            if hosted.get(scorer) != location.version:
                await replica.load_weights(
                    reward_pb2.RewardServiceLoadWeightsRequest(
                        header=header, scorer=scorer, location=location
                    )
                )

        await in_parallel(load(replica) for replica in self.reward_replicas)


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
