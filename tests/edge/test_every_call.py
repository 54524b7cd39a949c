"""Every gRPC method that reflection lists, every HTTP route: no token, a wrong, an ended, a weak one."""

from __future__ import annotations

import asyncio
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from orchestrator.metrics_door import MetricsDoor, serving
from services.judge.hosting import Judge
from services.judge.service import JudgeServicer
from services.judge.settings import JudgeSettings
from services.model_settings import ModelSettings
from services.policy.hosting import Policy
from services.policy.service import PolicyServicer
from services.policy.settings import PolicySettings
from services.reference.hosting import Reference
from services.reference.service import ReferenceServicer
from services.reward.hosting import Rewards
from services.reward.service import RewardServicer
from services.reward.settings import RewardSettings
from services.scopes import OPEN_SERVICES, SCOPE_OF_ROUTE, SCOPE_OF_RPC
from services.server import Server, running
from services.settings import ServerSettings
from services.trainer.device import Compute
from services.trainer.service import TrainerServicer
from tests.judge.hosting import write_constitution
from tests.server.scripted import SERVICE, ScriptedApplication
from trueline.tokens import SCOPES

CONSTITUTION_AND_ENDPOINT = {"endpoint": "http://127.0.0.1:9", "endpoint_model": "none"}
CPU = torch.device("cpu")


def applications(folder: Path) -> dict[str, tuple[Any, Any, dict[str, Any]]]:
    """By service: what builds it, and its settings' class and values."""
    judge = {"constitution": write_constitution(folder), **CONSTITUTION_AND_ENDPOINT}
    return {
        "Policy": (lambda host, own: PolicyServicer(Policy(host, own)), PolicySettings, {}),
        "Reference": (lambda host, own: ReferenceServicer(Reference(host, own)), ModelSettings, {}),
        "Reward": (lambda host, own: RewardServicer(Rewards(host, own)), RewardSettings, {}),
        "Judge": (lambda host, own: JudgeServicer(Judge(host, own)), JudgeSettings, judge),
        "Trainer": (lambda host, own: TrainerServicer(host, Compute(CPU, 1, True)), ServerSettings, {}),
    }


@asynccontextmanager
async def all_services(folder: Path, **edge: Any) -> AsyncIterator[list[Server]]:
    """The five services in this process, each on ports of its own."""
    async with AsyncExitStack() as stack:
        servers = []
        for name, (build, kind, given) in applications(folder).items():
            own = kind(reflection=True, grace=1.0, **given, **edge)

            def application(host: Any, build: Any = build, own: Any = own) -> Any:
                return build(host, own)

            service = running(f"trueline.v1.{name}Service", application, own)
            servers.append(await stack.enter_async_context(service))
        yield servers


def bearer(secret: str | None) -> tuple[tuple[str, str], ...]:
    return () if secret is None else (("authorization", f"Bearer {secret}"),)


async def methods_of(channel: grpc.aio.Channel, secret: str) -> dict[str, tuple[bool, bool]]:
    """Every method that a server offers: full name, and whether requests and responses are streams."""

    async def ask(**question: Any) -> Any:
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(metadata=bearer(secret))
        await call.write(reflection_pb2.ServerReflectionRequest(**question))
        answer = await call.read()
        await call.done_writing()
        return answer

    found = {}
    listed = (await ask(list_services="")).list_services_response.service
    for service in [each.name for each in listed]:
        answer = await ask(file_containing_symbol=service)
        for data in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            for each in file.service:
                if f"{file.package}.{each.name}" == service:
                    for method in each.method:
                        streams = (method.client_streaming, method.server_streaming)
                        found[f"/{service}/{method.name}"] = streams
    return found


async def call(
    channel: grpc.aio.Channel, method: str, kind: tuple[bool, bool], secret: str | None
) -> tuple[str, str]:
    """The code that an empty request gets, and the reason in its details."""
    make = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[kind]
    client_streams, server_streams = kind
    request = iter([b""]) if client_streams else b""
    going = make(method)(request, timeout=20, metadata=bearer(secret))
    try:
        if server_streams:
            await going.read()
            going.cancel()
        else:
            await going
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(error)
        info = status.details[0].value.decode(errors="replace") if status and status.details else ""
        return error.code().name, info
    return "OK", ""


async def test_every_method_refuses_every_bad_token_and_takes_the_right_one(tmp_path, tokens):
    wrong = "tl_" + "x" * 43
    async with all_services(tmp_path, tokens=tokens.path) as servers:
        seen: set[str] = set()
        for server in servers:
            async with grpc.aio.insecure_channel(server.address) as channel:
                methods = await methods_of(channel, tokens.secrets["read"])
                seen |= methods.keys()
                for method, kind in methods.items():
                    if method.lstrip("/").partition("/")[0] in OPEN_SERVICES:
                        got, _ = await call(channel, method, kind, None)
                        assert got == ("UNIMPLEMENTED" if method.endswith("/List") else "OK"), method
                        continue
                    scope = SCOPE_OF_RPC.get(method)
                    assert scope is not None, f"{method} has no row in services/scopes.py"
                    for secret, code, reason in (
                        (None, "UNAUTHENTICATED", "token_missing"),
                        (wrong, "UNAUTHENTICATED", "token_unknown"),
                        (tokens.secrets["ended"], "UNAUTHENTICATED", "token_expired"),
                        *(
                            (tokens.secrets[other], "PERMISSION_DENIED", "token_scope")
                            for other in SCOPES
                            if other != scope
                        ),
                    ):
                        got, info = await call(channel, method, kind, secret)
                        assert (got, reason in info) == (code, True), (method, code, got, info)
                    got, _ = await call(channel, method, kind, tokens.secrets[scope])
                    assert got not in ("UNAUTHENTICATED", "PERMISSION_DENIED"), (method, got)
    assert {method for method in seen if "Health" not in method} == set(SCOPE_OF_RPC)


def http(url: str, secret: str | None, context: ssl.SSLContext | None = None) -> int:
    request = urllib.request.Request(url, headers=dict(bearer(secret)))
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("route", [*SCOPE_OF_ROUTE, "/", "/nothing", "/metrics?name[]=up"])
async def test_every_route_refuses_every_bad_token_over_tls(tmp_path, tokens, root, certificate, route):
    """Of the five services, and of the orchestrator."""
    context = ssl.create_default_context(cafile=root.certificate)
    edge = {"tls_certificate": certificate.certificate, "tls_key": certificate.key, "tokens": tokens.path}
    async with all_services(tmp_path, **edge) as servers:
        with serving(MetricsDoor("127.0.0.1:0", **edge)) as page:
            for place in (*(server.metrics_address for server in servers), page.address):
                wrong = "tl_" + "x" * 43
                ended, weak, good = (tokens.secrets[name] for name in ("ended", "score", "read"))
                asked = (None, wrong, ended, weak, good)
                url = f"https://{place}{route}"
                codes = [await asyncio.to_thread(http, url, secret, context) for secret in asked]
                assert codes == [401, 401, 401, 403, 200], place


async def test_a_method_without_a_row_is_refused_to_everybody(tokens):
    settings = ServerSettings(tokens=tokens.path, grace=1.0)
    async with running(SERVICE, ScriptedApplication, settings) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            for kind, name in ((False, False), "Unary"), ((True, True), "BidiStream"):
                code, info = await call(channel, f"/{SERVICE}/{name}", kind, tokens.secrets["all"])
                assert code == "PERMISSION_DENIED" and "no_scope" in info
