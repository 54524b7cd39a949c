"""An API server that enforces the Role of the manifests, and clients of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
kubernetes = pytest.importorskip("kubernetes", reason="the client of Kubernetes is missing")

from orchestrator.cluster.api import Api  # noqa: E402
from tests.cluster.api_server import NAMESPACE, TOKEN, ApiServer  # noqa: E402


def the_role() -> dict[str, Any]:
    """The orchestrator's Role as the manifests have it."""
    text = (ROOT / "k8s" / "base" / "orchestrator.yaml").read_text(encoding="utf-8")
    return next(item for item in yaml.safe_load_all(text) if item["kind"] == "Role")


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer(the_role()) as server:
        yield server


@pytest.fixture
def connect(server: ApiServer) -> Callable[[], Api]:
    """Makes clients, as pods of their own have them."""

    def client() -> Api:
        configuration = kubernetes.client.Configuration()
        configuration.host = server.url
        configuration.api_key = {"authorization": f"Bearer {TOKEN}"}
        return Api(configuration, NAMESPACE, call_seconds=2.0)

    return client
