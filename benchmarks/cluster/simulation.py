"""A cluster of namespaces: its controllers, its API server, and the deaths of its pods.

with simulated(directory, overrides) as cluster:
    cluster.start()
    cluster.kill_leader()
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cluster.database import database
from benchmarks.cluster.network import Network
from benchmarks.cluster.pods import Kubelet, Pod
from orchestrator.launcher import REPOSITORY
from orchestrator.ledger import Ledger, open_engine
from tests.cluster.api_server import ApiServer, slice_of, stateful_set
from tests.edge.certificates import authority, issue
from tests.k8s.manifests import build

COMBINATION = "tests/secured"
RUN = "helpdesk"
SERVICES = ("policy", "reference", "reward", "trainer")
POLL_SECONDS = 0.1
NOTICED_SECONDS = 1.0  # a kubelet's and the endpoints controller's, before a dead pod is out of its slice


class Failed(Exception):
    """Something that should have come did not, or ended."""


@dataclass
class Cluster:
    """Pods, what the API server says of them, and the run's ledger."""

    kubelet: Kubelet
    api: ApiServer
    ledger_url: str
    run_words: list[str]
    deadline: float
    began: float = field(default_factory=time.monotonic)
    replicas: dict[str, int] = field(default_factory=dict)
    timeline: list[tuple[float, str]] = field(default_factory=list)
    _ledger: Ledger | None = None

    def tell(self, text: str) -> None:
        """A line of the story, and its second."""
        self.timeline.append((time.monotonic() - self.began, text))
        print(f"{self.timeline[-1][0]:7.1f} s  {text}", file=sys.stderr, flush=True)

    # --- what controllers do ---------------------------------------------------------------------

    def start(self) -> None:
        """Everything that the manifests hold: services, then two orchestrators."""
        for service in SERVICES:
            spec = self.kubelet.workload(service)["spec"]
            self.replicas[service] = spec["replicas"]
            for index in range(spec["replicas"]):
                self.add(f"{service}-{index}", service)
        for letter in "ab"[: self.kubelet.workload("orchestrator")["spec"]["replicas"]]:
            self.kubelet.start("orchestrator", f"orchestrator-{letter}", self.run_words)
        self.tell(f"started {', '.join(sorted(self.kubelet.pods))}")

    def add(self, name: str, service: str) -> Pod:
        """A service's pod: started, named and in its EndpointSlice."""
        pod = self.kubelet.start(service, name)
        self.kubelet.network.name({f"{name}.{service}": pod.place.ip})
        self.publish(service)
        return pod

    def publish(self, service: str) -> None:
        """What the controllers write: where a Service's pods are, and how far they are rolled out."""
        there = [pod for pod in self.kubelet.pods.values() if pod.service == service]
        self.api.put("endpointslices", slice_of(service, [pod.place.ip for pod in there]))
        self.api.put("statefulsets", stateful_set(service, self.replicas[service]))

    # --- what happens to pods --------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """kill -9, and what the cluster makes of it a moment later: the pod is in no slice any more."""
        pod = self.kubelet.pods[name]
        pod.kill()
        self.tell(f"killed {name}")
        time.sleep(NOTICED_SECONDS)
        self.kubelet.remove(name)
        if pod.service in self.replicas:
            self.publish(pod.service)

    def kill_leader(self) -> float:
        """Kills the orchestrator that leads; seconds until the other one has the ledger's lease."""
        leader, epoch, killed = self.leader(), self.ledger.info()["epoch"], time.monotonic()
        self.kill(leader)
        self.wait(
            lambda: self.ledger.info()["epoch"] > epoch, "another orchestrator to take the ledger's lease"
        )
        took = time.monotonic() - killed
        self.tell(f"{self.leader()} leads, {took:.1f} s after {leader} was killed")
        self.kubelet.start("orchestrator", "orchestrator-c", self.run_words)
        return took

    def join(self, name: str, service: str, replicas: int) -> None:
        """A pod more; waits until it is in rotation."""
        self.replicas[service] = replicas
        place = f"{self.add(name, service).place.ip}:"
        self.tell(f"{name} joins")
        self.wait(lambda: any(place in each for each in self.rotations()), f"{name} to be in rotation")
        self.tell(f"{name} is in rotation")

    # --- what can be seen ------------------------------------------------------------------------

    def leader(self) -> str:
        """The pod that holds the Lease."""
        holder: str = self.api.read("leases", "orchestrator")["spec"]["holderIdentity"]
        return holder.rpartition("_")[0]

    def rotations(self) -> list[str]:
        """What the orchestrators told about rotation, as Events."""
        return [each["note"] for each in self.api.of("events") if each["note"].endswith("in rotation")]

    @property
    def directory(self) -> Path:
        """The run's."""
        return self.kubelet.directory / "artifacts" / "runs" / RUN

    @property
    def ledger(self) -> Ledger:
        """The run's ledger, read from here."""
        if self._ledger is None:
            self._ledger = Ledger(open_engine(self.ledger_url), RUN)
        return self._ledger

    def wait_for_round(self, number: int) -> None:
        """Waits until a round of PPO is under way, its first rollouts kept."""
        self.wait(
            lambda: self.has_run() and self.ledger.newest_round("ppo") >= number, f"PPO's round {number}"
        )
        self.tell(f"PPO is in round {number}")

    def has_run(self) -> bool:
        """Whether the run has begun."""
        return (self.directory / "ledger-url").exists() and bool(self.ledger.all_rows()["runs"])

    def finished(self) -> bool:
        """Whether the run has."""
        return self.ledger.info()["status"] == "finished"

    def wait(self, holds: Callable[[], Any], what: str, still: bool = True) -> None:
        """Polls. Failed where the time is over, or a pod that should `still` live has ended."""
        while not holds():
            for pod in self.kubelet.pods.values():
                if still and pod.process.poll() is not None:
                    said = pod.log.read_text(errors="replace")[-3000:]
                    raise Failed(f"{pod.name} ended with {pod.process.returncode}\n{said}")
            if time.monotonic() > self.deadline:
                logs = "\n".join(
                    pod.log.read_text(errors="replace")[-1500:] for pod in self.kubelet.pods.values()
                )
                raise Failed(f"waited in vain for {what}\n{logs}")
            time.sleep(POLL_SECONDS)


