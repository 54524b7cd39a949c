"""Alerts: valid, tested both ways, explained in the runbook, and about metrics that exist."""

import re

import pytest
import yaml

from tests.k8s.manifests import K8S, ROOT
from tests.monitoring.expressions import metrics_in, unknown_metrics
from tests.monitoring.promtool import needs_promtool, promtool

RULES = K8S / "monitoring" / "rules"
ALERTS = [
    rule
    for group in yaml.safe_load((RULES / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
CASES = yaml.safe_load((RULES / "tests" / "alerts.yaml").read_text(encoding="utf-8"))["tests"]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
WANTED = (
    *("NoProgress", "KlAboveBudget", "KlVanishing", "RewardHacking", "EntropyCollapse", "StepFailed"),
    *("ExcludedSamples", "WeightsVersionSkew", "JudgeAbstains", "JudgeFlips", "SamplerTrainerMismatch"),
    *("ServiceDown", "QueueFull"),
)


def test_every_alert_that_the_project_promises_is_there() -> None:
    assert {f"Trueline{name}" for name in WANTED} <= {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_has_a_case_each_way_a_severity_and_a_runbook_entry(rule) -> None:
    outcomes = {
        bool(check["exp_samples"])
        for case in CASES
        for check in case["promql_expr_test"]
        if check["expr"] == f'ALERTS{{alertname="{rule["alert"]}", alertstate="firing"}}'
    }
    assert outcomes == {True, False}, "one case in which it fires, one in which it stays quiet"
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert {"summary", "description", "runbook_url"} == set(rule["annotations"])
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = [line.removeprefix("## ") for line in RUNBOOK.splitlines() if line.startswith("## ")]
    assert page == "docs/runbook.md" and anchor in [each.lower() for each in headings]
    assert f"| [{rule['alert']}](#{anchor}) | {rule['labels']['severity']} |" in RUNBOOK


def test_the_runbook_explains_no_alert_that_is_gone() -> None:
    assert set(re.findall(r"^## (\w+)$", RUNBOOK, flags=re.MULTILINE)) == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_metrics_and_labels_of_the_table(rule) -> None:
    assert metrics_in(rule["expr"]) and unknown_metrics(rule["expr"]) == []


@needs_promtool
def test_promtool_accepts_rules_and_cases() -> None:
    assert promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES / "alerts.yaml")) == ""
    assert promtool("test", "rules", str(RULES / "tests" / "alerts.yaml")) == ""


@needs_promtool
def test_a_rule_that_no_longer_fires_fails_its_case(tmp_path) -> None:
    text = (RULES / "alerts.yaml").read_text(encoding="utf-8")
    (tmp_path / "alerts.yaml").write_text(text.replace("> 0.4", "> 0.6"), encoding="utf-8")
    (tmp_path / "tests").mkdir()
    cases = (RULES / "tests" / "alerts.yaml").read_text(encoding="utf-8")
    (tmp_path / "tests" / "alerts.yaml").write_text(cases, encoding="utf-8")
    assert "TruelineJudgeFlips" in promtool("test", "rules", str(tmp_path / "tests" / "alerts.yaml"))
