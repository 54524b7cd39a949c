"""k8s/compose.yaml mounts what exists, and Prometheus accepts its configuration. Docker itself is not run."""

from typing import Any

import pytest
import yaml

from orchestrator.metrics import TARGETS
from tests.k8s.manifests import K8S
from tests.monitoring.promtool import needs_promtool, promtool

COMPOSE = yaml.safe_load((K8S / "compose.yaml").read_text(encoding="utf-8"))
PROVISIONING = K8S / "monitoring" / "provisioning"


def provisioned(name: str) -> Any:
    return yaml.safe_load((PROVISIONING / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_what_a_service_mounts_is_there_and_read_only(service: str) -> None:
    for mount in COMPOSE["services"][service]["volumes"]:
        if mount.startswith("./"):
            source, _, mode = mount.split(":")
            assert (K8S / source).exists() and mode == "ro", mount
        elif not mount.startswith("${RUNS"):
            assert mount.partition(":")[0] in COMPOSE["volumes"]


def test_images_are_pinned() -> None:
    for service in COMPOSE["services"].values():
        assert service["image"].rpartition(":")[2] not in ("", "latest") and ":" in service["image"]


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    listen = next(each for each in COMPOSE["services"]["prometheus"]["command"] if "listen-address" in each)
    (source,) = provisioned("grafana-datasource")["datasources"]
    assert source["url"] == f"http://{listen.partition('=')[2]}" and source["type"] == "prometheus"
    (provider,) = provisioned("grafana-dashboards")["providers"]
    mounts = [mount.split(":")[1] for mount in COMPOSE["services"]["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounts


@needs_promtool
def test_prometheus_accepts_its_configuration(tmp_path) -> None:
    text = (PROVISIONING / "prometheus.yaml").read_text(encoding="utf-8")
    assert f"/runs/{TARGETS}/*.json" in text
    path = tmp_path / "prometheus.yaml"
    path.write_text(text.replace("/etc/prometheus/rules", str(K8S / "monitoring" / "rules")))
    assert promtool("check", "config", str(path)) == ""
