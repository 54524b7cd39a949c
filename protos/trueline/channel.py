"""How a channel to a service is opened: targets, balancing, retries, limits, keepalive.

The one place where TLS enters: `open_channel` is the only caller of grpc's channel functions.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from trueline.access import Access, host_of
from trueline.version import __version__

# One message at most, either way, on clients and servers alike. Larger batches travel as an Artifact (URI
# and digest).
MESSAGE_LIMIT_BYTES = 64 * 1024 * 1024

# An unanswered ping ends a dead connection after 80 s. Servers must allow a ping every 30 s
# (grpc.http2.min_recv_ping_interval_without_data_ms), or they answer with GOAWAY "too_many_pings".
KEEPALIVE_SECONDS = 60
KEEPALIVE_ANSWER_SECONDS = 20

# Waits of about 0.2, 0.8, 3.2 and 5 s: a restarted replica is back before the attempts are used up, if it
# loads fast.
RETRY_POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.2s",
    "maxBackoff": "5s",
    "backoffMultiplier": 4,
    "retryableStatusCodes": ["UNAVAILABLE"],
}

Target = str | Sequence[str]


def idempotent_methods(service: ServiceDescriptor) -> list[str]:
    """Names of the methods that may be sent twice: those whose request carries no CallHeader.

    Every mutating call carries one (see types.proto), so that a list kept by hand cannot go stale.
    """
    return [method.name for method in service.methods if "header" not in method.input_type.fields_by_name]


def service_config(service: ServiceDescriptor, *, health: bool) -> str:
    """The channel's service config as JSON: retries for idempotent methods, and balancing.

    With `health`, calls go in turn to the replicas whose health service says SERVING for this service.
    Without, they go to the one address, loaded or not: that is how a replica without weights is told to
    load some.
    """
    config: dict[str, Any] = {
        "loadBalancingConfig": [{"round_robin": {}}] if health else [{"pick_first": {}}],
        "methodConfig": [
            {
                "name": [
                    {"service": service.full_name, "method": method} for method in idempotent_methods(service)
                ],
                "retryPolicy": RETRY_POLICY,
            }
        ],
    }
    if health:
        config["healthCheckConfig"] = {"serviceName": service.full_name}
    return json.dumps(config)


def channel_options(service: ServiceDescriptor, *, health: bool) -> list[tuple[str, int | str]]:
    """What every channel of ours is opened with."""
    return [
        ("grpc.primary_user_agent", f"trueline/{__version__}"),
        ("grpc.service_config", service_config(service, health=health)),
        ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
        ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
        # gRPC does not retry a call whose request outgrows this buffer; its default is 256 KiB, less than
        # one chunk.
        ("grpc.per_rpc_retry_buffer_size", MESSAGE_LIMIT_BYTES),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_ANSWER_SECONDS * 1000),
        # A chunk may take minutes, in which no data flows: pings go on all the same.
        ("grpc.http2.max_pings_without_data", 0),
        # A replica that comes back is found within seconds; the default backs off to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # Else gRPC would give a channel opened anew the connection of the one before, which may be half-open.
        ("grpc.use_local_subchannel_pool", 1),
        # A web proxy in the environment would swallow calls to localhost and see one connection for all
        # replicas.
        ("grpc.enable_http_proxy", 0),
    ]


def resolve_target(target: Target) -> str:
    """What gRPC calls a target.

    >>> resolve_target("reward:50053")              # resolved by DNS
    'reward:50053'
    >>> resolve_target("dns:///reward.trueline.svc.cluster.local:50053")
    'dns:///reward.trueline.svc.cluster.local:50053'
    >>> resolve_target(["localhost:50053", "10.0.0.7:50053"])
    'ipv4:127.0.0.1:50053,10.0.0.7:50053'

    A list may hold names; each is looked up once. Replicas that come and go need one dns:/// name instead.
    """
    if isinstance(target, str):
        if not target.strip():
            raise ValueError(
                "target: must be host:port, a list of these, or a gRPC target like dns:///name:port; got ''"
            )
        return target
    if not target:
        raise ValueError("target: the list of addresses is empty")
    if len(target) == 1:
        return resolve_target(target[0])
    resolved = [_numeric(*split_address(address)) for address in target]
    families = {scheme for scheme, _ in resolved}
    if len(families) > 1:
        raise ValueError(f"target: IPv4 and IPv6 addresses cannot share a channel; got {', '.join(target)}")
    return f"{families.pop()}:" + ",".join(address for _, address in resolved)


def split_address(address: str) -> tuple[str, int]:
    """Splits "host:port" or "[::1]:port"; ValueError where it is neither."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"target: an address is host:port with a port from 1 to 65535; got {address!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _numeric(host: str, port: int) -> tuple[str, str]:
    """The host as gRPC's static resolver wants it: ("ipv4", "127.0.0.1:50053")."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise ValueError(f"target: cannot resolve {host!r}: {error.strerror}") from error
    ips = [ipaddress.ip_address(entry[4][0]) for entry in found]
    ip = min(ips, key=lambda candidate: candidate.version)
    return ("ipv4", f"{ip}:{port}") if ip.version == 4 else ("ipv6", f"[{ip}]:{port}")


def open_channel(
    target: Target, service: ServiceDescriptor, *, health: bool, access: Access | None = None
) -> grpc.aio.Channel:
    """Opens a channel; nothing connects before the first call. Belongs to the running event loop.

    ValueError where a token would go over plaintext, or a certificate's file cannot be read.
    """
    access = access or Access()
    addresses = [target] if isinstance(target, str) else list(target)
    access.require_safe(addresses)
    options, credentials = channel_options(service, health=health), access.credentials()
    if credentials is None:
        return grpc.aio.insecure_channel(resolve_target(target), options=options)
    # A list is resolved here, and its numbers are in no certificate: all replicas carry the first one's name.
    name = access.server_name or (host_of(addresses[0]) if len(addresses) > 1 else "")
    if name:
        options.append(("grpc.ssl_target_name_override", name))
    return grpc.aio.secure_channel(resolve_target(target), credentials, options=options)
