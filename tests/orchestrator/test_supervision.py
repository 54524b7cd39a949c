"""Local services are started again where they were, killed where they hang, given up where that is no use."""

import asyncio
import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from orchestrator import launcher
from orchestrator.launcher import REPOSITORY, Child, LocalProcesses, LocalServices, ServiceDied, Started
from orchestrator.recipe_settings import Services, Supervision
from trueline import RewardClient, wait_until_ready

PAIR = ("my red lamp from monday arrived broken .", "please hold on . it was your own fault .")
# Binds the address it is told, or makes one up; says so; obeys; counts its starts in a file.
CHILD = """
import argparse, json, os, pathlib, sys
parser = argparse.ArgumentParser()
for flag in ("--address", "--ready-file", "--starts", "--fails-from"):
    parser.add_argument(flag)
options, _ = parser.parse_known_args()
starts = pathlib.Path(options.starts)
count = len(starts.read_text().splitlines()) if starts.exists() else 0
with starts.open("a") as file:
    print(options.address, file=file)
print("start", count, flush=True)
if options.fails_from and count >= int(options.fails_from):
    sys.exit("cannot bind")
ready = pathlib.Path(options.ready_file)
beside = ready.with_suffix(".tmp")
address = options.address if not options.address.endswith(":0") else "127.0.0.1:4242"
beside.write_text(json.dumps({"address": address, "metrics_address": "", "pid": os.getpid()}))
beside.rename(ready)
sys.stdin.read()
"""


def child(folder: Path, *words: str) -> Child:
    starts = ("--address", "127.0.0.1:0", "--starts", str(folder / "starts"))
    return Child("policy-0", [sys.executable, "-c", CHILD, *starts, *words], 1)


async def until(true: object, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


def starts(folder: Path) -> list[str]:
    return (folder / "starts").read_text().splitlines()


async def test_a_killed_process_comes_back_under_its_address_and_the_log_line_says_so(tmp_path: Path) -> None:
    told: list[str] = []
    async with LocalProcesses([child(tmp_path)], tmp_path, tell=told.append) as running:
        first = running.started[0].process.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: running.started[0].is_ready and running.started[0].process.pid != first)
        assert not running.died.done()
    assert starts(tmp_path) == ["127.0.0.1:0", "127.0.0.1:4242"]
    assert told[0].startswith(
        "policy-0 ended with signal SIGKILL; started again at 127.0.0.1:4242 in 0.5 s, restart 1 of 5"
    )
    assert "policy-0.log" in told[0] and "| start 0" in told[0]


async def test_a_display_on_a_full_disk_keeps_no_process_down(tmp_path: Path) -> None:
    def full(_: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with LocalProcesses([child(tmp_path)], tmp_path, tell=full) as running:
        first = running.started[0].process.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: running.started[0].is_ready and running.started[0].process.pid != first)
        assert not running.died.done()


async def test_a_watcher_that_fails_ends_the_run_and_not_in_silence(tmp_path: Path) -> None:
    def wrong(_: str) -> None:
        raise ValueError("the display is broken")

    async with LocalProcesses([child(tmp_path)], tmp_path, tell=wrong) as running:
        os.kill(running.started[0].process.pid, signal.SIGKILL)
        with pytest.raises(ValueError, match="the display is broken"):
            await asyncio.wait_for(running.died, 60)


async def test_a_process_that_ends_too_often_ends_the_run_with_its_last_lines(tmp_path: Path) -> None:
    twice = Supervision(restarts=2)
    failing = child(tmp_path, "--fails-from", "1")
    async with LocalProcesses([failing], tmp_path, supervision=twice) as running:
        os.kill(running.started[0].process.pid, signal.SIGKILL)
        died = r"exit code 1 after 2 restarts within 600 s(.|\n)*cannot bind"
        with pytest.raises(ServiceDied, match=died) as caught:
            await asyncio.wait_for(running.died, 60)
    assert "| start 2" in str(caught.value), "its own last words"
    assert "| start 1" not in str(caught.value), "and not those of its lives before"
    assert len(starts(tmp_path)) == 3


