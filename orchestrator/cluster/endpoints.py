"""Every pod of a Service, ready or not, by its EndpointSlices, which are listed once and then watched.

A watch may end at any time: silently, with 410 (its place is forgotten), or by a connection that dies without
a word. Each has the next watch begin where the last one stood, or the list be read anew. While the API server
is away the last known addresses stay; a pod that is gone then is found out by the call that fails.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubernetes.client.exceptions import ApiException

from orchestrator.cluster.api import FAILURES, GONE, Api, Object
from orchestrator.cluster.election import told
from orchestrator.replicas import ReplicasMissing, Static, Tell, in_cluster, split_service

log = logging.getLogger(__name__)

SERVICE_LABEL = "kubernetes.io/service-name"
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Watching:
    """Seconds of a watch."""

    renew: int = 240
    """After which the server ends it."""
    silence: float = 300.0
    """Of nothing at all, bookmarks included, after which it is given up."""
    pause: float = 1.0
    """Before a list that failed is asked for again."""


class SliceWatch:
    """The EndpointSlices of some Services as they are now, kept by a thread."""

    def __init__(self, api: Api, services: Sequence[str], watching: Watching | None = None) -> None:
        self.api, self.watching = api, watching or Watching()
        self.selector = f"{SERVICE_LABEL} in ({','.join(sorted(services))})"
        self.listed = threading.Event()
        self._slices: dict[str, Object] = {}
        self._lock, self._stopping = threading.Lock(), threading.Event()
        # A daemon: a thread that waits for the next event cannot be called back, and holds nothing.
        self._thread = threading.Thread(target=self._run, name="endpoints", daemon=True)

    def start(self) -> None:
        """Begins to list and watch."""
        self._thread.start()

    def stop(self) -> None:
        """Has the thread end with its next event."""
        self._stopping.set()

    def slices(self, service: str) -> list[Object]:
        """The slices of one Service."""
        with self._lock:
            found = list(self._slices.values())
        return [each for each in found if each["metadata"].get("labels", {}).get(SERVICE_LABEL) == service]

    def _run(self) -> None:
        failing = False
        while not self._stopping.is_set():
            try:
                version = self._list()
                failing = False
                while not self._stopping.is_set():
                    version = self._watch(version)
            except FAILURES as error:
                if isinstance(error, ApiException) and error.status == GONE:
                    continue  # a place that the server has forgotten: what there is now is listed
                if not failing:
                    log.warning("the EndpointSlices cannot be read: %s", told(error))
                failing = True
                self._stopping.wait(self.watching.pause)

    def _list(self) -> str:
        found = self.api.endpoint_slices(self.selector)
        with self._lock:
            self._slices = {each["metadata"]["name"]: each for each in found["items"]}
        self.listed.set()
        return str(found["metadata"]["resourceVersion"])

    def _watch(self, version: str) -> str:
        """Follows changes until the watch ends; returns the version it came to."""
        began = time.monotonic()
        events = self.api.watch_endpoint_slices(
            self.selector, version, self.watching.renew, self.watching.silence
        )
        with contextlib.closing(events):  # type: ignore[type-var]
            for event in events:
                version = self._take(event)
                if self._stopping.is_set():
                    break
        if time.monotonic() - began < self.watching.pause:
            self._stopping.wait(
                self.watching.pause
            )  # a server that ends every watch is not asked without rest
        return version

    def _take(self, event: Object) -> str:
        found, kind = event["object"], event["type"]
        if kind == "ERROR":
            raise ApiException(status=found.get("code"), reason=found.get("reason"))
        name = found["metadata"].get("name")
        with self._lock:
            if kind == "DELETED":
                self._slices.pop(name, None)
            elif kind in ("ADDED", "MODIFIED"):
                self._slices[name] = found
        return str(found["metadata"]["resourceVersion"])


def addresses_of(slices: Sequence[Object], port: int) -> list[str]:
    """host:port of every endpoint that is not about to go; a pod with addresses of both families is one."""
    found: dict[str, str] = {}
    for each in sorted(
        slices, key=lambda each: (each.get("addressType") != "IPv4", each["metadata"]["name"])
    ):
        for endpoint in each.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("terminating"):
                continue
            ip = endpoint["addresses"][0]
            pod = (endpoint.get("targetRef") or {}).get("uid") or ip
            found.setdefault(pod, f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}")
    return sorted(found.values())


class ClusterReplicas:
    """Replicas by the cluster where an address names a Service, and by their addresses where not."""

    def __init__(
        self, api: Api, addresses: Mapping[str, Sequence[str]], watching: Watching | None = None
    ) -> None:
        self.api, self._static = api, Static(addresses)
        self.services = {name: split_service(each[0]) for name, each in addresses.items() if in_cluster(each)}
        self.watch = SliceWatch(api, [service for service, _ in self.services.values()], watching)

    def of(self, service: str) -> list[str]:
        """See Replicas."""
        if service not in self.services:
            return self._static.of(service)
        name, port = self.services[service]
        return addresses_of(self.watch.slices(name), port)

    def server_name(self, service: str) -> str:
        """See Replicas: the Service's own name."""
        return self.services[service][0] if service in self.services else ""

    def missing(self) -> dict[str, str]:
        """Services whose rollout is not over, and what they lack. One of FAILURES."""
        lacks = {}
        for service, (name, _) in self.services.items():
            lack = rollout_lack(self.api.stateful_set(name), len(self.of(service)))
            if lack:
                lacks[name] = lack
        return lacks


