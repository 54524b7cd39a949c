"""Two orchestrators of one run as a cluster starts them: processes, probes, Events, and the Role's verbs."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from orchestrator.drive import open_run
from orchestrator.launcher import REPOSITORY
from tests.cluster.api_server import ApiServer, slice_of, stateful_set
from tests.cluster.test_election import until
from tests.postgresql_server import free_port

NAME = "import"  # the recipe's, and so the run's


class Orchestrator:
    """python -m orchestrator run RECIPE --elect orchestrator, as one pod."""

    def __init__(self, name: str, directory: Path, server: ApiServer) -> None:
        self.port, self.log = free_port(), directory / f"{name}.log"
        recipe = [str(directory / "recipe.yaml"), "--or-resume", "--runs", str(directory / "runs")]
        elect = ["--elect", "orchestrator", "--probe-address", f"127.0.0.1:{self.port}"]
        kubeconfig = server.kubeconfig(directory / "kubeconfig")
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "POD_NAME": name, "POD_UID": f"u-{name}"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator", "run", *recipe, *elect],
                cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def says(self, path: str) -> tuple[int, str]:
        """A probe's answer; (0, "") where nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def pod(name: str, directory: Path, server: ApiServer) -> Iterator[Orchestrator]:
    started = Orchestrator(name, directory, server)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait(60)


def write_recipe(directory: Path) -> Path:
    """A run of one stage that needs no service; where its data will be."""
    data = directory / "rows.jsonl"
    stage = {"kind": "comparisons", "data": str(data), "output": "compared"}
    services = {"policy": {"addresses": ["kubernetes:///policy:50051"]}}
    recipe = {"name": NAME, "services": services, "stages": {"collect": stage}}
    (directory / "recipe.yaml").write_text(json.dumps(recipe))
    return data


def test_one_drives_the_other_stands_by_and_takes_over(tmp_path: Path, server: ApiServer) -> None:
    data = write_recipe(tmp_path)
    server.put("endpointslices", slice_of("policy", ["10.0.0.1"]))
    server.put("statefulsets", stateful_set("policy", 1))
    with ExitStack() as stack:
        first = stack.enter_context(pod("first", tmp_path, server))
        until(lambda: first.says("/readyz") == (200, "leading\n"), 60)
        second = stack.enter_context(pod("second", tmp_path, server))
        until(lambda: second.says("/readyz")[0] == 200, 60)
        assert second.says("/readyz")[1].startswith("standby: first_") and second.says("/nothing")[0] == 404
        # Its inputs are written by another pod, and are not there yet.
        assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*/ledger.db"))
        data.write_text(json.dumps({"prompt": "a", "chosen": "yes", "rejected": "no"}) + "\n")
        until(lambda: first.says("/readyz") == (200, "finished\n"), 60)
        ledger = open_run(tmp_path / "runs" / NAME)
        assert (ledger.info()["status"], ledger.info()["epoch"]) == ("finished", 1)
        assert first.process.poll() is None, "a Deployment would start it again"

        assert first.stop() == 0, first.log.read_text()
        until(lambda: second.says("/readyz") == (200, "finished\n"), 60)
        assert ledger.info()["epoch"] == 2, "it took the ledger's lease before it looked what is left to do"
        with server.away():
            assert second.says("/healthz")[0] == 200
        assert second.stop() == 0, second.log.read_text()
    check_events(server)
    assert used_verbs(server) == allowed_verbs(server)


@pytest.mark.slow
def test_a_leader_that_was_stopped_for_a_while_stands_by_when_it_wakes(
    tmp_path: Path, server: ApiServer
) -> None:
    data = write_recipe(tmp_path)
    server.put("endpointslices", slice_of("policy", ["10.0.0.1"]))
    server.put("statefulsets", stateful_set("policy", 1))
    with pod("first", tmp_path, server) as first:
        until(lambda: first.says("/readyz") == (200, "leading\n"), 60)
        with pod("second", tmp_path, server) as second:
            until(lambda: second.says("/readyz")[1].startswith("standby: first_"), 60)
            first.process.send_signal(signal.SIGSTOP)
            assert until(lambda: second.says("/readyz") == (200, "leading\n"), 60) < 30
            data.write_text(json.dumps({"prompt": "a", "chosen": "yes", "rejected": "no"}) + "\n")
            until(lambda: second.says("/readyz") == (200, "finished\n"), 60)
            first.process.send_signal(signal.SIGCONT)
            until(lambda: first.says("/readyz")[1].startswith("standby: second_"), 60)
            assert open_run(tmp_path / "runs" / NAME).info()["epoch"] == 1, "it has taken nothing"
            assert (first.stop(), second.stop()) == (0, 0)


def check_events(server: ApiServer) -> None:
    """Progress as Events about the pods."""
    told = [(each["regarding"]["name"], each["reason"], each["note"]) for each in server.of("events")]
    assert ("first", "Leading", f"drives {NAME} from where the ledger stands") in told
    assert ("first", "StageStarted", "stage 1/1 collect") in told
    assert ("first", "RunFinished", f"{NAME} is finished") in told
    assert any(name == "first" and "waiting for inputs" in note for name, _, note in told)
    assert ("second", "RunFinished", f"{NAME} is finished") in told
    assert {each["regarding"]["uid"] for each in server.of("events")} == {"u-first", "u-second"}


def used_verbs(server: ApiServer) -> set[tuple[str, ...]]:
    """(verb, group, resource, name); a name only where the Role can ask for one."""
    named = {"leases"}
    return {
        (verb, group, resource, name if resource in named else "")
        for verb, group, resource, name in server.requests
    }


def allowed_verbs(server: ApiServer) -> set[tuple[str, ...]]:
    """The same of the Role in the manifests."""
    assert server.role is not None
    return {
        (verb, group, resource, name)
        for rule in server.role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }
