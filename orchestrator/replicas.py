"""Where the replicas of services are: at addresses that stay, or where a cluster says that they are just now.

where = Static({"policy": ["127.0.0.1:50051"]})
where.of("policy")                              ["127.0.0.1:50051"]

async with find_replicas({"policy": ["kubernetes:///policy:50051"]}, 600, print, stopping) as where:
    where.of("policy")                          ["10.244.1.7:50051", "10.244.2.3:50051"], unready ones too
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

SCHEME = "kubernetes:///"  # of an address that names a Service, whose pods are looked up and followed

Tell = Callable[[str], None]


class ReplicasMissing(Exception):
    """A service has fewer replicas than it should, and waiting did not cure it."""


class Replicas(Protocol):
    """Where to find the replicas of a service."""

    def of(self, service: str) -> list[str]:
        """Addresses (host:port) of every replica there is now, ready or not, in a fixed order."""

    def server_name(self, service: str) -> str:
        """The name in their certificates where the addresses are mere numbers; "" where it is the host."""


@dataclass(frozen=True)
class Static:
    """Replicas that stay at their addresses."""

    addresses: Mapping[str, Sequence[str]]

    def of(self, service: str) -> list[str]:
        """See Replicas."""
        return list(self.addresses.get(service, ()))

    def server_name(self, service: str) -> str:
        """See Replicas."""
        return ""


def in_cluster(addresses: Sequence[str]) -> bool:
    """True where the addresses name a Service of a cluster."""
    return any(each.startswith(SCHEME) for each in addresses)


def split_service(address: str) -> tuple[str, int]:
    """("policy", 50051) of "kubernetes:///policy:50051"."""
    name, _, port = address.removeprefix(SCHEME).rpartition(":")
    return name, int(port)


@contextlib.asynccontextmanager
async def find_replicas(
    addresses: Mapping[str, Sequence[str]], patience: float, tell: Tell, stopping: asyncio.Event
) -> AsyncIterator[Replicas]:
    """The replicas of all services, once all are rolled out. ReplicasMissing after `patience` seconds."""
    if not any(in_cluster(each) for each in addresses.values()):
        yield Static(addresses)
        return
    from orchestrator.cluster.endpoints import cluster_replicas  # needs the extra `kubernetes`

    async with cluster_replicas(addresses, patience, tell, stopping) as replicas:
        yield replicas