def make_secrets(directory: Path) -> dict[str, Path]:
    """What docs/deploy.md has a person make: certificates, a token, a password; by Secret, a directory."""
    root = authority(directory / "certificates")
    names = {service: f"DNS:{service}" for service in (*SERVICES, "judge", "orchestrator")}
    names["trainer"] += ",DNS:trainer-0.trainer"  # called by its pod; gRPC takes no wildcard this short
    made = {}
    for service, san in names.items():
        pair = issue(root, service, san=san)
        made[f"{service}-tls"] = {"tls.crt": pair.certificate.read_bytes(), "tls.key": pair.key.read_bytes()}
    tokens = directory / "tokens"
    words = [sys.executable, "-m", "services.tokens", "new", "--name", "run", "--days", "1"]
    words += ["--scopes", "read,score,generate,train,admin", "--file", str(tokens)]
    made_one = subprocess.run(words, cwd=REPOSITORY, capture_output=True, check=True, timeout=60)
    token = made_one.stdout.strip()
    made |= {"tokens": {"tokens": tokens.read_bytes()}}
    made |= {"run-access": {"ca.crt": root.certificate.read_bytes(), "token": token}}
    made |= {"ledger": {"password": b"only-for-this-simulation"}}
    return {name: write_secret(directory / "secrets" / name, files) for name, files in made.items()}


def write_secret(directory: Path, files: dict[str, bytes]) -> Path:
    """A Secret as a pod has it mounted."""
    directory.mkdir(parents=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory


@contextlib.contextmanager
def simulated(directory: Path, prefix: str, run_words: list[str], seconds: float) -> Iterator[Cluster]:
    """A cluster without pods yet, but with its database and API server; nothing of it stays behind."""
    objects = build(COMBINATION)
    secrets = make_secrets(directory)
    (role,) = [each for each in objects if each["kind"] == "Role"]
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Network(prefix))
        postgres, server = network.join("postgres"), network.join("api")
        network.name({"postgres": postgres.ip})
        password = directory / "secrets" / "ledger" / "password"
        url = stack.enter_context(database(postgres, directory / "postgres", password))
        api = stack.enter_context(ApiServer(role, network.listen(server, 6443)))
        kubeconfig = api.kubeconfig(directory / "kubeconfig")
        kubelet = Kubelet(objects, directory, network, secrets, {"KUBECONFIG": str(kubeconfig)})
        try:
            yield Cluster(kubelet, api, url, run_words, time.monotonic() + seconds)
        finally:
            for pod in kubelet.pods.values():
                if pod.process.poll() is None:
                    pod.kill()
