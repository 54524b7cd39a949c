"""A Prometheus of one's own on loopback: Debian's, for `make watch`, benchmarks and tests."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RULES = Path(__file__).parent / "rules"
START_SECONDS, STOP_SECONDS, ANSWER_SECONDS = 60.0, 30.0, 30.0
MISSING = "prometheus is missing: Debian and Ubuntu have it as a package (apt-get install prometheus)"


class NoPrometheus(RuntimeError):
    """There is no Prometheus, or it does not start; the message says what to do."""


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    url: str

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """The samples of an instant query: [{"metric": {...}, "value": [time, "1.5"]}]."""
        more = {} if at is None else {"time": repr(at)}
        found: list[dict[str, Any]] = self._get("query", query=expression, **more)["result"]
        return found

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """The series of a range query: [{"metric": {...}, "values": [[time, "1.5"], ...]}]."""
        moments = {"start": repr(start), "end": repr(end), "step": repr(step)}
        found: list[dict[str, Any]] = self._get("query_range", query=expression, **moments)["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its state and health."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def ready(self) -> bool:
        """Whether it answers queries."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _get(self, what: str, **words: str) -> Any:
        address = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(words)}"
        try:
            with urllib.request.urlopen(address, timeout=ANSWER_SECONDS) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{words.get('query', what)}: {error.read().decode()}") from None


def configuration(targets: str, interval: str) -> str:
    """Scrapes what runs/.targets/*.json name, and evaluates the alerts. JSON is YAML."""
    return json.dumps(
        {
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": "5s"},
            "rule_files": [str(RULES / "*.yaml")],
            "scrape_configs": [
                {"job_name": "trueline", "file_sd_configs": [{"files": [targets], "refresh_interval": "1s"}]}
            ],
        },
        indent=1,
    )


@contextmanager
def prometheus(
    directory: Path, targets: str, interval: str = "2s", address: str | None = None
) -> Iterator[Prometheus]:
    """A server that keeps its data in `directory`; NoPrometheus where there is none or its address is taken.

    Gone with the block.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise NoPrometheus(MISSING)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "prometheus.yml").write_text(configuration(targets, interval), encoding="utf-8")
    address = address or f"127.0.0.1:{free_port()}"
    refuse_taken(address)
    command = [program, f"--config.file={directory / 'prometheus.yml'}", f"--web.listen-address={address}"]
    command += [f"--storage.tsdb.path={directory / 'data'}", "--log.level=warn"]
    with (directory / "prometheus.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        server, until = Prometheus(f"http://{address}"), time.monotonic() + START_SECONDS
        while not server.ready():
            if process.poll() is not None or time.monotonic() > until:
                raise NoPrometheus(f"prometheus does not start; its log is {directory / 'prometheus.log'}")
            time.sleep(0.1)
        if process.poll() is not None:  # whoever answers came to the address first
            raise NoPrometheus(f"prometheus does not start; its log is {directory / 'prometheus.log'}")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def refuse_taken(address: str) -> None:
    """NoPrometheus where HOST:PORT is taken: who listens there would answer in place of ours."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except (OSError, OverflowError, ValueError) as error:
        raise NoPrometheus(
            f"cannot listen on {address}: {error}; give another --address, or stop the system's own "
            "Prometheus, which Debian's package starts on port 9090 (systemctl stop prometheus)"
        ) from None


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
