"""Dashboards: fresh, of metrics that exist, and by the eleven rules of Grafana's dashboard-linter.

https://github.com/grafana/dashboard-linter/blob/main/docs/index.md; the linter itself is a Go program.
"""

import json
import re
from typing import Any

import pytest
import yaml

from k8s.monitoring.__main__ import BOARDS, DOCS, END, generated, metrics_list
from k8s.monitoring.board import with_values
from tests.k8s.manifests import K8S, ROOT
from tests.monitoring.expressions import metrics_in, unknown_metrics
from tests.monitoring.promtool import needs_promtool, promtool
from trueline.metrics import METRICS

FILES = sorted((K8S / "monitoring" / "dashboards").glob("*.json"))
DASHBOARDS = [json.loads(path.read_text(encoding="utf-8")) for path in FILES]
# Of Grafana's unit identifiers, those that are used.
UNITS = {"short", "s", "percentunit", "ops", "reqps", "bytes", "Bps", "decmbytes"}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def variables(dashboard: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in dashboard["templating"]["list"]}


def targets(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [target for panel in panels(dashboard) for target in panel["targets"]]


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_what_is_generated_is_fresh(path) -> None:
    hint = "python -m k8s.monitoring writes it anew"
    assert path.read_text(encoding="utf-8") == generated()[path], hint


def test_there_is_a_file_for_each_board_and_no_other() -> None:
    assert [path.stem for path in FILES] == sorted(board.uid for board in BOARDS)


def test_the_list_of_the_docs_is_the_table() -> None:
    listed = re.findall(
        r"^\| `((?:trueline|grpc)_\w+)` \|", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert sorted(listed) == sorted(METRICS)
    assert END in DOCS.read_text(encoding="utf-8") and metrics_list().count("\n| `") == len(METRICS)


def test_every_metric_has_a_panel() -> None:
    asked = {
        name
        for board in BOARDS
        for panel in board.panels
        for query in panel.queries
        for name, _ in metrics_in(query.expression)
    }
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert set(METRICS) - shown == {"trueline_run_info"}, "that one fills the variable run"


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each["uid"])
class TestLinter:
    def test_template_datasource_rule(self, dashboard) -> None:
        found = variables(dashboard)["datasource"]
        assert (found["type"], found["query"], found["label"]) == ("datasource", "prometheus", "Data source")

    @pytest.mark.parametrize("name", ["job", "instance"])
    def test_template_job_and_instance_rules(self, dashboard, name: str) -> None:
        found = variables(dashboard)[name]
        assert found["type"] == "query" and found["label"] == name.capitalize()
        assert found["multi"] and found["includeAll"] and found["allValue"] == ".+"
        assert found["datasource"]["uid"] == "${datasource}"

    @needs_promtool
    def test_template_label_promql_rule(self, dashboard) -> None:
        for name, each in variables(dashboard).items():
            if each["type"] == "query":
                asked = re.fullmatch(r"label_values\((.+), (\w+)\)", each["query"]["query"])
                assert asked is not None and asked[2] == name
                assert parses([with_values(asked[1])]) == "" and unknown_metrics(asked[1]) == []

    def test_panel_datasource_rule(self, dashboard) -> None:
        for each in (*panels(dashboard), *targets(dashboard)):
            assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}

    def test_panel_title_description_rule(self, dashboard) -> None:
        titles = [panel["title"] for panel in panels(dashboard)]
        assert all(titles) and len(set(titles)) == len(titles)
        assert all(panel["description"].endswith(".") for panel in panels(dashboard))

    def test_panel_units_rule(self, dashboard) -> None:
        assert {panel["fieldConfig"]["defaults"]["unit"] for panel in panels(dashboard)} <= UNITS

    @needs_promtool
    def test_target_promql_rule(self, dashboard) -> None:
        assert parses([with_values(each["expr"]) for each in targets(dashboard)]) == ""

    def test_target_rate_interval_rule(self, dashboard) -> None:
        for each in targets(dashboard):
            assert set(re.findall(r"\[([^\]]+)\]", each["expr"])) <= {"$__rate_interval"}
            assert bool(re.search(r"\b(rate|increase)\(", each["expr"])) == ("[" in each["expr"])

    @pytest.mark.parametrize("label", ["job", "instance"])
    def test_target_job_and_instance_rules(self, dashboard, label: str) -> None:
        for each in targets(dashboard):
            selectors = re.findall(r"\b(?:trueline|grpc_server|process|DCGM|up)\w*\{[^}]*\}", each["expr"])
            assert len(selectors) == len(metrics_in(each["expr"])) > 0
            assert all(f'{label}=~"${label}"' in selector for selector in selectors)

    def test_every_panel_asks_for_metrics_of_the_table(self, dashboard) -> None:
        assert [fault for each in targets(dashboard) for fault in unknown_metrics(each["expr"])] == []

    def test_what_a_run_may_lack_is_said(self, dashboard) -> None:
        board = next(each for each in BOARDS if each.uid == dashboard["uid"])
        for panel, shown in zip(board.panels, panels(dashboard), strict=True):
            assert bool(panel.needs) == ("Empty without" in shown["description"])


def parses(expressions: list[str]) -> str:
    """What Prometheus's parser says against expressions; "" where all are PromQL."""
    rules = [{"record": f"x:{place}", "expr": each} for place, each in enumerate(expressions)]
    return promtool(
        "check", "rules", "--lint=none", page=None, rules={"groups": [{"name": "x", "rules": rules}]}
    )


@needs_promtool
def test_an_expression_that_is_none_would_be_found() -> None:
    assert "parse error" in parses(["rate(trueline_round["])


def test_a_metric_or_label_that_is_none_would_be_found() -> None:
    assert unknown_metrics('sum(trueline_rounds{job="x"})') == ["trueline_rounds"]
    assert unknown_metrics('trueline_round{prompt="x"}') == ["trueline_round{prompt}"]
    assert unknown_metrics("rate(trueline_reward_score_sum[5m])") != []
    assert unknown_metrics("trueline_work_queue_seconds") == ["trueline_work_queue_seconds"]


def test_the_operators_resources_hold_rules_and_dashboards() -> None:
    rule = yaml.safe_load((K8S / "monitoring" / "prometheus-rule.yaml").read_text(encoding="utf-8"))
    plain = yaml.safe_load((K8S / "monitoring" / "rules" / "alerts.yaml").read_text(encoding="utf-8"))
    assert rule["spec"]["groups"] == plain["groups"]
    kustomization = yaml.safe_load((K8S / "monitoring" / "kustomization.yaml").read_text(encoding="utf-8"))
    files = [name for each in kustomization["configMapGenerator"] for name in each["files"]]
    assert sorted(files) == [path.relative_to(K8S / "monitoring").as_posix() for path in FILES]
    assert (ROOT / "docs" / "metrics.md") == DOCS