async def test_the_pause_before_a_restart_doubles_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(launcher, "LONGEST_PAUSE_SECONDS", 0.02)
    told: list[str] = []
    often = Supervision(restarts=5000)  # a pause that doubled so often would be no float
    async with LocalProcesses([child(tmp_path)], tmp_path, supervision=often, tell=told.append) as running:
        running._restarts["policy-0"] = [time.monotonic()] * 4000
        for number in (1, 2, 3, 4):
            running.started[0].signal(signal.SIGKILL)
            await until(lambda n=number: len(starts(tmp_path)) == n + 1 and running.started[0].is_ready)
            if number == 1:
                running._restarts["policy-0"].clear()
    pauses = re.findall(r" in ([\d.]+) s, restart", "\n".join(told))
    assert pauses == ["0.02", "0.01", "0.02", "0.02"]


async def test_restarts_of_long_ago_do_not_count(tmp_path: Path) -> None:
    brief = Supervision(restarts=1, restart_window_seconds=0.1)
    async with LocalProcesses([child(tmp_path)], tmp_path, supervision=brief) as running:
        for number in (1, 2, 3):
            await until(lambda: running.started[0].is_ready)
            os.kill(running.started[0].process.pid, signal.SIGKILL)
            await until(lambda number=number: len(starts(tmp_path)) == number + 1)
        assert not running.died.done()


async def test_a_stopped_process_that_answers_no_check_is_killed_and_comes_back(tmp_path: Path) -> None:
    told: list[str] = []

    async def answers(started: Started) -> bool:
        return psutil.Process(started.process.pid).status() != psutil.STATUS_STOPPED

    limits = Supervision(health_seconds=1.0)
    async with LocalProcesses(
        [child(tmp_path)], tmp_path, supervision=limits, answers=answers, tell=told.append
    ) as running:
        first = running.started[0].process.pid
        os.kill(first, signal.SIGSTOP)
        await until(lambda: running.started[0].is_ready and running.started[0].process.pid != first)
    assert "killed: its health check was not answered for 1 s" in told[0]


async def test_only_a_process_that_saw_the_missed_call_is_killed_for_it(tmp_path: Path) -> None:
    async with LocalServices(Services(), tmp_path, only=frozenset()) as local:
        async with LocalProcesses([child(tmp_path)], tmp_path) as running:
            local._processes = running
            before, first = running.started[0].began - 1, running.started[0].process.pid
            local.kill_stuck("policy", before, "late")
            local.kill_stuck("reward", time.monotonic(), "another service")
            assert not running.started[0].killed_for
            local.kill_stuck("policy", time.monotonic(), "late")
            await until(lambda: running.started[0].is_ready and running.started[0].process.pid != first)


async def test_leaving_the_block_waits_for_no_restart(tmp_path: Path) -> None:
    async with LocalProcesses([child(tmp_path)], tmp_path, term_seconds=60.0) as running:
        os.kill(running.started[0].process.pid, signal.SIGKILL)
        await until(lambda: running.started[0].process.returncode is not None)
        began = time.monotonic()
    assert time.monotonic() - began < 30 and len(starts(tmp_path)) == 1


async def test_a_real_service_is_found_again_by_those_who_knew_its_address(tmp_path: Path) -> None:
    """Killed, then stopped: the same client scores again each time, and nobody told it anything."""
    services = Services.model_validate({"reward": {"rules": {"gold": "worlds.helpdesk.gold:score"}}})
    limits, told = Supervision(health_seconds=5.0), list[str]()
    only = frozenset({"reward"})
    async with LocalServices(services, tmp_path, only=only, supervision=limits, tell=told.append) as local:
        async with RewardClient(local.addresses["reward"]) as reward:
            for number in (signal.SIGKILL, signal.SIGSTOP):
                pid = local.pids["reward-0"]
                await wait_until_ready(reward, timeout=90)
                os.kill(pid, number)
                await until(lambda pid=pid: local.pids["reward-0"] != pid, 90)
                await wait_until_ready(reward, timeout=90)
                scored = await reward.score("gold", [PAIR], deadline=30)
                assert scored.scores[0].HasField("value")
    assert "signal SIGKILL; started" in told[0] and "health check was not answered for 5 s" in told[1]


def test_a_leashed_command_ends_with_whoever_started_it(tmp_path: Path) -> None:
    script = f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))"
    parent = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-m', 'orchestrator.leash', sys.executable, '-c', sys.argv[1]],\n"
        "                 stdin=subprocess.PIPE, start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", parent, script + "; time.sleep(600)"]
    with subprocess.Popen(command, cwd=REPOSITORY) as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        leashed = int((tmp_path / "pid").read_text())
        process.kill()
    while Path(f"/proc/{leashed}").exists():
        assert time.monotonic() < deadline, "it outlived its parent"
        time.sleep(0.02)