def rollout_lack(workload: Object | None, found: int) -> str:
    """What a StatefulSet's rollout lacks, or "". Not readiness: a pod is ready once weights are loaded.

    Nor that all pods are of its newest revision: the controller replaces no pod before the one before it is
    ready, and so waits for us. Those that it replaces later are taken into the rounds as they come.

    A Service that no StatefulSet of its name stands behind has to have one pod.
    """
    if workload is None:
        return "" if found else "no pod yet"
    wanted, status = workload["spec"].get("replicas", 1), workload.get("status") or {}
    if status.get("observedGeneration", 0) < workload["metadata"].get("generation", 0):
        return "its newest specification has not been looked at yet"
    return "" if found == wanted else f"{found} of {wanted} pods with an address"


@contextlib.asynccontextmanager
async def cluster_replicas(
    addresses: Mapping[str, Sequence[str]],
    patience: float,
    tell: Tell,
    stopping: asyncio.Event,
    api: Api | None = None,
    watching: Watching | None = None,
) -> AsyncIterator[ClusterReplicas]:
    """Replicas of this pod's cluster, once all are rolled out. ReplicasMissing after `patience` seconds."""
    replicas = ClusterReplicas(api or Api.of_this_pod(), addresses, watching)
    replicas.watch.start()
    try:
        await _rolled_out(replicas, patience, tell, stopping)
        yield replicas
    finally:
        replicas.watch.stop()


async def _rolled_out(
    replicas: ClusterReplicas, patience: float, tell: Tell, stopping: asyncio.Event
) -> None:
    until, before = time.monotonic() + patience, None
    while not stopping.is_set():
        lacks = await asyncio.to_thread(_lacks, replicas)
        if not lacks:
            return
        text = "; ".join(f"{name}: {lack}" for name, lack in sorted(lacks.items()))
        if time.monotonic() > until:
            raise ReplicasMissing(f"not rolled out after {patience:g} s: {text}")
        if text != before:
            tell(f"waiting for services ({text})")
        before = text
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stopping.wait(), POLL_SECONDS)


def _lacks(replicas: ClusterReplicas) -> dict[str, Any]:
    if not replicas.watch.listed.wait(POLL_SECONDS):
        return {"API server": "no list of EndpointSlices yet"}
    try:
        return replicas.missing()
    except FAILURES as error:
        return {"API server": told(error)}
