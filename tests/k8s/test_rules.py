"""Each rule is seen to fail: a fault is planted in sound manifests, and the rule must name it."""

import copy
from collections.abc import Callable

import pytest

from tests.k8s import rules_access, rules_network, rules_pods, rules_wiring
from tests.k8s.manifests import Object, build, missing_kubectl, named, pod_spec
from tests.k8s.rules_access import ACCESS_RULES
from tests.k8s.rules_network import NETWORK_RULES
from tests.k8s.rules_pods import POD_RULES
from tests.k8s.rules_wiring import WIRING_RULES

pytestmark = pytest.mark.skipif(bool(missing_kubectl()), reason=missing_kubectl())


class Planted:
    """A copy of the objects, to be spoilt."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = copy.deepcopy(objects)

    def __getitem__(self, name: str) -> Object:
        return next(item for item in self.objects if named(item) == name)

    def pod(self, name: str) -> Object:
        return pod_spec(self[name])

    def container(self, name: str) -> Object:
        return self.pod(name)["containers"][0]

    def drop(self, name: str) -> None:
        self.objects.remove(self[name])

    def word(self, name: str, old: str, new: str) -> None:
        """Replaces one argument."""
        words = self.container(name)["args"]
        words[words.index(old)] = new


POLICY, TRAINER, JOB = "StatefulSet/policy", "StatefulSet/trainer", "Deployment/orchestrator"
PREPARE, POSTGRES = "Job/prepare", "StatefulSet/postgres"
EGRESS, ROLE = "NetworkPolicy/orchestrator", "Role/orchestrator"
FAULTS: list[tuple[Callable, Callable[[Planted], object], str]] = [
    (
        rules_pods.restricted,
        lambda p: p["Namespace/trueline"]["metadata"]["labels"].clear(),
        "does not enforce",
    ),
    (
        rules_pods.restricted,
        lambda p: p.pod(POLICY)["securityContext"].pop("runAsNonRoot"),
        "may run as root",
    ),
    (rules_pods.restricted, lambda p: p.pod(POLICY)["securityContext"].pop("seccompProfile"), "no seccomp"),
    (rules_pods.restricted, lambda p: p.pod(POLICY).update(hostNetwork=True), "asks for hostNetwork"),
    (
        rules_pods.restricted,
        lambda p: p.pod(POLICY)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
        "not allowed",
    ),
    (
        rules_pods.restricted,
        lambda p: p.container(JOB)["securityContext"].pop("allowPrivilegeEscalation"),
        "may gain privileges",
    ),
    (
        rules_pods.restricted,
        lambda p: p.container(JOB)["securityContext"].pop("capabilities"),
        "keeps capabilities",
    ),
    (
        rules_pods.restricted,
        lambda p: p.container(PREPARE)["securityContext"].update(readOnlyRootFilesystem=False),
        "may write to its root",
    ),
    (
        rules_pods.restricted,
        lambda p: p.container(JOB)["securityContext"].update(runAsUser=0),
        "may run as root",
    ),
    (rules_pods.own_account, lambda p: p.pod(POLICY).pop("serviceAccountName"), "not of this set"),
    (
        rules_pods.own_account,
        lambda p: p.pod(POLICY).update(serviceAccountName="trainer"),
        "share the account",
    ),
    (rules_pods.own_account, lambda p: p.pod(POLICY).pop("automountServiceAccountToken"), "mounts a token"),
    (
        rules_pods.own_account,
        lambda p: p.pod(JOB).update(automountServiceAccountToken=False),
        "lacks its token",
    ),
    (rules_pods.bounded, lambda p: p.container(POLICY)["resources"]["limits"].pop("cpu"), "no cpu in limits"),
    (
        rules_pods.bounded,
        lambda p: p.container(POLICY)["resources"]["limits"].update(cpu=1),
        "no quantity in text",
    ),
    (
        rules_pods.bounded,
        lambda p: p.container(POLICY)["resources"]["limits"].update(memory="64Gi"),
        "more memory than it asks for",
    ),
    (
        rules_pods.bounded,
        lambda p: p.pod(POLICY)["volumes"][1].update(emptyDir={}),
        "emptyDir without a limit",
    ),
    (rules_pods.probed, lambda p: p.container(POLICY).pop("startupProbe"), "no startupProbe"),
    (
        rules_pods.probed,
        lambda p: p.container(POLICY)["readinessProbe"]["grpc"].pop("service"),
        "called ready",
    ),
    (
        rules_pods.probed,
        lambda p: p.container(POLICY)["livenessProbe"]["grpc"].update(service="trueline.v1.PolicyService"),
        "asks for a loaded model",
    ),
    (
        rules_pods.probed,
        lambda p: p.container(POLICY)["livenessProbe"].update(failureThreshold=1),
        "of silence",
    ),
    (
        rules_pods.probed,
        lambda p: p.container(JOB)["readinessProbe"]["httpGet"].update(path="/healthz"),
        "no readinessProbe that asks /readyz",
    ),
    (rules_pods.probed, lambda p: p.container(POSTGRES).pop("startupProbe"), "lacks a probe"),
    (rules_pods.drained, lambda p: p.container(POLICY).pop("lifecycle"), "no pause"),
    (rules_pods.drained, lambda p: p.pod(POLICY).pop("terminationGracePeriodSeconds"), "killed after 30 s"),
    (rules_pods.drained, lambda p: p.word(POLICY, "--grace=600", "--grace=60"), "cuts calls off after 60 s"),
    (rules_pods.disruptions, lambda p: p.drop("PodDisruptionBudget/policy"), "needs one"),
    (
        rules_pods.disruptions,
        lambda p: p["PodDisruptionBudget/policy"]["spec"].update(maxUnavailable=0),
        "needs one",
    ),
    (
        rules_pods.disruptions,
        lambda p: p["PodDisruptionBudget/policy"]["spec"]["selector"]["matchLabels"].update(extra="x"),
        "covers no pod",
    ),
    (rules_pods.disruptions, lambda p: p[TRAINER]["spec"].update(replicas=2), "is one pod"),
    (rules_pods.disruptions, lambda p: p.pod(POLICY).pop("topologySpreadConstraints"), "not spread"),
    (
        rules_pods.distinct,
        lambda p: p.pod(POLICY)["volumes"].append({"name": "tmp", "emptyDir": {}}),
        "has volumes twice: tmp",
    ),
    (
        rules_pods.distinct,
        lambda p: p.pod(POLICY)["containers"].append(p.container(POLICY)),
        "has containers twice: policy",
    ),
    (
        rules_pods.distinct,
        lambda p: p.container(POLICY)["volumeMounts"].append({"name": "shm", "mountPath": "/tmp"}),
        "has mounts of policy twice: /tmp",
    ),
    (rules_pods.artifacts, lambda p: p.drop("ConfigMap/recipe"), "ConfigMap that is not there"),
    (rules_pods.artifacts, lambda p: p.drop("PersistentVolumeClaim/artifacts"), "claim that is not there"),
    (rules_pods.artifacts, lambda p: p.container(POLICY)["volumeMounts"][0].pop("readOnly"), "for writing"),
    (
        rules_pods.artifacts,
        lambda p: p.container(TRAINER)["volumeMounts"][0].update(readOnly=True),
        "mounts the artifacts read-only",
    ),
    (rules_pods.artifacts, lambda p: p.container(POLICY)["volumeMounts"].pop(1), "no /tmp"),
    (rules_pods.artifacts, lambda p: p.pod(POLICY)["volumes"].pop(1), "mounts no such volume: tmp"),
    (rules_pods.artifacts, lambda p: p.pod(POLICY).pop("affinity"), "cannot be mounted by several nodes"),
    (rules_pods.gpus, lambda p: p.word(POLICY, "--device=cuda", "--device=cpu"), "computes on CPUs"),
    (rules_pods.gpus, lambda p: p.pod(POLICY).pop("tolerations"), "does not tolerate"),
    (
        rules_pods.gpus,
        lambda p: p.container(POLICY)["resources"]["requests"].update({"nvidia.com/gpu": "2"}),
        "another number of GPUs",
    ),
    (rules_pods.gpus, lambda p: p.container(POLICY)["volumeMounts"].pop(), "no shared memory"),
    (
        rules_pods.gpus,
        lambda p: p.pod(POLICY).update(initContainers=[{**p.container(POLICY), "name": "engine"}]),
        "takes a GPU beside its engine's",
    ),
    (
        rules_wiring.images,
        lambda p: p.container(POLICY).update(image="trueline-policy:0.1.0"),
        "no such target",
    ),
    (
        rules_wiring.images,
        lambda p: p.container(POLICY).update(image="trueline-client:0.1.0"),
        "does not hold",
    ),
    (rules_wiring.images, lambda p: p.container(POLICY).update(image="trueline-service-gpu"), "tag 'latest'"),
    (
        rules_wiring.commands,
        lambda p: p.container(POLICY).update(command=["sh", "-c", "true"]),
        "not python -m",
    ),
    (
        rules_wiring.commands,
        lambda p: p.container(POLICY).update(command=["python", "-m", "services.polcy"]),
        "no such module",
    ),
    (rules_wiring.commands, lambda p: p.container(POLICY)["args"].append("--drain=5"), "no such flag"),
    (
        rules_wiring.commands,
        lambda p: p.word(TRAINER, "--threads=2", "--threads=0"),
        "must be a finite number",
    ),
    (rules_wiring.commands, lambda p: p.container(JOB)["args"].append("--until=5"), "unrecognized arguments"),
    (rules_wiring.ports, lambda p: p.drop("Service/policy"), "has no Service"),
    (rules_wiring.ports, lambda p: p["Service/policy"]["spec"].pop("clusterIP"), "hides pods"),
    (rules_wiring.ports, lambda p: p["Service/policy"]["spec"].pop("publishNotReadyAddresses"), "hides pods"),
    (rules_wiring.ports, lambda p: p["Service/policy"]["spec"]["ports"].pop(), "offers"),
    (
        rules_wiring.ports,
        lambda p: p.word(POLICY, "--address=0.0.0.0:50051", "--address=0.0.0.0:5"),
        "listens on 5",
    ),
    (
        rules_wiring.label_sets,
        lambda p: p["Service/policy"]["spec"]["selector"].update({"app.kubernetes.io/name": "polcy"}),
        "selects the pods of nobody",
    ),
    (
        rules_wiring.label_sets,
        lambda p: p[POLICY]["spec"].update(selector={"matchLabels": {"trueline.dev/service": "model"}}),
        "selects other pods",
    ),
    (
        rules_wiring.label_sets,
        lambda p: p[POLICY]["spec"]["template"]["metadata"]["labels"].pop("app.kubernetes.io/part-of"),
        "not part of trueline",
    ),
    (
        rules_wiring.label_sets,
        lambda p: p[POLICY]["spec"]["template"]["metadata"]["labels"].update({"app.kubernetes.io/name": "x"}),
        "is not the name on its pods",
    ),
    (rules_wiring.label_sets, lambda p: p[JOB]["metadata"].pop("namespace"), "in no namespace"),
    (
        rules_wiring.addresses,
        lambda p: p["ConfigMap/recipe"]["data"].update(
            {"recipe.yaml": p["ConfigMap/recipe"]["data"]["recipe.yaml"].replace("trainer-0.", "trainer-1.")}
        ),
        "its pods are",
    ),
    (rules_wiring.addresses, lambda p: p["ConfigMap/recipe"]["data"].clear(), "no recipe that loads"),
    (
        rules_wiring.addresses,
        lambda p: p["ConfigMap/recipe"]["data"].update({"recipe.yaml": "name: x\n"}),
        "no recipe that loads",
    ),
    (rules_wiring.addresses, lambda p: p.drop("Service/reward"), "no Service names its pods"),
    (rules_wiring.addresses, lambda p: p.word(TRAINER, "--threads=2", "--threads=1"), "2 in the recipe"),
    (
        rules_wiring.addresses,
        lambda p: p.word("StatefulSet/reward", "--learned=reward", "--learned=other"),
        "the recipe asks for",
    ),
    (rules_wiring.addresses, lambda p: p.container(JOB)["args"].append("--name=another"), "does not publish"),
    (rules_network.network, lambda p: p.drop("NetworkPolicy/deny-all"), "nothing denies"),
    (
        rules_network.network,
        lambda p: p["NetworkPolicy/deny-all"]["spec"].update(egress=[{}]),
        "nothing denies",
    ),
    (rules_network.network, lambda p: p[EGRESS]["spec"]["egress"].append({}), "opens egress to everybody"),
    (
        rules_network.network,
        lambda p: p[EGRESS]["spec"]["egress"][0]["to"].append({"ipBlock": {"cidr": "0.0.0.0/0"}}),
        "opens egress to everybody",
    ),
    (rules_network.network, lambda p: p[EGRESS]["spec"]["egress"][0].pop("ports"), "opens every port"),
    (rules_network.network, lambda p: p[EGRESS]["spec"]["egress"].pop(), "may not reach the cluster's DNS"),
    (rules_network.network, lambda p: p[EGRESS]["spec"]["egress"].pop(0), "may not reach StatefulSet/policy"),
    (rules_network.network, lambda p: p.drop("NetworkPolicy/trainer"), "may not reach StatefulSet/trainer"),
    (
        rules_network.network,
        lambda p: p["NetworkPolicy/policy"]["spec"]["podSelector"]["matchLabels"].update(extra="x"),
        "selects no pod",
    ),
    (rules_network.network, lambda p: p.drop("NetworkPolicy/api-server"), "may not reach the API server"),
    (rules_network.network, lambda p: p.drop("NetworkPolicy/postgres"), "may not reach StatefulSet/postgres"),
    (
        rules_network.network,
        lambda p: p["NetworkPolicy/api-server"]["spec"]["egress"][0]["ports"].append({"port": 80}),
        "opens egress to everybody",
    ),
    (
        rules_network.network,
        lambda p: p["NetworkPolicy/api-server"]["spec"]["egress"][0]["to"][0].update(
            ipBlock={"cidr": "8.0.0.0/8"}
        ),
        "opens egress to everybody",
    ),
    (rules_access.privileges, lambda p: p[ROLE].update(kind="ClusterRole"), "reaches the whole cluster"),
    (rules_access.privileges, lambda p: p[ROLE]["rules"][0].update(verbs=["*"]), "allows everything"),
    (rules_access.privileges, lambda p: p[ROLE]["rules"][0]["resources"].append("secrets"), "secrets"),
    (
        rules_access.privileges,
        lambda p: p["RoleBinding/orchestrator"]["roleRef"].update(name="edit"),
        "binds a role",
    ),
    (
        rules_access.privileges,
        lambda p: p["RoleBinding/orchestrator"]["subjects"][0].update(name="default"),
        "who is not of this set",
    ),
    (rules_access.ledger, lambda p: p.container(JOB)["env"].pop(2), "no Lease or no PostgreSQL"),
    (rules_access.ledger, lambda p: p.drop("Service/postgres"), "there is no such Service"),
    (
        rules_access.ledger,
        lambda p: p.word(JOB, "--elect=orchestrator", "--elect=another"),
        "its Role does not name it",
    ),
    (
        rules_access.secrets,
        lambda p: p.container(POSTGRES)["env"][3]["valueFrom"]["secretKeyRef"].update(name="mine"),
        "does not say how to make it",
    ),
    (
        rules_access.encrypted,
        lambda p: p.container(POLICY)["args"].append("--tls-certificate=/tls/tls.crt"),
        "is open beside others that are not",
    ),
    (
        rules_access.encrypted,
        lambda p: p.container(POLICY)["args"].append("--tls-certificate=/tls/tls.crt"),
        "Deployment/orchestrator orchestrator is open beside others that are not: --metrics-tls-certificate",
    ),
    (
        rules_access.encrypted,
        lambda p: p.container(POLICY)["args"].append("--tls-certificate=/tls/tls.crt"),
        "no root or no token",
    ),
    (
        rules_access.encrypted,
        lambda p: p.container(POLICY)["args"].remove("--artifact-root=/artifacts"),
        "lets callers name any path",
    ),
    (
        rules_access.secrets,
        lambda p: p.container(POSTGRES)["env"].append({"name": "PGPASSWORD", "value": "x"}),
        "in plain sight",
    ),
    (
        rules_wiring.scraped,
        lambda p: p["PodMonitor/services"]["spec"]["podMetricsEndpoints"][0].update(port="http"),
        "looks for the port http",
    ),
    (
        rules_wiring.scraped,
        lambda p: p["PodMonitor/services"]["spec"]["selector"]["matchLabels"].update(extra="x"),
        "0 monitors scrape StatefulSet/policy",
    ),
    (rules_wiring.scraped, lambda p: p.drop("PodMonitor/orchestrator"), "0 monitors scrape Deployment/orch"),
    (rules_wiring.scraped, lambda p: p.drop("PrometheusRule/trueline"), "has no alerts"),
    (
        rules_wiring.scraped,
        lambda p: p["PodMonitor/services"]["spec"].pop("jobLabel"),
        "does not name jobs",
    ),
    (
        rules_wiring.scraped,
        lambda p: p["PodMonitor/services"]["spec"].update(podMetricsEndpoint=[]),
        "a field that these rules do not know",
    ),
]


@pytest.fixture(scope="module")
def sound() -> list[Object]:
    """Most components at once."""
    return build("tests/everything")


@pytest.mark.parametrize(
    "rule, plant, said", FAULTS, ids=[f"{rule.__name__}-{said}" for rule, _, said in FAULTS]
)
def test_the_rule_names_the_planted_fault(sound: list[Object], rule, plant, said: str) -> None:
    planted = Planted(sound)
    plant(planted)
    assert any(said in fault for fault in rule(planted.objects)), list(rule(planted.objects))
    assert list(rule(sound)) == []


def test_every_rule_has_been_seen_to_fail() -> None:
    assert {rule for rule, _, _ in FAULTS} == {*POD_RULES, *WIRING_RULES, *NETWORK_RULES, *ACCESS_RULES}
