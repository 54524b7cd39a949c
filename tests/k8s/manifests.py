"""The manifests as kubectl builds them, and the words by which the rules look into them."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
KUBECTL_SECONDS = 120  # far more than an idle machine needs
WORKLOADS = ("StatefulSet", "Deployment", "DaemonSet", "Job")

Object = dict[str, Any]


def kustomizations() -> list[str]:
    """Every overlay and tested combination, as a path under k8s/."""
    found = [
        path.parent
        for folder in ("overlays", "tests")
        for path in (K8S / folder).glob("*/kustomization.yaml")
    ]
    return sorted(path.relative_to(K8S).as_posix() for path in found)


def missing_kubectl() -> str:
    """Why nothing can be built here, or ""."""
    return "" if shutil.which("kubectl") else "kubectl is missing: it builds the manifests"


def build(name: str) -> list[Object]:
    """The objects of one kustomization. AssertionError with what kubectl said, warnings included."""
    command = ["kubectl", "kustomize", str(K8S / name)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=KUBECTL_SECONDS)
    assert built.returncode == 0 and not built.stderr, f"{' '.join(command)}\n{built.stderr}"
    objects = [document for document in yaml.safe_load_all(built.stdout) if document]
    return [*objects, *(job for each in of_kind(objects, "JobSet") for job in jobs_of(each))]


def jobs_of(job_set: Object) -> list[Object]:
    """The Jobs that a JobSet's controller would make, named by the label of their pods."""
    made = []
    for each in job_set["spec"]["replicatedJobs"]:
        pods = each["template"]["spec"]["template"]["metadata"]["labels"]
        metadata = {"name": pods["app.kubernetes.io/name"], "namespace": job_set["metadata"]["namespace"]}
        made.append({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, **each["template"]})
    return made


def named(item: Object) -> str:
    """Such as "StatefulSet/policy"."""
    return f"{item['kind']}/{item['metadata']['name']}"


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    """Those of these kinds."""
    return [item for item in objects if item["kind"] in kinds]


def template(workload: Object) -> Object:
    """A workload's pod template."""
    found: Object = workload["spec"]["template"]
    return found


def pod_spec(workload: Object) -> Object:
    """A workload's pod."""
    found: Object = template(workload)["spec"]
    return found


def labels(workload: Object) -> dict[str, str]:
    """The labels of a workload's pods."""
    return dict(template(workload)["metadata"].get("labels", {}))


def orchestrators(objects: list[Object]) -> list[Object]:
    """The workloads that drive runs."""
    return [each for each in of_kind(objects, *WORKLOADS) if each["metadata"]["name"] == "orchestrator"]


def environment(container: Object) -> dict[str, Object]:
    """A container's variables by name, each as it is declared."""
    return {each["name"]: each for each in container.get("env", [])}


def containers(workload: Object) -> Iterator[Object]:
    """Init containers and containers."""
    yield from pod_spec(workload).get("initContainers", [])
    yield from pod_spec(workload)["containers"]


def all_containers(objects: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """("StatefulSet/policy policy", workload, container) of every container."""
    for workload in of_kind(objects, *WORKLOADS):
        for container in containers(workload):
            yield f"{named(workload)} {container['name']}", workload, container


def selects(selector: Object | None, found: dict[str, str]) -> bool:
    """True where matchLabels hold. An empty selector selects all; expressions are not used here."""
    if selector is None:
        return False
    if "matchExpressions" in selector:
        raise ValueError(f"matchExpressions are not understood by these rules: {selector}")
    wanted = selector.get("matchLabels", {} if "matchLabels" in selector or not selector else selector)
    return all(found.get(key) == value for key, value in wanted.items())


def flag(container: Object, name: str) -> str | None:
    """The value of --name=value; the last one given counts."""
    values = [word.partition("=")[2] for word in container.get("args", []) if word.startswith(f"{name}=")]
    return values[-1] if values else None


def quantity(text: str) -> float:
    """1500m is 1.5, 2Gi is 2147483648.0. ValueError for a quantity that is no text, or unknown."""
    units = {
        "": 1,
        "m": 1e-3,
        "k": 1e3,
        "M": 1e6,
        "G": 1e9,
        "Ki": 2**10,
        "Mi": 2**20,
        "Gi": 2**30,
        "Ti": 2**40,
    }
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", text) if isinstance(text, str) else None
    if match is None or match[2] not in units:
        raise ValueError(f"{text!r} is no quantity in text")
    return float(match[1]) * units[match[2]]
