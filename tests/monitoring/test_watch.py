"""make watch says what is missing, passes words on, and its Prometheus scrapes what a run names."""

import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from k8s.monitoring import prometheus as server_module
from k8s.monitoring import watch
from k8s.monitoring.prometheus import NoPrometheus, prometheus
from orchestrator.metrics import targets
from orchestrator.metrics_door import MetricsDoor, MetricsPage, serving
from tests.monitoring.promtool import needs_promtool


def test_without_a_prometheus_it_says_what_to_install(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert watch.main(["--once", "demo", "--runs", str(tmp_path)]) == 1
    assert "apt-get install prometheus" in capsys.readouterr().err


class Ready(BaseHTTPRequestHandler):
    """What a Prometheus says that has been there before."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Not to the tests' output."""


@pytest.mark.parametrize(("taken", "said"), [(True, "--address"), (False, "does not start")])
def test_another_server_at_the_address_is_not_taken_for_ours(monkeypatch, tmp_path, taken, said) -> None:
    program = tmp_path / "prometheus"  # it ends at once, as the real one does where its address is taken
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    if not taken:  # it came between the look and the start
        monkeypatch.setattr(server_module, "refuse_taken", lambda address: None)
        monkeypatch.setattr(server_module.Prometheus, "ready", lambda self: time.sleep(0.5) or True)
    with HTTPServer(("127.0.0.1", 0), Ready) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(NoPrometheus, match=said):
            with prometheus(tmp_path, "none", address=f"127.0.0.1:{other.server_port}"):
                pass
        other.shutdown()


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
