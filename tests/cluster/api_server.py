"""An API server as far as the orchestrator can tell: the real paths, versions, conflicts and watches.

    with ApiServer(role) as server:
        server.put("endpointslices", slice_of("policy", ["10.0.0.1"]))
        server.requests                     {("list", "discovery.k8s.io", "endpointslices", "")}

Given a Role it refuses what that does not allow. It can be away, end or freeze its watches, and forget.
"""

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Object = dict[str, Any]

NAMESPACE = "trueline"
GROUPS = {
    "leases": ("coordination.k8s.io", "v1", "Lease"),
    "endpointslices": ("discovery.k8s.io", "v1", "EndpointSlice"),
    "statefulsets": ("apps", "v1", "StatefulSet"),
    "events": ("events.k8s.io", "v1", "Event"),
}
PATH = re.compile(rf"/apis/([\w.]+)/(\w+)/namespaces/{NAMESPACE}/(\w+)(?:/([\w.-]+))?")
MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|\+00:00)")
BOOKMARK_SECONDS = 1.0
TOKEN = "the-pod-token"


class Refused(Exception):
    """An answer that is none of what was asked for."""

    def __init__(self, code: int, reason: str) -> None:
        self.code, self.reason = code, reason

    def status(self) -> Object:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": self.code,
            "reason": self.reason,
        }


