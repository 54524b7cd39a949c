"""Rules about who may do what: roles, the Lease and the ledger, and where secrets come from."""

import re
from collections.abc import Iterator

from tests.k8s.manifests import (
    ROOT,
    Object,
    all_containers,
    environment,
    flag,
    named,
    of_kind,
    orchestrators,
    pod_spec,
)

Faults = Iterator[str]

TLS_FLAGS, OPEN = ("tls-certificate", "tls-key", "tokens"), "insecure-network"
CLUSTER_WIDE = ("ClusterRole", "ClusterRoleBinding")
DOCS = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def privileges(objects: list[Object]) -> Faults:
    """Roles of this namespace, without wildcards and secrets, each for an account of this set."""
    roles = {item["metadata"]["name"]: item for item in of_kind(objects, "Role")}
    accounts = {item["metadata"]["name"] for item in of_kind(objects, "ServiceAccount")}
    yield from (f"{named(each)} reaches the whole cluster" for each in of_kind(objects, *CLUSTER_WIDE))
    for role in roles.values():
        for rule in role["rules"]:
            if "*" in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}:
                yield f"{named(role)} allows everything"
            if {"secrets", "pods/exec", "roles", "rolebindings"} & set(rule["resources"]):
                yield f"{named(role)} allows {', '.join(rule['resources'])}"
    for binding in of_kind(objects, "RoleBinding"):
        if binding["roleRef"]["kind"] != "Role" or binding["roleRef"]["name"] not in roles:
            yield f"{named(binding)} binds a role that is not of this set"
        for subject in binding["subjects"]:
            if subject["kind"] != "ServiceAccount" or subject["name"] not in accounts:
                yield f"{named(binding)} is for {subject['name']}, who is not of this set"


def ledger(objects: list[Object]) -> Faults:
    """Orchestrators of which there are several elect one by a Lease of their Role, and share a PostgreSQL."""
    services = {item["metadata"]["name"] for item in of_kind(objects, "Service")}
    for each in orchestrators(objects):
        (container,) = pod_spec(each)["containers"]
        url = environment(container).get("TRUELINE_LEDGER", {}).get("value", "")
        if each["spec"]["replicas"] > 1 and not (
            flag(container, "--elect") and url.startswith("postgresql://")
        ):
            yield f"{named(each)} has replicas, and no Lease or no PostgreSQL that they share"
        host = url.rpartition("@")[2].partition(":")[0]
        if host and host not in services:
            yield f"{named(each)} keeps its ledger at {host}, and there is no such Service"
        lease = flag(container, "--elect")
        named_leases = {
            name
            for role in of_kind(objects, "Role")
            for rule in role["rules"]
            if "leases" in rule["resources"]
            for name in rule.get("resourceNames", [])
        }
        if lease not in named_leases:
            yield f"{named(each)} wants the Lease {lease}, and its Role does not name it"


def secrets(objects: list[Object]) -> Faults:
    """Passwords and keys are Secrets, and docs/deploy.md says how to make each."""
    known = set(re.findall(r"kubectl create secret [a-z]+ ([a-z-]+)", DOCS))
    for place, workload, container in all_containers(objects):
        for secret in secrets_of(workload, container):
            if secret not in known:
                yield f"{place} uses the Secret {secret}, and docs/deploy.md does not say how to make it"
        for name, variable in environment(container).items():
            if re.search("PASSWORD|TOKEN$|KEY$", name) and "valueFrom" not in variable:
                yield f"{place} has {name} in plain sight"


def encrypted(objects: list[Object]) -> Faults:
    """TLS and tokens for all or for nobody; who calls has the root and a token where they are asked for."""
    serving = [
        (place, container, prefix)
        for place, _, container in all_containers(objects)
        if (prefix := door_of(container))
    ]
    secured = any(flag(container, f"{prefix}tls-certificate") for _, container, prefix in serving)
    for place, container, prefix in serving:
        lacking = [prefix + name for name in TLS_FLAGS if not flag(container, prefix + name)]
        if secured and (lacking or prefix + OPEN in container["args"]):
            yield f"{place} is open beside others that are not: {', '.join(lacking) or prefix + OPEN}"
        if prefix == "--" and not flag(container, "--artifact-root"):
            yield f"{place} lets callers name any path"
    for each in orchestrators(objects):
        (container,) = pod_spec(each)["containers"]
        if secured and not {"TRUELINE_CA", "TRUELINE_TOKEN_FILE"} <= set(environment(container)):
            yield f"{named(each)} has no root or no token to call with"


def door_of(container: Object) -> str | None:
    """How the flags of its door begin: a service's own keep its metrics too; None where nothing is served."""
    return next((prefix for prefix in ("--", "--metrics-") if flag(container, f"{prefix}address")), None)


def secrets_of(workload: Object, container: Object) -> Iterator[str]:
    """The Secrets that a container is given, as variables or files."""
    for variable in container.get("env", []):
        if "secretKeyRef" in variable.get("valueFrom", {}):
            yield variable["valueFrom"]["secretKeyRef"]["name"]
    for volume in pod_spec(workload).get("volumes", []):
        if "secret" in volume:
            yield volume["secret"]["secretName"]


ACCESS_RULES = (privileges, ledger, secrets, encrypted)
