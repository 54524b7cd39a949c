"""make watch says what is missing, passes words on, and its Prometheus scrapes what a run names."""

import time
from pathlib import Path

from prometheus_client import CollectorRegistry

from k8s.monitoring import watch
from k8s.monitoring.prometheus import prometheus
from orchestrator.metrics import targets
from orchestrator.metrics_door import MetricsDoor, MetricsPage, serving
from tests.monitoring.promtool import needs_promtool


def test_without_a_prometheus_it_says_what_to_install(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert watch.main(["--once", "demo", "--runs", str(tmp_path)]) == 1
    assert "apt-get install prometheus" in capsys.readouterr().err


def test_runs_are_where_the_words_say(tmp_path: Path) -> None:
    assert watch.runs_of(["run", "x.yaml", "--runs", str(tmp_path)]) == tmp_path
    assert watch.runs_of(["demo"]) == Path("runs").resolve()


@needs_promtool
def test_prometheus_scrapes_what_a_run_names_and_knows_the_alerts(tmp_path: Path) -> None:
    with prometheus(tmp_path / ".watch", str(tmp_path / ".targets" / "*.json"), "1s") as server:
        with serving(MetricsDoor("127.0.0.1:0")) as page:
            assert isinstance(page, MetricsPage) and isinstance(page.registry, CollectorRegistry)
            with targets(tmp_path / "run", page, {}):
                until = time.monotonic() + 60
                while not server.query('up{job="orchestrator", instance="orchestrator-0"} == 1'):
                    assert time.monotonic() < until
                    time.sleep(0.2)
        assert {"TruelineRewardHacking", "TruelineServiceDown"} <= {rule["name"] for rule in server.rules()}
