"""python -m k8s.monitoring: writes what is generated from code and rules, and says which files changed.

k8s/monitoring/dashboards/*.json       from the boards in this folder
k8s/monitoring/prometheus-rule.yaml    from rules/*.yaml, for the Prometheus operator
docs/metrics.md                        its list, from trueline.metrics
"""

import json
from pathlib import Path

import yaml

from k8s.monitoring.board import Board, as_json
from k8s.monitoring.feedback_board import FEEDBACK
from k8s.monitoring.services_board import SERVICES
from k8s.monitoring.training_board import TRAINING
from trueline.metrics import METRICS, Metric

HERE = Path(__file__).parent
BOARDS: tuple[Board, ...] = (TRAINING, FEEDBACK, SERVICES)
DOCS = HERE.parent.parent / "docs" / "metrics.md"
BEGIN, END = "<!-- metrics: generated -->", "<!-- metrics: end -->"
GENERATED = "# Generated from rules/*.yaml by python -m k8s.monitoring; promtool reads those and not this.\n"


def generated() -> dict[Path, str]:
    """Every generated file and what it has to hold."""
    files = {
        HERE / "dashboards" / f"{board.uid}.json": json.dumps(as_json(board), indent=1) + "\n"
        for board in BOARDS
    }
    files[HERE / "prometheus-rule.yaml"] = GENERATED + yaml.safe_dump(prometheus_rule(), sort_keys=False)
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    files[DOCS] = f"{before}{BEGIN}\n{metrics_list()}{END}{rest.partition(END)[2]}"
    return files


def prometheus_rule() -> dict[str, object]:
    """The rules as the operator's custom resource."""
    groups = [
        group
        for path in sorted((HERE / "rules").glob("*.yaml"))
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    ]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "trueline"},
        "spec": {"groups": groups},
    }


def metrics_list() -> str:
    """The table of docs/metrics.md: a part for each set of exporters."""
    parts: dict[tuple[str, ...], list[Metric]] = {}
    for metric in METRICS.values():
        parts.setdefault(metric.exporters, []).append(metric)
    return "\n".join(
        f"\n### {', '.join(exporters)}\n\n| metric | type | labels | what it says |\n|---|---|---|---|\n"
        + "".join(line(metric) for metric in metrics)
        for exporters, metrics in parts.items()
    )


def line(metric: Metric) -> str:
    """A metric's line; several numbers of one metric are told apart behind it."""
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    text = metric.help
    if len(metric.numbers) > 1:
        told = [f"{'/'.join(each.labels)}: {each.help}" for each in metric.numbers]
        text = " ".join([text, *told])
    return f"| `{metric.name}` | {metric.type} | {labels} | {text.replace('|', chr(92) + '|')} |\n"


def main() -> None:
    """Writes what is stale."""
    for path, text in generated().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(HERE.parent.parent))


if __name__ == "__main__":
    main()