class ApiServer:
    """The objects of one namespace, and who asked for what."""

    def __init__(self, role: Object | None = None, listener: socket.socket | None = None) -> None:
        self.role = role
        self.requests: set[tuple[str, str, str, str]] = set()
        self.asked: list[tuple[str, str]] = []  # ("watch", "endpointslices"), in order
        self.changed = threading.Condition()
        self.version, self.oldest, self.watches = 100, 0, 0
        self.objects: dict[tuple[str, str], Object] = {}
        self.history: list[tuple[int, str, str, Object]] = []
        self.is_away = self.frozen = False
        self._ended = 0
        self._listener = listener

    def __enter__(self) -> "ApiServer":
        self.http = Server(self, self._listener)
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end_watches()
        self.http.shutdown()
        self.http.server_close()

    @property
    def url(self) -> str:
        host, port = self.http.server_address[:2]
        return f"http://{host!s}:{port}"

    def kubeconfig(self, path: Path) -> Path:
        """A file by which a client finds this server."""
        named = [{"name": "it", "cluster": {"server": self.url}}]
        user = [{"name": "pod", "user": {"token": TOKEN}}]
        context = [{"name": "it", "context": {"cluster": "it", "user": "pod", "namespace": NAMESPACE}}]
        path.write_text(
            yaml.safe_dump(
                {
                    "clusters": named,
                    "users": user,
                    "contexts": context,
                    "current-context": "it",
                    "kind": "Config",
                }
            )
        )
        return path

    # --- what a controller of the cluster does ---------------------------------------------------

    def put(self, resource: str, item: Object) -> Object:
        """Makes an object or changes it."""
        with self.changed:
            key = (resource, item["metadata"]["name"])
            self.version += 1
            kept = json.loads(json.dumps(item))
            group, version, kind = GROUPS[resource]
            kept |= {"apiVersion": f"{group}/{version}", "kind": kind}
            kept["metadata"] |= {"resourceVersion": str(self.version), "namespace": NAMESPACE}
            self.history.append(
                (self.version, "MODIFIED" if key in self.objects else "ADDED", resource, kept)
            )
            self.objects[key] = kept
            self.changed.notify_all()
            return kept

    def delete(self, resource: str, name: str) -> None:
        """Removes an object."""
        with self.changed:
            self.version += 1
            gone = self.objects.pop((resource, name))
            gone = {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self.version)}}
            self.history.append((self.version, "DELETED", resource, gone))
            self.changed.notify_all()

    def of(self, resource: str) -> list[Object]:
        """All objects of a resource."""
        with self.changed:
            return [item for (kind, _), item in self.objects.items() if kind == resource]

    # --- what may go wrong -----------------------------------------------------------------------

    def end_watches(self) -> None:
        """Ends every watch that is open, without a word."""
        with self.changed:
            self._ended += 1
            self.changed.notify_all()

    def forget(self) -> None:
        """Compaction: a watch from before now is told 410."""
        with self.changed:
            self.version += 1
            self.oldest = self.version
            self.history.clear()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Hangs up on everybody for a while."""
        self.is_away = True
        self.end_watches()
        try:
            yield
        finally:
            self.is_away = False

    # --- requests --------------------------------------------------------------------------------

    def allow(self, verb: str, group: str, resource: str, name: str) -> None:
        """Notes a request. Refused with 403 where the Role does not allow it."""
        self.requests.add((verb, group, resource, name))
        self.asked.append((verb, resource))
        if self.role is not None and not any(
            group in rule["apiGroups"]
            and resource in rule["resources"]
            and verb in rule["verbs"]
            and ("resourceNames" not in rule or name in rule["resourceNames"])
            for rule in self.role["rules"]
        ):
            raise Refused(403, "Forbidden")

    def read(self, resource: str, name: str) -> Object:
        with self.changed:
            if (resource, name) not in self.objects:
                raise Refused(404, "NotFound")
            return self.objects[resource, name]

    def listed(self, resource: str, selector: str) -> Object:
        with self.changed:
            items = [item for item in self.of_locked(resource) if matches(item, selector)]
            group, version, kind = GROUPS[resource]
            return {
                "kind": f"{kind}List",
                "apiVersion": f"{group}/{version}",
                "metadata": {"resourceVersion": str(self.version)},
                "items": items,
            }

    def of_locked(self, resource: str) -> list[Object]:
        return [item for (kind, _), item in self.objects.items() if kind == resource]

    def create(self, resource: str, item: Object) -> Object:
        with self.changed:
            if "generateName" in item["metadata"]:
                item["metadata"]["name"] = f"{item['metadata'].pop('generateName')}{self.version:x}"
            if (resource, item["metadata"]["name"]) in self.objects:
                raise Refused(409, "AlreadyExists")
            return self.put(resource, item)

    def replace(self, resource: str, name: str, item: Object) -> Object:
        with self.changed:
            known = self.read(resource, name)
            if item["metadata"].get("resourceVersion") != known["metadata"]["resourceVersion"]:
                raise Refused(409, "Conflict")
            return self.put(resource, item)

    def watch(self, resource: str, selector: str, since: int, seconds: float) -> Iterator[Object]:
        """Events from a version on, and bookmarks, until the time is over or the watches are ended."""
        until, ended = time.monotonic() + seconds, self._ended
        if since < self.oldest:
            yield {"type": "ERROR", "object": Refused(410, "Expired").status()}
            return
        self.watches += 1
        try:
            while time.monotonic() < until:
                with self.changed:
                    if self._ended != ended:
                        return
                    fresh = [] if self.frozen else [each for each in self.history if each[0] > since]
                    if not fresh:
                        self.changed.wait(BOOKMARK_SECONDS)
                        fresh = [] if self.frozen else [each for each in self.history if each[0] > since]
                    if self._ended != ended:
                        return
                    since = since if self.frozen else self.version
                for _, kind, of, item in fresh:
                    if of == resource and matches(item, selector):
                        yield {"type": kind, "object": item}
                if not fresh and not self.frozen:
                    mark = {"kind": GROUPS[resource][2], "metadata": {"resourceVersion": str(since)}}
                    yield {"type": "BOOKMARK", "object": mark}
        finally:
            self.watches -= 1


def matches(item: Object, selector: str) -> bool:
    """`key=value` and `key in (a,b)`, as the orchestrator asks."""
    if not selector:
        return True
    found = re.fullmatch(r"([\w./-]+) in \(([^)]*)\)", selector)
    assert found is not None, selector
    return item["metadata"].get("labels", {}).get(found[1]) in found[2].split(",")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, api: ApiServer, listener: socket.socket | None) -> None:
        super().__init__(("127.0.0.1", 0), handler(api), bind_and_activate=listener is None)
        if listener is not None:
            self.socket.close()
            self.socket = listener
            self.server_address = listener.getsockname()
            self.server_activate()

    def handle_error(self, *_: object) -> None:
        """A caller that hung up is its own affair."""


def handler(api: ApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.handle_request("get")

        def do_POST(self) -> None:
            self.handle_request("create")

        def do_PUT(self) -> None:
            self.handle_request("update")

        def handle_request(self, verb: str) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            if api.is_away:
                self.close_connection = True
                return
            try:
                self.answer_to(verb, body)
            except Refused as refused:
                self.answer(refused.code, refused.status())

        def answer_to(self, verb: str, body: Object) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            found = PATH.fullmatch(parts.path)
            if found is None or GROUPS.get(found[3], ())[:2] != (found[1], found[2]):
                raise Refused(404, "NotFound")
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "Unauthorized")
            group, resource, name = found[1], found[3], found[4] or ""
            watches = query.get("watch", "").lower() == "true"
            verb = ("watch" if watches else "list") if verb == "get" and not name else verb
            api.allow(verb, group, resource, name)
            if verb == "watch":
                selector, since = query.get("labelSelector", ""), int(query["resourceVersion"])
                self.stream(api.watch(resource, selector, since, float(query["timeoutSeconds"])))
            elif verb == "list":
                self.answer(200, api.listed(resource, query.get("labelSelector", "")))
            elif verb == "get":
                self.answer(200, api.read(resource, name))
            else:
                check_times(body)
                check_note(body)
                done = api.create(resource, body) if verb == "create" else api.replace(resource, name, body)
                self.answer(201 if verb == "create" else 200, done)

        def answer(self, code: int, item: Object) -> None:
            data = json.dumps(item).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def stream(self, events: Iterator[Object]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for event in events:
                data = json.dumps(event).encode() + b"\n"
                half = len(data) // 2  # an event may come in parts
                for part in (data[:half], data[half:]):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                    self.wfile.flush()
            if not api.is_away:
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Nothing to keep."""

    return Handler


