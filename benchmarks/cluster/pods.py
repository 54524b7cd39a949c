"""Pods of the manifests as processes: their commands, arguments, variables, volumes and Secrets.

What a kubelet would mount is a directory here, and every path in arguments and recipe is led there.
"""

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cluster.network import Network, Place
from orchestrator.launcher import REPOSITORY

Object = dict[str, Any]

ENDING_SECONDS = 60.0


@dataclass
class Pod:
    """One process in its namespace."""

    name: str
    service: str
    place: Place
    process: "subprocess.Popen[bytes]"
    log: Path

    def kill(self) -> None:
        """kill -9: it says nothing to anybody."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(ENDING_SECONDS)

    def ended(self) -> int:
        """The exit code of a pod that was told to stop; kill -9 where it does not, as a kubelet does."""
        try:
            return self.process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.returncode


@dataclass
class Kubelet:
    """Starts the pods of a set of manifests."""

    objects: list[Object]
    directory: Path
    network: Network
    secrets: dict[str, Path]
    variables: dict[str, str] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)

    def workload(self, name: str) -> Object:
        """A workload of the manifests by its name."""
        kinds = ("StatefulSet", "Deployment", "Job")
        return next(
            each for each in self.objects if each["kind"] in kinds and each["metadata"]["name"] == name
        )

    def start(self, service: str, name: str, more: list[str] | None = None) -> Pod:
        """Starts a pod of a workload, with some arguments more."""
        spec = self.workload(service)["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        place = self.network.join(name)
        mounts = self._mounts(name, spec, container)
        words = [self._led(word, mounts) for word in [*container["command"], *container.get("args", [])]]
        words[0] = sys.executable
        log = self.directory / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                place.command([*words, *(more or [])]), cwd=REPOSITORY, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
                env=self._environment(name, container, mounts),
            )  # fmt: skip
        self.pods[name] = Pod(name, service, place, process, log)
        return self.pods[name]

    def remove(self, name: str) -> None:
        """Forgets a pod that has ended, and its namespace."""
        del self.pods[name]
        self.network.leave(name)

    def stop_all(self) -> dict[str, int]:
        """SIGTERM to all; exit codes by name."""
        for pod in self.pods.values():
            if pod.process.poll() is None:
                pod.process.send_signal(signal.SIGTERM)
        codes = {name: pod.ended() for name, pod in self.pods.items()}
        for name in codes:
            self.remove(name)
        return codes

    def _mounts(self, pod: str, spec: Object, container: Object) -> dict[str, Path]:
        """{"/artifacts": ...}: where each mounted path is here."""
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        found = {}
        for mount in container["volumeMounts"]:
            volume = volumes[mount["name"]]
            if "secret" in volume:
                place = self.secrets[volume["secret"]["secretName"]]
            elif "configMap" in volume:
                place = self._config_map(volume["configMap"]["name"])
            elif "persistentVolumeClaim" in volume:
                place = self.directory / volume["persistentVolumeClaim"]["claimName"]
            else:
                place = self.directory / "scratch" / pod / mount["name"]
            place.mkdir(parents=True, exist_ok=True)
            found[mount["mountPath"]] = place
        return found

    def _config_map(self, name: str) -> Path:
        place = self.directory / name
        place.mkdir(exist_ok=True)
        (found,) = [
            each for each in self.objects if each["kind"] == "ConfigMap" and each["metadata"]["name"] == name
        ]
        for file, text in found["data"].items():
            led = text.replace("/artifacts/", f"{self.directory}/artifacts/")
            if not (place / file).exists():
                (place / file).write_text(led)
        return place

    def _led(self, word: str, mounts: dict[str, Path]) -> str:
        any_path = "|".join(re.escape(path) for path in mounts)
        # In one pass: what a path is led to may hold another one.
        return re.sub(rf"(?<![\w.-])({any_path})(?=/|$)", lambda found: str(mounts[found[1]]), word)

    def _environment(self, pod: str, container: Object, mounts: dict[str, Path]) -> dict[str, str]:
        fields = {"metadata.name": pod, "metadata.uid": f"uid-{pod}"}
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        found = {**kept, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
        found |= {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'protos'}", "HOME": str(mounts["/tmp"])}
        found |= {"TMPDIR": str(mounts["/tmp"]), "MPLCONFIGDIR": str(mounts["/tmp"]), **self.variables}
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            if "fieldRef" in source:
                value = fields[source["fieldRef"]["fieldPath"]]
            elif "secretKeyRef" in source:
                reference = source["secretKeyRef"]
                value = (self.secrets[reference["name"]] / reference["key"]).read_text()
            else:
                value = self._led(variable["value"], mounts)
            found[variable["name"]] = value
        return found
