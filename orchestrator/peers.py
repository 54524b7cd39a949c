"""The services a run talks to: one balanced client each, and one per replica for loading weights."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import grpc

from orchestrator.mending import first_line, trouble_of
from orchestrator.recipe_settings import Supervision
from orchestrator.replicas import Replicas, Static
from trueline import (
    Access,
    CallError,
    JudgeClient,
    PolicyClient,
    ReferenceClient,
    RewardClient,
    TrainerClient,
)
from trueline.v1 import judge_pb2, policy_pb2, reference_pb2, reward_pb2, types_pb2

C = TypeVar("C")
CLIENTS: dict[str, Any] = {
    "policy": PolicyClient,
    "reference": ReferenceClient,
    "reward": RewardClient,
    "judge": JudgeClient,
    "trainer": TrainerClient,
}


# One that is not in rotation yet is asked so long whether it is there: no round waits for a pod that starts.
JOIN_SECONDS = 2.0


class MixedVersions(Exception):
    """Replicas of one service do not serve one version; no round may start."""


@dataclass
class Peers:
    """Clients by service. Calls go in turn to the replicas that serve what was last loaded; loading to all.

    A replica that could not load is out of rotation until it can: no round starts on mixed versions. Replicas
    that come or go are noticed at each load, and by `moved`.
    """

    replicas: Replicas | Mapping[str, list[str]]
    supervision: Supervision = field(default_factory=Supervision)
    tell: Callable[[str], None] = lambda text: None
    access: dict[str, Access] = field(default_factory=dict)
    policy: PolicyClient = field(init=False)
    reference: ReferenceClient = field(init=False)
    reward: RewardClient = field(init=False)
    judge: JudgeClient = field(init=False)
    trainer: TrainerClient = field(init=False)
    opened: list[Any] = field(default_factory=list)
    rotation: dict[str, list[str]] = field(default_factory=dict)
    balanced: dict[tuple[str, ...], Any] = field(default_factory=dict)
    direct: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.where: Replicas = Static(self.replicas) if isinstance(self.replicas, Mapping) else self.replicas

    async def __aenter__(self) -> "Peers":
        # A recipe without a trainer has no trainer's address, and no stage that would call it.
        for name in CLIENTS:
            if addresses := self.where.of(name):
                self._rotate(name, addresses)
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self.opened:
            await client.close()

    def reconnect(self, service: str) -> None:
        """Has the next calls to a service open new connections: the old ones may be half-open."""
        for client in self.opened:
            if isinstance(client, CLIENTS[service]):
                client.reconnect()

    def count(self, service: str) -> int:
        """How many replicas calls go to in turn."""
        return len(self.rotation.get(service, ()))

    def moved(self, service: str) -> bool:
        """Whether replicas have come or gone since a model was last loaded into all of them."""
        return service in self.direct and set(self.where.of(service)) != set(self.direct[service])

    def _direct(self, service: str) -> dict[str, Any]:
        """A client of each replica there is now: an unready one must load, and is hidden from balancing."""
        before, kind = self.direct.get(service, {}), CLIENTS[service]
        self.direct[service] = {
            each: before.get(each) or self._open(kind.direct(each, **self._limits(service)))
            for each in self.where.of(service)
        }
        for gone in before.keys() - self.direct[service].keys():
            before[gone].reconnect()  # closed at the end: a load of another model may be under way on it
        return self.direct[service]

    def _rotate(self, service: str, addresses: list[str]) -> None:
        """Balances calls over these replicas from now on."""
        if self.rotation.get(service) != addresses:
            self.rotation[service] = addresses
            key = (service, *addresses)
            if key not in self.balanced:
                self.balanced[key] = self._open(CLIENTS[service](addresses, **self._limits(service)))
            setattr(self, service, self.balanced[key])

    def _limits(self, service: str) -> dict[str, Any]:
        access = self.access.get(service, Access())
        if not access.server_name:  # pods are called by numbers, which are in no certificate
            access = replace(access, server_name=self.where.server_name(service))
        return {
            "access": access,
            "silence": self.supervision.silence_seconds,
            "standstill": self.supervision.standstill_seconds,
        }

    def _open(self, client: C) -> C:
        self.opened.append(client)
        return client

    async def _load(
        self,
        service: str,
        request: Any,
        served: Callable[[Any], Awaitable[types_pb2.ModelVersion]],
    ) -> types_pb2.ModelVersion:
        """The version that all replicas came to serve which could; the others are out of rotation.

        A replica that serves it already, by `served`, loads nothing. Raises the first failure where none
        could, or where one is none that waiting cures.
        """
        location, replicas = request.location, self._direct(service)
        if not replicas:
            raise nobody(service)

        in_rotation = self.rotation.get(service, [])

        async def serve(address: str, replica: Any) -> types_pb2.ModelVersion:
            if address not in in_rotation:
                await replica.health("", deadline=JOIN_SECONDS)
            if is_named(location, await served(replica)):
                return location.version
            return (await replica.load_weights(request)).version

        outcomes = await asyncio.gather(*(serve(*each) for each in replicas.items()), return_exceptions=True)
        failures = [each for each in outcomes if isinstance(each, BaseException)]
        for failure in failures:
            if len(failures) == len(outcomes) or trouble_of(failure) is None:
                raise failure
        versions = [each for each in outcomes if isinstance(each, types_pb2.ModelVersion)]
        serving = [
            address
            for address, outcome in zip(replicas, outcomes, strict=True)
            if isinstance(outcome, types_pb2.ModelVersion)
        ]
        version = the_one(versions)
        self._tell_of(service, serving, list(replicas), failures)
        self._rotate(service, serving)
        return version

    def _tell_of(
        self, service: str, serving: list[str], there: list[str], failures: list[BaseException]
    ) -> None:
        before = self.rotation.get(service, [])
        if set(serving) - set(before):
            self.tell(f"{service}: {', '.join(serving)} of {', '.join(there)} in rotation")
        if gone := set(before) - set(there):
            self.tell(f"{service}: {', '.join(sorted(gone))} gone, out of rotation")
        for failure in failures:
            if set(before) - set(serving) and isinstance(failure, CallError):
                self.tell(f"{first_line(failure)}; out of rotation, the other replicas go on without it")

    async def serve_policy(
        self, location: types_pb2.ModelLocation, header: types_pb2.CallHeader
    ) -> types_pb2.ModelVersion:
        """Makes every policy replica serve what lies there; returns the version that they came to serve."""

        async def served(replica: PolicyClient) -> types_pb2.ModelVersion:
            return (await replica.get_policy()).version

        request = policy_pb2.PolicyServiceLoadWeightsRequest(header=header, location=location)
        return await self._load("policy", request, served)

    async def serve_reference(
        self, location: types_pb2.ModelLocation, header: types_pb2.CallHeader
    ) -> types_pb2.ModelVersion:
        """Makes every reference replica serve what lies there."""

        async def served(replica: ReferenceClient) -> types_pb2.ModelVersion:
            return (await replica.get_reference()).version

        request = reference_pb2.ReferenceServiceLoadWeightsRequest(header=header, location=location)
        return await self._load("reference", request, served)

    async def serve_reward(
        self, scorer: str, location: types_pb2.ModelLocation, header: types_pb2.CallHeader
    ) -> types_pb2.ModelVersion:
        """Makes every reward replica serve what lies there as one of its learned scorers."""

        async def served(replica: RewardClient) -> types_pb2.ModelVersion:
            hosted = {each.name: each.version for each in (await replica.list_scorers()).scorers}
            return hosted.get(scorer, types_pb2.ModelVersion())

        request = reward_pb2.RewardServiceLoadWeightsRequest(header=header, scorer=scorer, location=location)
        return await self._load("reward", request, served)

    async def scorer_version(self, scorer: str) -> types_pb2.ModelVersion:
        """The version of a scorer as it is hosted; an empty one for what has none."""
        scorers = (await self.reward.list_scorers()).scorers
        hosted = {each.name: each.version for each in scorers if each.HasField("version")}
        return hosted.get(scorer, types_pb2.ModelVersion())

    async def serve_judge(
        self, location: types_pb2.ModelLocation, header: types_pb2.CallHeader
    ) -> types_pb2.ModelVersion:
        """Makes every judge replica read its constitution with what lies there."""

        async def served(replica: JudgeClient) -> types_pb2.ModelVersion:
            return (await replica.get_constitution()).judge.version

        request = judge_pb2.JudgeServiceLoadWeightsRequest(header=header, location=location)
        return await self._load("judge", request, served)


def nobody(service: str) -> CallError:
    """What a call to a service without replicas gives: it may come back, so it is waited for."""
    called = {"service": CLIENTS[service].SERVICE.full_name, "method": "LoadWeights", "target": service}
    return CallError(grpc.StatusCode.UNAVAILABLE, f"{service} has no replica just now", **called)


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
