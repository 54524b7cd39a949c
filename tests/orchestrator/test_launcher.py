"""Local services: they start, say where they are, are watched, and never outlive their orchestrator."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.launcher import (
    REPOSITORY,
    Child,
    LaunchError,
    LocalProcesses,
    LocalServices,
    ServiceDied,
    service_children,
)
from orchestrator.recipe_settings import Services, Supervision
from trueline import RewardClient

# A service as far as its orchestrator can tell: binds (says so), obeys SIGTERM, ends when stdin does.
CHILD = """
import json, os, pathlib, signal, subprocess, sys, time
behaviour, ready_file = sys.argv[1], pathlib.Path(sys.argv[sys.argv.index("--ready-file") + 1])
print("hello from", behaviour, os.environ["OMP_NUM_THREADS"], flush=True)
if behaviour == "broken":
    sys.exit("cannot bind")
if behaviour == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if behaviour == "parent":
    pathlib.Path(sys.argv[2]).write_text(str(subprocess.Popen(["sleep", "600"]).pid))
if behaviour != "silent":
    beside = ready_file.with_suffix(".tmp")
    beside.write_text(json.dumps({"address": "127.0.0.1:4242", "metrics_address": "", "pid": os.getpid()}))
    beside.rename(ready_file)
if behaviour == "brief":
    time.sleep(0.3)
    sys.exit(7)
