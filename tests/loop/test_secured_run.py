"""A run against services elsewhere, each behind TLS and tokens and held to the directory of the runs."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.launcher import REPOSITORY
from orchestrator.verify import verify
from services.tokens import main as tokens_command
from tests.edge.certificates import authority, issue
from tests.loop.small import ledger_of, start_small, succeed
from trueline.tokens import SCOPES

RULES = (
    "gold=worlds.helpdesk.gold:score",
    "best=worlds.helpdesk.gold:best_possible_score",
    "manners=worlds.helpdesk.gold:with_perfect_manners",
)
NAMED = {
    "policy-0": ("policy",),
    "policy-1": ("policy",),
    "reference-0": ("reference",),
    "reward-0": ("reward", "--learned=reward", *(f"--rule={each}" for each in RULES)),
    "trainer-0": ("trainer",),
}
QUICK = (
    "stages.ppo.rounds=2",
    "stages.ppo.gold_every=100",
    "stages.evaluate.prompt_limit=8",
)


@contextlib.contextmanager
def services(folder: Path, flags: list[str]) -> Iterator[dict[str, list[str]]]:
    """Processes of their own; addresses by service. They end with this one."""
    with contextlib.ExitStack() as stack:
        ready = {}
        for name, (service, *more) in NAMED.items():
            ready[name] = folder / f"{name}.ready"
            command = [sys.executable, "-m", f"services.{service}", *more, *flags, "--until-stdin-closes"]
            log = stack.enter_context((folder / f"{name}.log").open("w"))
            process = stack.enter_context(
                subprocess.Popen(
                    [*command, f"--ready-file={ready[name]}"],
                    cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=log, stderr=log,
                )
            )  # fmt: skip
            stack.callback(process.kill)
        addresses: dict[str, list[str]] = {}
        until = time.monotonic() + 120
        for name, file in ready.items():
            while not file.exists():
                assert time.monotonic() < until, (folder / f"{name}.log").read_text()
                time.sleep(0.05)
            port = json.loads(file.read_text())["address"].rpartition(":")[2]
            addresses.setdefault(name.rpartition("-")[0], []).append(f"localhost:{port}")
        yield addresses


@pytest.mark.slow  # a whole run
@pytest.mark.timeout(900)
def test_a_run_ends_behind_tls_and_tokens_and_does_not_begin_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = authority(tmp_path / "root")
    server, runs, tokens = issue(root, "server"), tmp_path / "runs", tmp_path / "tokens"
    runs.mkdir()
    for name, scopes in (("run", ",".join(SCOPES)), ("weak", "read,score")):
        new = ["new", "--name", name, "--scopes", scopes, "--days", "1", "--file", str(tokens)]
        assert tokens_command(new) == 0
        (tmp_path / name).write_text(capsys.readouterr().out)
    edge = [f"--tls-certificate={server.certificate}", f"--tls-key={server.key}", f"--tokens={tokens}"]
    with services(tmp_path, [*edge, f"--artifact-root={runs}"]) as addresses:
        given = [f"services.{name}.addresses={json.dumps(each)}" for name, each in addresses.items()]
        monkeypatch.setenv("TRUELINE_CA", str(root.certificate))
        monkeypatch.setenv("TRUELINE_TOKEN_FILE", str(tmp_path / "weak"))
        assert start_small(runs, "weak", *QUICK, *given).wait(300) == 1
        assert "PERMISSION_DENIED: this needs scope" in (runs / "output.log").read_text()
        monkeypatch.setenv("TRUELINE_TOKEN_FILE", str(tmp_path / "run"))
        succeed(start_small(runs, "run", *QUICK, *given), runs, 500)
    assert verify(ledger_of(runs, "run"), runs / "run").findings == []
