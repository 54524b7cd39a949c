"""Which engine a policy service loads versions into, by its settings."""

from __future__ import annotations

from services.policy.engine import LoadEngine
from services.policy.settings import PolicySettings
from services.policy.transformers_loading import TransformersLoader


def loader_of(settings: PolicySettings) -> LoadEngine:
    """What makes an engine of a verified directory."""
    if settings.engine == "transformers":
        return TransformersLoader(settings.device)
    from services.policy.http_calls import HttpCalls  # httpx, which the others need not wait for
    from services.policy.remote_engine import RemoteServer
    from services.policy.tgi_engine import TgiDialect
    from services.policy.vllm_engine import VllmDialect

    calls = HttpCalls(
        settings.endpoint,
        key_file=settings.endpoint_key_file,
        seconds=settings.endpoint_seconds,
        attempts=settings.endpoint_attempts,
        at_once=settings.endpoint_requests,
    )
    if settings.engine == "vllm":
        return RemoteServer(VllmDialect(settings.load_seconds), calls).load
    return RemoteServer(TgiDialect(settings.load_seconds, settings.restart_file), calls).load
