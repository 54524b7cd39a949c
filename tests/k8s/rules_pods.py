"""Rules about pods: who they run as, what they may use, how they start, stop and say that they are well."""

from collections.abc import Iterator

from tests.k8s.manifests import (
    WORKLOADS,
    Object,
    all_containers,
    containers,
    flag,
    named,
    of_kind,
    pod_spec,
    quantity,
    selects,
)
from tests.k8s.manifests import labels as pod_labels
from trueline.client import GENERATE_DEADLINE, LOGPROBS_DEADLINE, SCORE_DEADLINE
from trueline.judge_client import JUDGE_DEADLINE

Faults = Iterator[str]

VOLUMES = {"configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
HOST_KEYS = ("hostNetwork", "hostPID", "hostIPC")
RESOURCES = ("cpu", "memory", "ephemeral-storage")
WRITERS = ("trainer", "orchestrator", "prepare", "trainer-rank")  # all others read the artifacts
SINGLE = ("trainer", "postgres")  # of one pod, by their nature
LONGEST_CALL = {
    "policy": GENERATE_DEADLINE,
    "reference": LOGPROBS_DEADLINE,
    "reward": SCORE_DEADLINE,
    "judge": JUDGE_DEADLINE,
}
SPARE_SECONDS = 10  # between --grace and the kill
LENIENT_SECONDS = 60  # of silence before a living process may be killed


def restricted(objects: list[Object]) -> Faults:
    """The restricted Pod Security Standard, a read-only root, and a namespace that enforces it."""
    for namespace in of_kind(objects, "Namespace"):
        if namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{named(namespace)} does not enforce restricted Pod Security"
    for workload in of_kind(objects, *WORKLOADS):
        pod = pod_spec(workload)
        security = pod.get("securityContext", {})
        if not (security.get("runAsNonRoot") and security.get("runAsUser") and security.get("runAsGroup")):
            yield f"{named(workload)} may run as root"
        if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{named(workload)} has no seccomp profile"
        yield from (f"{named(workload)} asks for {key}" for key in HOST_KEYS if pod.get(key))
        for volume in pod.get("volumes", []):
            if not set(volume) - {"name"} <= VOLUMES:
                yield f"{named(workload)} has a volume of a kind that is not allowed: {volume}"
    for place, _, container in all_containers(objects):
        security = container.get("securityContext", {})
        if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
            yield f"{place} may gain privileges"
        if security.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{place} keeps capabilities"
        if security.get("readOnlyRootFilesystem") is not True:
            yield f"{place} may write to its root"
        if security.get("runAsUser", 1) == 0 or security.get("runAsNonRoot", True) is False:
            yield f"{place} may run as root"


def own_account(objects: list[Object]) -> Faults:
    """Each workload has a ServiceAccount of its own, and a token only where a RoleBinding gives it a use."""
    bound = {
        subject["name"] for each in of_kind(objects, "RoleBinding") for subject in each.get("subjects", [])
    }
    accounts = {item["metadata"]["name"]: item for item in of_kind(objects, "ServiceAccount")}
    users: dict[str, str] = {}
    for workload in of_kind(objects, *WORKLOADS):
        pod = pod_spec(workload)
        account = pod.get("serviceAccountName", "default")
        if account not in accounts:
            yield f"{named(workload)} runs under {account!r}, which is not of this set"
        elif account in users:
            yield f"{named(workload)} and {users[account]} share the account {account!r}"
        users.setdefault(account, named(workload))
        by_default = accounts.get(account, {}).get("automountServiceAccountToken")
        if by_default is not False or pod.get("automountServiceAccountToken") is not (account in bound):
            use = "lacks its token" if account in bound else "mounts a token that it does not use"
            yield f"{named(workload)} {use}"


def bounded(objects: list[Object]) -> Faults:
    """Requests and limits everywhere, memory as asked for, scratch space bounded, quantities as text."""
    for place, _, container in all_containers(objects):
        given = container.get("resources", {})
        for kind in ("requests", "limits"):
            for name in RESOURCES:
                if name not in given.get(kind, {}):
                    yield f"{place} has no {name} in {kind}"
            for name, value in given.get(kind, {}).items():
                try:
                    quantity(value)
                except ValueError as error:
                    yield f"{place} {kind} {name}: {error}"
        if given.get("requests", {}).get("memory") != given.get("limits", {}).get("memory"):
            yield f"{place} may use more memory than it asks for, and be killed when the node runs short"
    for workload in of_kind(objects, *WORKLOADS):
        for volume in pod_spec(workload).get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                yield f"{named(workload)} has an emptyDir without a limit: {volume['name']}"


def probed(objects: list[Object]) -> Faults:
    """What stays has three probes; liveness asks for the process only, and waits long."""
    for place, workload, container in all_containers(objects):
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        if workload["kind"] == "Job" and not ports:
            continue  # its end is what Kubernetes sees of it
        if container["name"] == "engine":
            continue  # on loopback, where kubelet cannot ask: the policy beside it is unready while it is
        if "grpc" in ports:
            yield from grpc_probes(place, container, ports)
        elif "probes" in ports:
            yield from http_probes(place, container)
        elif not all(container.get(kind, {}).get("exec") for kind in PROBES):
            yield f"{place} lacks a probe"
        liveness = container.get("livenessProbe", {})
        if liveness.get("periodSeconds", 10) * liveness.get("failureThreshold", 3) < LENIENT_SECONDS:
            yield f"{place} is killed after less than {LENIENT_SECONDS} s of silence"


def grpc_probes(place: str, container: Object, ports: dict[str, int]) -> Faults:
    """Native gRPC health, on the plaintext port where the calls' own speaks TLS."""
    port = ports.get("health", ports["grpc"])
    for kind in PROBES:
        if container.get(kind, {}).get("grpc", {}).get("port") != port:
            yield f"{place} has no {kind} on its gRPC port"
    service = f"trueline.v1.{container['name'].capitalize()}Service"
    if container.get("readinessProbe", {}).get("grpc", {}).get("service") != service:
        yield f"{place} is called ready by something else than {service}"
    for kind in ("startupProbe", "livenessProbe"):
        if container.get(kind, {}).get("grpc", {}).get("service"):
            yield f"{place} {kind} asks for a loaded model: a pod that waits for one would be killed"


def http_probes(place: str, container: Object) -> Faults:
    """The orchestrator's two paths."""
    for kind in PROBES:
        path = "/readyz" if kind == "readinessProbe" else "/healthz"
        if container.get(kind, {}).get("httpGet") != {"path": path, "port": "probes"}:
            yield f"{place} has no {kind} that asks {path}"


def drained(objects: list[Object]) -> Faults:
    """A pod that goes is first left by its clients, then ends its calls, and only then may be killed."""
    for workload in of_kind(objects, "StatefulSet", "Deployment"):
        for container in pod_spec(workload)["containers"]:
            pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            if pause <= 0:
                yield f"{named(workload)} has no pause before it stops"
            grace = float(flag(container, "--grace") or 0)
            needed = pause + grace + SPARE_SECONDS
            given = pod_spec(workload).get("terminationGracePeriodSeconds", 30)
            if given < needed:
                yield f"{named(workload)} is killed after {given} s, and may need {needed:g}"
            longest = LONGEST_CALL.get(container["name"], 0)
            if grace < longest:
                yield f"{named(workload)} cuts calls off after {grace:g} s, and a call may take {longest:g}"


def disruptions(objects: list[Object]) -> Faults:
    """What may have replicas has a budget that lets one go at a time, and is spread."""
    budgets = of_kind(objects, "PodDisruptionBudget")
    for workload in of_kind(objects, "StatefulSet", "Deployment"):
        covering = [each for each in budgets if selects(each["spec"]["selector"], pod_labels(workload))]
        if workload["metadata"]["name"] in SINGLE:
            if covering or workload["spec"]["replicas"] != 1:
                yield f"{named(workload)} is one pod: a budget would block every drain or protect nothing"
            continue
        if [each["spec"].get("maxUnavailable") for each in covering] != [1]:
            yield f"{named(workload)} is covered by {len(covering)} budgets of one pod at a time, needs one"
        spreads = pod_spec(workload).get("topologySpreadConstraints", [])
        if not any(selects(each["labelSelector"], pod_labels(workload)) for each in spreads):
            yield f"{named(workload)} is not spread over nodes"
    for budget in budgets:
        workloads = of_kind(objects, *WORKLOADS)
        if not any(selects(budget["spec"]["selector"], pod_labels(workload)) for workload in workloads):
            yield f"{named(budget)} covers no pod"


def distinct(objects: list[Object]) -> Faults:
    """No API server takes two volumes or containers of one name in a pod, or two mounts of one path."""
    for workload in of_kind(objects, *WORKLOADS):
        names = {
            "volumes": [each["name"] for each in pod_spec(workload).get("volumes", [])],
            "containers": [each["name"] for each in containers(workload)],
        }
        for each in containers(workload):
            paths = [mount["mountPath"] for mount in each.get("volumeMounts", [])]
            names[f"mounts of {each['name']}"] = paths
        for what, given in names.items():
            twice = sorted({each for each in given if given.count(each) > 1})
            if twice:
                yield f"{named(workload)} has {what} twice: {', '.join(twice)}"


def artifacts(objects: list[Object]) -> Faults:
    """Every volume exists; the artifacts are writable for those who write them and for nobody else."""
    existing = {
        kind: {item["metadata"]["name"] for item in of_kind(objects, kind)}
        for kind in ("PersistentVolumeClaim", "ConfigMap")
    }
    one_node = True
    for workload in of_kind(objects, *WORKLOADS):
        pod = pod_spec(workload)
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        one_node &= "podAffinity" in pod.get("affinity", {})
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            config = volume.get("configMap", {}).get("name")
            if claim and claim not in existing["PersistentVolumeClaim"]:
                yield f"{named(workload)} mounts a claim that is not there: {claim}"
            optional = volume.get("configMap", {}).get("optional") and workload["spec"].get("replicas") == 0
            if config and config not in existing["ConfigMap"] and not optional:
                yield f"{named(workload)} mounts a ConfigMap that is not there: {config}"
        for container in containers(workload):
            mounts = {mount["name"]: mount for mount in container.get("volumeMounts", [])}
            claimed = {each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", [])}
            yield from (
                f"{named(workload)} mounts no such volume: {name}"
                for name in mounts
                if name not in {*volumes, *claimed}
            )
            read_only = mounts.get("artifacts", {}).get("readOnly", False)
            writes = workload["metadata"]["name"] in WRITERS
            if "artifacts" in mounts and read_only == writes:
                yield f"{named(workload)} mounts the artifacts {'read-only' if read_only else 'for writing'}"
            if "tmp" not in mounts:
                yield f"{named(workload)} {container['name']} has no /tmp to write to"
    for claim in of_kind(objects, "PersistentVolumeClaim"):
        if claim["spec"]["accessModes"] != ["ReadWriteMany"] and not one_node:
            yield f"{named(claim)} cannot be mounted by several nodes, and pods may be on several"


def gpus(objects: list[Object]) -> Faults:
    """A container that computes on a GPU asks for one, as text, tolerates its node and has shared memory."""
    for place, workload, container in all_containers(objects):
        asked = container.get("resources", {}).get("limits", {}).get("nvidia.com/gpu")
        uses = (flag(container, "--device") or "cpu").startswith("cuda") or container["name"] == "engine"
        if uses != (asked is not None):
            yield f"{place} computes on {'a GPU' if uses else 'CPUs'} and asks for {asked or 'no GPU'}"
        if not uses:
            continue
        pod = pod_spec(workload)
        if container["name"] != "engine" and any(each["name"] == "engine" for each in containers(workload)):
            yield f"{place} takes a GPU beside its engine's: list the engine's component before gpu"
        if container["resources"]["requests"].get("nvidia.com/gpu") != asked:
            yield f"{place} requests another number of GPUs than its limit"
        if not any(each.get("key") == "nvidia.com/gpu" for each in pod.get("tolerations", [])):
            yield f"{place} does not tolerate the taint of GPU nodes"
        memory = {
            volume["name"]
            for volume in pod["volumes"]
            if (volume.get("emptyDir") or {}).get("medium") == "Memory"
        }
        shared = {mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == "/dev/shm"}
        if not shared or not shared <= memory:
            yield f"{place} has no shared memory of its own"


POD_RULES = (restricted, own_account, bounded, probed, drained, disruptions, distinct, artifacts, gpus)
