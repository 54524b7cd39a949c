"""The interceptor that lets callers in: a token whose scope reaches, and the root that their URIs stay in.

It sits inside CallInterceptor, so that a refused call is counted and logged like any other. Nothing of a
token is logged but its name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc

from services.artifact_root import ArtifactRoot, artifact_root
from services.errors import UnauthenticatedError, UnauthorizedError
from services.logs import call_fields
from services.scopes import scope_of
from trueline.tokens import Refused, TokenFile

AUTHORIZATION = "authorization"


class Door(grpc.aio.ServerInterceptor):
    """Checks each call before its request is read. Without tokens everybody passes."""

    def __init__(self, tokens: TokenFile | None, root: ArtifactRoot) -> None:
        self._tokens, self._root = tokens, root

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """The method's handler, or one of its kind that refuses."""
        handler = await continuation(handler_call_details)
        artifact_root.set(self._root)
        if handler is None or self._tokens is None:
            return handler
        try:
            name = admit(self._tokens, handler_call_details.method, handler_call_details.invocation_metadata)
        except (UnauthenticatedError, UnauthorizedError) as refusal:
            _name_caller(refusal.info.get("token", ""))
            return _refusing(handler, refusal)
        _name_caller(name)
        return handler


def _name_caller(name: str) -> None:
    """Names the token's bearer in the call's log line."""
    if name:
        call_fields.set({**call_fields.get(), "caller": name})


def admit(tokens: TokenFile, method: str, metadata: Any) -> str:
    """The name of the token that lets this call in; "" where none is needed. Raises what refuses it."""
    try:
        scope = scope_of(method)
    except KeyError:
        raise UnauthorizedError("no_scope", f"{method} is in no row of services/scopes.py") from None
    if scope is None:
        return ""
    given = [str(value) for key, value in metadata or () if key == AUTHORIZATION]
    try:
        # Two of them are nobody's token.
        return tokens.check(given[0] if len(given) == 1 else " ".join(given), scope).name
    except Refused as refused:
        kind = UnauthorizedError if refused.known else UnauthenticatedError
        named = {"token": refused.name, "scope": refused.scope}
        raise kind(refused.reason, str(refused), {key: each for key, each in named.items() if each}) from None


def _refusing(handler: Any, refusal: Exception) -> grpc.RpcMethodHandler:
    """Of the same kind, but reads no message of a caller that may not: the bytes stay bytes."""

    async def unary(request: Any, context: Any) -> NoReturn:
        raise refusal

    async def stream(request: Any, context: Any) -> AsyncIterator[bytes]:
        raise refusal
        yield b""  # makes it a generator

    kind = (bool(handler.request_streaming), bool(handler.response_streaming))
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[kind]
    return make(stream if handler.response_streaming else unary)