def check_times(item: Object) -> None:
    """Refused for a MicroTime that Kubernetes would not take."""
    times = [item.get("spec", {}).get(key) for key in ("renewTime", "acquireTime")] + [item.get("eventTime")]
    if any(each is not None and not MICRO_TIME.fullmatch(each) for each in times):
        raise Refused(400, "BadRequest")


def check_note(item: Object) -> None:
    """Refused for an Event that says more than 1024 bytes: Kubernetes does not count characters."""
    if len(item.get("note", "").encode(errors="replace")) > 1024:
        raise Refused(422, "Invalid")


def slice_of(service: str, ips: list[str], terminating: tuple[str, ...] = (), suffix: str = "x") -> Object:
    """The EndpointSlice of a Service's pods."""
    endpoints = [
        {
            "addresses": [ip],
            "conditions": {"ready": ip not in terminating, "terminating": ip in terminating},
            "targetRef": {"kind": "Pod", "name": f"{service}-{index}", "uid": f"{service}-{ip}"},
        }
        for index, ip in enumerate(ips)
    ]
    return {
        "metadata": {"name": f"{service}-{suffix}", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "grpc", "port": 50051, "protocol": "TCP"}],
    }


def stateful_set(name: str, replicas: int, updated: int | None = None) -> Object:
    """A StatefulSet whose rollout has come so far."""
    done = replicas if updated is None else updated
    status = {"observedGeneration": 1, "replicas": done, "updatedReplicas": done}
    return {"metadata": {"name": name, "generation": 1}, "spec": {"replicas": replicas}, "status": status}