sys.stdin.read()
"""


def child(behaviour: str, *arguments: str, threads: int = 1) -> Child:
    return Child(f"{behaviour}-0", [sys.executable, "-c", CHILD, behaviour, *arguments], threads)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie, which only waits to be reaped, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone_within(seconds: float, pids: list[int]) -> bool:
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(alive(pid) for pid in pids)


async def test_children_are_ready_inside_the_block_and_gone_after_it(tmp_path: Path) -> None:
    async with LocalProcesses([child("plain", threads=3), child("other")], tmp_path) as running:
        pids = [started.process.pid for started in running.started]
        assert [started.ready["pid"] for started in running.started] == pids
        assert all(alive(pid) for pid in pids)
        assert running.peak_memory_bytes()["plain-0"] > 1_000_000
    assert not any(alive(pid) for pid in pids)
    assert sorted(os.listdir(tmp_path)) == ["other-0.log", "plain-0.log"]
    assert (tmp_path / "plain-0.log").read_text() == "hello from plain 3\n"
    assert running.peak_memory_bytes()["plain-0"] > 1_000_000, "still known when it is over"


async def test_a_child_that_ignores_sigterm_is_killed_after_the_bounded_wait(tmp_path: Path) -> None:
    async with LocalProcesses([child("stubborn")], tmp_path, term_seconds=0.3) as running:
        process = running.started[0].process
    assert process.returncode == -signal.SIGKILL


async def test_what_a_child_started_ends_with_it(tmp_path: Path) -> None:
    async with LocalProcesses([child("parent", str(tmp_path / "pid"))], tmp_path):
        grandchild = int((tmp_path / "pid").read_text())
        assert alive(grandchild)
    assert gone_within(2, [grandchild])


async def test_a_death_is_told_at_once_with_exit_code_and_last_lines(tmp_path: Path) -> None:
    never = Supervision(restarts=0)
    async with LocalProcesses([child("plain"), child("brief")], tmp_path, supervision=never) as running:
        with pytest.raises(ServiceDied, match=r"brief-0 ended with exit code 7(.|\n)*\| hello from brief"):
            await asyncio.wait_for(running.died, 5)


async def test_a_killed_child_is_told_with_its_signal(tmp_path: Path) -> None:
    async with LocalProcesses([child("plain")], tmp_path, supervision=Supervision(restarts=0)) as running:
        os.kill(running.started[0].process.pid, signal.SIGKILL)
        with pytest.raises(ServiceDied, match="plain-0 ended with signal SIGKILL"):
            await asyncio.wait_for(running.died, 5)


async def test_a_child_that_ends_before_it_is_ready_fails_the_start_and_takes_the_others_along(
    tmp_path: Path,
) -> None:
    running = LocalProcesses([child("plain"), child("broken")], tmp_path)
    with pytest.raises(ServiceDied, match=r"broken-0 ended with exit code 1(.|\n)*\| cannot bind"):
        await running.__aenter__()
    assert not any(alive(started.process.pid) for started in running.started)


async def test_a_child_that_never_gets_ready_fails_the_start_in_bounded_time(tmp_path: Path) -> None:
    running = LocalProcesses([child("silent")], tmp_path, ready_seconds=0.4)
    with pytest.raises(LaunchError, match=r"silent-0: not ready after 0.4 s; its log is .*silent-0.log"):
        await running.__aenter__()
    assert not alive(running.started[0].process.pid)


async def test_a_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="ghost-0: cannot run /no/such/python"):
        await LocalProcesses([Child("ghost-0", ["/no/such/python"], 1)], tmp_path).__aenter__()


def test_kill_9_of_the_orchestrator_leaves_no_child_behind(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(
        "import asyncio, os, pathlib, sys\n"
        "from orchestrator.launcher import Child, LocalProcesses\n"
        f"code = {CHILD!r}\n"
        "async def main():\n"
        "    children = [Child(n, [sys.executable, '-c', code, n], 1) for n in ('plain-0', 'stubborn')]\n"
        "    async with LocalProcesses(children, pathlib.Path(sys.argv[1])) as running:\n"
        "        print(*(each.process.pid for each in running.started), flush=True)\n"
        "        await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2 and all(alive(pid) for pid in pids)
        parent.kill()
    assert gone_within(5, pids)


def test_each_replica_is_a_process_of_its_own_and_addresses_start_none() -> None:
    services = Services.model_validate(
        {
            "policy": {"replicas": 2, "threads": 3},
            "reference": {"addresses": ["far:50051"]},
            "reward": {"learned": ["reward"], "rules": {"gold": "worlds.helpdesk.gold:score"}},
        }
    )
    children = service_children(services, "python3")
    assert [each.name for each in children] == ["policy-0", "policy-1", "reward-0", "trainer-0"]
    assert children[0].command[:3] == ["python3", "-m", "services.policy"] and children[0].threads == 3
    assert " ".join(children[2].command).endswith("--learned reward --rule gold=worlds.helpdesk.gold:score")
    assert [each.name for each in service_children(services, "python3", frozenset({"trainer"}))] == [
        "trainer-0"
    ]


async def test_addresses_that_are_given_are_connected_to_and_nothing_is_launched(tmp_path: Path) -> None:
    given = {name: {"addresses": [f"{name}:1"]} for name in ("policy", "reference", "reward", "trainer")}
    async with LocalServices(Services.model_validate(given), tmp_path) as local:
        assert local.addresses["trainer"] == ["trainer:1"]
        assert local.pids == {} and not local.died.done()


async def test_a_real_service_answers_and_ends_when_its_pipe_closes(tmp_path: Path) -> None:
    rules = {"gold": "worlds.helpdesk.gold:score"}
    services = Services.model_validate({"reward": {"rules": rules}})
    only, never = frozenset({"reward"}), Supervision(restarts=0)
    async with LocalServices(services, tmp_path, only=only, supervision=never) as local:
        async with RewardClient(local.addresses["reward"]) as reward:
            prompt, response = (
                "my red lamp from monday arrived broken .",
                "please hold on . it was your own fault .",
            )
            scored = await reward.score(items=[(prompt, response)], scorer="gold")
        assert scored.scores[0].value.raw == pytest.approx(-1.15)
        assert local.peak_memory_bytes()["reward-0"] > 10_000_000
        process = local._processes.started[0].process
        assert process.stdin is not None
        process.stdin.close()  # what the kernel does to the pipe of an orchestrator that is killed
        with pytest.raises(ServiceDied, match="reward-0 ended"):
            await asyncio.wait_for(local.died, 5)
