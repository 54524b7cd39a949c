"""Every overlay and tested combination builds, is valid to three Kubernetes versions, and keeps the rules."""

import functools
import json
import re

import pytest

from tests.k8s.manifests import (
    ROOT,
    Object,
    all_containers,
    build,
    kustomizations,
    missing_kubectl,
    named,
    quantity,
)
from tests.k8s.rules_access import ACCESS_RULES
from tests.k8s.rules_network import NETWORK_RULES
from tests.k8s.rules_pods import POD_RULES
from tests.k8s.rules_wiring import WIRING_RULES

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is missing")
pytestmark = pytest.mark.skipif(bool(missing_kubectl()), reason=missing_kubectl())

# No schema comes with Kubernetes. The rule `scraped` knows a monitor's fields, promtool those of the rules,
# JOB_SET those of a set, whose Jobs are held against Kubernetes' own.
CUSTOM = {"PodMonitor", "PrometheusRule", "JobSet"}
JOB_SET = {
    "spec": {"network", "failurePolicy", "replicatedJobs"},
    "network": {"enableDNSHostnames", "subdomain", "publishNotReadyAddresses"},
    "failurePolicy": {"maxRestarts"},
    "replicatedJobs": {"name", "replicas", "template"},
}
DEPLOY = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
RULES = (*POD_RULES, *WIRING_RULES, *NETWORK_RULES, *ACCESS_RULES)


def newest_versions(count: int) -> list[str]:
    """The newest minor versions whose schemas kubernetes-validate holds, such as 1.37.0."""
    newest = {
        kubernetes_validate.utils.major_minor(version): version
        for version in kubernetes_validate.utils.all_versions()
    }
    return sorted(set(newest.values()), key=lambda version: [int(part) for part in version.split(".")])[
        -count:
    ]


@pytest.fixture(scope="module")
def built() -> dict[str, list[Object]]:
    return {name: build(name) for name in kustomizations()}


def test_the_overlays_that_the_documentation_names_are_there() -> None:
    assert {"overlays/cpu-demo", "overlays/gpu"} <= set(kustomizations())


@pytest.mark.parametrize("name", kustomizations())
def test_each_is_valid_to_the_three_newest_versions(built: dict[str, list[Object]], name: str) -> None:
    versions = newest_versions(3)
    assert len(versions) == 3
    for item in built[name]:
        if item["kind"] not in CUSTOM:
            for version in versions:
                used = validated(json.dumps(item, sort_keys=True), version)
                assert version.startswith(f"{used}."), f"{named(item)} was held against {used}, not {version}"


@functools.cache  # most objects stand alike in every combination
def validated(item: str, version: str) -> str:
    """The version whose schema a JSON object was held against: none that is missing or older will do.

    Strict, so that unknown fields are refused.
    """
    return str(kubernetes_validate.validate(json.loads(item), version, strict=True))


def test_the_job_set_has_fields_that_v1alpha2_knows(built: dict[str, list[Object]]) -> None:
    (found,) = [item for item in built["tests/jobset"] if item["kind"] == "JobSet"]
    assert found["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and set(found["spec"]) == JOB_SET["spec"]
    for field in ("network", "failurePolicy"):
        assert set(found["spec"][field]) <= JOB_SET[field]
    for job in found["spec"]["replicatedJobs"]:
        assert set(job) == JOB_SET["replicatedJobs"]
    ranks = [
        job["template"]["spec"]["template"]["spec"]["containers"][0]["env"]
        for job in found["spec"]["replicatedJobs"]
    ]
    assert [env[0] for env in ranks] == [{"name": "RANK", "value": "0"}, {"name": "RANK", "value": "1"}]
    assert ranks[0][1:] == ranks[1][1:], "one place to meet"
    meet = {each["name"]: each["value"] for each in ranks[0]}
    assert (meet["WORLD_SIZE"], meet["MASTER_ADDR"]) == ("2", "trainer-lead-0-0.trainer")


@pytest.mark.parametrize("name", kustomizations())
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_each_keeps_the_rule(built: dict[str, list[Object]], name: str, rule) -> None:
    assert list(rule(built[name])) == []


def test_the_cluster_runs_the_stages_of_the_recipe_that_laptops_run() -> None:
    from k8s.components.helpdesk.derive import SOURCE, TARGET, derived

    hint = "python -m k8s.components.helpdesk.derive writes it anew"
    assert TARGET.read_text(encoding="utf-8") == derived(SOURCE.read_text(encoding="utf-8")), hint


def test_the_judge_reads_the_constitution_of_the_helpdesk() -> None:
    here, there = ROOT / "k8s/components/judge/constitution.yaml", ROOT / "worlds/helpdesk/constitution.yaml"
    assert here.read_text(encoding="utf-8") == there.read_text(encoding="utf-8")


def test_the_job_prepares_what_the_recipe_would(built: dict[str, list[Object]]) -> None:
    import yaml

    recipe = yaml.safe_load((ROOT / "recipes" / "helpdesk-ppo.yaml").read_text(encoding="utf-8"))
    wanted = [word.replace("{seed}", str(recipe["seed"])) for word in recipe["prepare"]["command"]]
    wanted = [word.replace("{prepared}", "/artifacts/worlds/helpdesk") for word in wanted]
    (job,) = [item for item in built["overlays/cpu-demo"] if item["kind"] == "Job"]
    (prepare,) = job["spec"]["template"]["spec"]["containers"]
    assert [*prepare["command"], *prepare["args"]] == [*wanted, "--whole"]


def test_no_shell_and_no_idle_pod_anywhere_under_k8s() -> None:
    for path in sorted((ROOT / "k8s").rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        for words in (":latest", "sleep infinity", "kubectl exec", "/bin/sh", "/bin/bash"):
            assert words not in text, f"{path.relative_to(ROOT)} says {words!r}"


def test_the_demo_fits_the_node_that_its_documentation_asks_for(built: dict[str, list[Object]]) -> None:
    said = re.search(r"one node with (\d+) CPUs and (\d+) GiB to spare", DEPLOY, re.IGNORECASE)
    assert said is not None
    asked = {"cpu": 0.0, "memory": 0.0}
    for _, workload, container in all_containers(built["overlays/cpu-demo"]):
        # A new orchestrator starts beside those that are there.
        pods = workload["spec"].get("replicas", 1) + (workload["metadata"]["name"] == "orchestrator")
        for kind in asked:
            asked[kind] += pods * quantity(container["resources"]["requests"][kind])
    assert asked["cpu"] <= int(said[1]) and asked["memory"] <= int(said[2]) * 2**30
    assert asked["memory"] > (int(said[2]) - 2) * 2**30, "it says more than it needs"
