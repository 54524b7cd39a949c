"""Rules about who may talk to whom."""

import ipaddress
from collections.abc import Iterator

from tests.k8s.manifests import WORKLOADS, Object, containers, named, of_kind, orchestrators, selects
from tests.k8s.manifests import labels as pod_labels

Faults = Iterator[str]

DNS = {"k8s-app": "kube-dns"}
CALLED = ("grpc", "postgres")  # ports that the orchestrator calls
API_PORTS = {443, 6443}
PRIVATE = [ipaddress.ip_network(each) for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]


def network(objects: list[Object]) -> Faults:
    """All is denied but what is named; what is named goes to named ports of named pods."""
    policies = of_kind(objects, "NetworkPolicy")
    workloads = of_kind(objects, *WORKLOADS)
    closed = [each for each in policies if each["spec"]["podSelector"] == {} and not list(rules_of(each))]
    if not any(set(each["spec"].get("policyTypes", [])) == {"Ingress", "Egress"} for each in closed):
        yield "nothing denies what is not named: no policy selects all pods and allows nothing, both ways"
    for policy in policies:
        if not any(selects(policy["spec"]["podSelector"], pod_labels(each)) for each in workloads):
            yield f"{named(policy)} selects no pod"
        for way, rule in rules_of(policy):
            peers = rule.get("to" if way == "egress" else "from")
            if not peers or any(not is_narrow(each, way, rule) for each in peers):
                yield f"{named(policy)} opens {way} to everybody"
            if not rule.get("ports") or any("port" not in each for each in rule["ports"]):
                yield f"{named(policy)} opens every port in {way}"
    yield from (f"{source} may not reach {target}" for source, target in blocked(objects, policies))


def is_narrow(peer: Object, way: str, rule: Object) -> bool:
    """Pods by labels, or the API server, which is no pod: private addresses, and its ports alone."""
    if "ipBlock" in peer:
        block = ipaddress.ip_network(peer["ipBlock"]["cidr"])
        private = any(block.subnet_of(each) for each in PRIVATE)  # type: ignore[arg-type]
        return way == "egress" and private and {each["port"] for each in rule.get("ports", [])} <= API_PORTS
    return bool(peer.get("podSelector") or peer.get("namespaceSelector"))


def rules_of(policy: Object) -> Iterator[tuple[str, Object]]:
    """("egress", rule) and ("ingress", rule) of a policy."""
    for way in ("ingress", "egress"):
        for rule in policy["spec"].get(way, []):
            yield way, rule


def blocked(objects: list[Object], policies: list[Object]) -> Iterator[tuple[str, str]]:
    """What the orchestrator has to reach and cannot: services, ledger, at both ends; API server and DNS."""
    for job in orchestrators(objects):
        source = pod_labels(job)
        for workload in of_kind(objects, *WORKLOADS):
            target = pod_labels(workload)
            for container in containers(workload):
                called = [each for each in container.get("ports", []) if each["name"] in CALLED]
                if not called:
                    continue
                port = called[0]["containerPort"]
                out = allows(policies, "egress", source, target, port)
                if not (out and allows(policies, "ingress", target, source, port)):
                    yield named(job), f"{named(workload)} on {port}"
        if not allows(policies, "egress", source, DNS, 53):
            yield named(job), "the cluster's DNS"
        if not reaches_api(policies, source):
            yield named(job), "the API server"


def reaches_api(policies: list[Object], pod: dict[str, str]) -> bool:
    """True where some policy of `pod` names addresses and the API server's ports."""
    return any(
        direction == "egress"
        and {each.get("port") for each in rule.get("ports", [])} == API_PORTS
        and any("ipBlock" in each for each in rule.get("to", []))
        for policy in policies
        if selects(policy["spec"]["podSelector"], pod)
        for direction, rule in rules_of(policy)
    )


def allows(policies: list[Object], way: str, pod: dict[str, str], peer: dict[str, str], port: int) -> bool:
    """True where some policy of `pod` names the peer and the port."""
    return any(
        selects(each.get("podSelector"), peer)
        for policy in policies
        if selects(policy["spec"]["podSelector"], pod)
        for direction, rule in rules_of(policy)
        if direction == way and any(open_port.get("port") == port for open_port in rule.get("ports", []))
        for each in rule.get("to" if way == "egress" else "from", [])
    )


NETWORK_RULES = (network,)
