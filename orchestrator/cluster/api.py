"""The few calls to the API server that a run needs, as JSON, each with a deadline.

    api = Api.of_this_pod()
    api.lease("orchestrator")               {"metadata": {...}, "spec": {"holderIdentity": ...}}

The Role in k8s/base/orchestrator.yaml allows these calls and no other; a test compares. Replies are read as
JSON: the client's own models differ between its versions.
"""

import http.client
import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

Object = dict[str, Any]

CALL_SECONDS = 5.0
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
NOT_FOUND, CONFLICT, GONE = 404, 409, 410
# What a call raises that got no answer; ApiException where the answer was a refusal.
UNANSWERED = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)
FAILURES = (ApiException, *UNANSWERED)


@dataclass(frozen=True)
class Identity:
    """Who asks: this pod, by the downward API where that says so."""

    name: str = field(default_factory=lambda: os.environ.get("POD_NAME") or socket.gethostname())
    uid: str = field(default_factory=lambda: os.environ.get("POD_UID", ""))


class Api:
    """One namespace of one API server. Safe to share between threads."""

    def __init__(self, configuration: Any, namespace: str, call_seconds: float = CALL_SECONDS) -> None:
        configuration.retries = urllib3.Retry(0)  # who asks decides how often
        self.namespace, self.call_seconds = namespace, call_seconds
        own = client.ApiClient(configuration)
        self._leases, self._slices = client.CoordinationV1Api(own), client.DiscoveryV1Api(own)
        self._apps, self._events = client.AppsV1Api(own), client.EventsV1Api(own)

    @classmethod
    def of_this_pod(cls) -> "Api":
        """By the pod's own token; outside of a cluster, by KUBECONFIG's current context. ConfigException."""
        found = client.Configuration()
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(found)
            return cls(found, NAMESPACE_FILE.read_text(encoding="utf-8").strip())
        config.load_kube_config(client_configuration=found)
        _, active = config.list_kube_config_contexts()
        return cls(found, active["context"].get("namespace", "default"))

    def lease(self, name: str) -> Object | None:
        """A Lease, or None where there is none."""
        return self._found(self._leases.read_namespaced_lease, name, self.namespace)

    def create_lease(self, lease: Object) -> None:
        """Makes a Lease. ApiException 409 where somebody was faster."""
        self._answer(self._leases.create_namespaced_lease, self.namespace, lease)

    def replace_lease(self, lease: Object) -> None:
        """Writes a Lease as it was read and changed. ApiException 409 where somebody changed it meanwhile."""
        self._answer(self._leases.replace_namespaced_lease, lease["metadata"]["name"], self.namespace, lease)

    def stateful_set(self, name: str) -> Object | None:
        """A StatefulSet, or None where there is none."""
        return self._found(self._apps.read_namespaced_stateful_set, name, self.namespace)

    def create_event(self, event: Object) -> None:
        """Records an Event (events.k8s.io/v1)."""
        self._answer(self._events.create_namespaced_event, self.namespace, event)

    def endpoint_slices(self, selector: str) -> Object:
        """The EndpointSliceList of all whose labels match."""
        call = self._slices.list_namespaced_endpoint_slice
        return self._answer(call, self.namespace, label_selector=selector)

    def watch_endpoint_slices(
        self, selector: str, resource_version: str, seconds: int, silence: float
    ) -> Iterator[Object]:
        """{"type": "ADDED", "object": {...}} for every change since then; ends by itself after `seconds`.

        An urllib3 timeout where nothing came for `silence` seconds: a connection may die without a word.
        """
        response: Any = self._slices.list_namespaced_endpoint_slice(
            self.namespace,
            label_selector=selector,
            watch=True,
            resource_version=resource_version,
            allow_watch_bookmarks=True,
            timeout_seconds=seconds,
            _preload_content=False,
            _request_timeout=(self.call_seconds, silence),
        )
        with closing(response):
            kept = b""
            for part in response.stream(amt=None):
                *lines, kept = (kept + part).split(b"\n")
                yield from (json.loads(line) for line in lines if line.strip())

    def _found(self, call: Any, *words: Any) -> Object | None:
        try:
            return self._answer(call, *words)
        except ApiException as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def _answer(self, call: Any, *words: Any, **named: Any) -> Object:
        timeout = (self.call_seconds, self.call_seconds)
        response = call(*words, **named, _preload_content=False, _request_timeout=timeout)
        answer: Object = json.loads(response.data)
        return answer
