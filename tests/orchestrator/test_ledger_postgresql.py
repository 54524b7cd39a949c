"""A ledger in PostgreSQL: found without its password, written once through restarts, fenced by row locks."""

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from orchestrator.__main__ import main
from orchestrator.database import checked_url, passes, shown
from orchestrator.drive import new_run, open_run
from orchestrator.ending import stop_on_signals
from orchestrator.launcher import REPOSITORY
from orchestrator.ledger import Ledger, LedgerError, LostLease, open_engine
from orchestrator.ledger_place import VARIABLE, kept_ledger_url
from tests.postgresql_server import Server, postgresql_server

RECIPE = REPOSITORY / "recipes" / "helpdesk-ppo.yaml"


def test_a_run_is_found_again_by_the_url_beside_it(postgresql: Server, tmp_path: Path) -> None:
    url = postgresql.new_database("found")
    begun = new_run(RECIPE, tmp_path / "a", [], None, url)
    begun.take_lease()
    assert not (tmp_path / "a" / "ledger.db").exists()
    assert open_run(tmp_path / "a").info()["epoch"] == 1
    with pytest.raises(LedgerError, match="holds a run already"):
        new_run(RECIPE, tmp_path / "a", [], None, url)
    with pytest.raises(LedgerError, match="run a exists"):
        new_run(RECIPE, tmp_path / "elsewhere" / "a", [], None, url)
    assert not (tmp_path / "elsewhere" / "a").exists(), "a run that never began leaves nothing"


def test_the_command_line_and_the_variable_name_the_ledger(
    postgresql: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, postgresql.new_database("variable"))
    new_run(RECIPE, tmp_path / "a", [], None)
    monkeypatch.delenv(VARIABLE)
    new_run(RECIPE, tmp_path / "b", [], None)
    assert main(["status", "--runs", str(tmp_path)]) == 0
    assert "a: new, nothing begun" in capsys.readouterr().out
    other = postgresql.new_database("other")
    assert main(["status", "a", "--runs", str(tmp_path), "--ledger", other]) == 1
    assert "run a is not in this ledger" in capsys.readouterr().err


def test_no_password_is_kept_and_the_variable_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "postgresql://me:hush@db:5433/ledger?sslmode=require&password=hush2"
    assert shown(checked_url(secret)) == "postgresql://me@db:5433/ledger?sslmode=require"
    (tmp_path / "ledger-url").write_text(shown(checked_url(secret)))
    assert "hush" not in kept_ledger_url(tmp_path, None)
    monkeypatch.setenv(VARIABLE, "postgresql://me:hush@db:5433/ledger?sslmode=require")
    assert checked_url(kept_ledger_url(tmp_path, None)).password == "hush"
    monkeypatch.setenv(VARIABLE, "postgresql://me:hush@another:5433/ledger?sslmode=require")
    assert checked_url(kept_ledger_url(tmp_path, None)).password is None, "another place's password"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://db/ledger", "sqlite:///... or postgresql://..., not in mysql"),
        ("ledger", "cannot be read"),
        ("sqlite://", "must outlive its process"),
    ],
)
def test_a_ledger_elsewhere_is_refused(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(LedgerError, match=said):
        new_run(RECIPE, tmp_path / "a", [], None, url)
    assert not (tmp_path / "a").exists()


def test_a_missing_driver_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        LedgerError, match=r"needs psycopg, which is not installed: pip install 'trueline\[postg"
    ):
        new_run(RECIPE, tmp_path / "a", [], None, "postgresql://db/ledger")


def test_a_database_that_is_not_there_is_said_at_once(postgresql: Server) -> None:
    with pytest.raises(
        LedgerError, match=r'postgresql://.*/nowhere: cannot be opened: .*"nowhere" does not exist'
    ):
        open_engine(postgresql.url("nowhere"))


def test_which_errors_may_pass(postgresql: Server) -> None:
    def met(error: Exception) -> bool:
        return passes(sa.exc.OperationalError("", None, error))

    assert met(psycopg.errors.AdminShutdown()) and met(psycopg.errors.LockNotAvailable())
    assert met(psycopg.OperationalError("connection failed: Connection refused"))
    assert not met(psycopg.errors.DiskFull()), "an operator's errand, not a minute's"
    assert not met(psycopg.OperationalError('FATAL:  password authentication failed for user "me"'))
    assert not passes(sa.exc.IntegrityError("", None, psycopg.errors.UniqueViolation()))


@pytest.mark.timeout(240)
def test_a_server_that_restarts_in_the_middle_loses_and_repeats_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """300 rounds written while the server crashes three times: every row once, in order, under one epoch."""
    with postgresql_server() as server:
        ledger = Ledger(open_engine(server.new_database("ledger")), "run-a")
        ledger.create(seed=0, recipe={}, recipe_sha256="r", code_sha256="c")
        ledger.take_lease()
        written, failure = threading.Event(), []
        progress = {"round": 0}

        def write() -> None:
            try:
                for number in range(1, 301):
                    ledger.begin_round("ppo", number, 8)
                    ledger.finish_phase("ppo", number, "sampled", {"number": number})
                    ledger.add_version("policy", number, f"{number:064x}", "/v", "ppo", number)
                    ledger.commit_round("ppo", number, {"number": number}, 1.0)
                    progress["round"] = number
            except Exception as error:
                failure.append(error)
            finally:
                written.set()

        writer = threading.Thread(target=write)
        writer.start()
        for number in (20, 100, 200):
            while progress["round"] < number and not written.wait(0.002):
                pass
            server.stop()
            server.start()
        assert written.wait(200) and failure == [], failure
        writer.join()
        again = Ledger(open_engine(server.url("ledger")), "run-a")
        assert again.info()["epoch"] == 1
        rounds = again.all_rounds("ppo")
        assert [row.number for row in rounds] == list(range(1, 301))
        assert all(row.cursor_start == 8 * (row.number - 1) and row.status == "committed" for row in rounds)
        assert [row["number"] for row in again.all_versions()] == list(range(1, 301))
        sequence = sorted(row["sequence"] for row in [*again.phase_rows(), *again.all_versions()])
        assert sequence == list(range(1, 601)), "each row was counted once"
        assert "does not answer" in caplog.text and "answers again" in caplog.text


def test_a_server_that_stays_away_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    with postgresql_server() as server:
        ledger = Ledger(open_engine(server.new_database("ledger")), "run-a")
        ledger.create(seed=0, recipe={}, recipe_sha256="r", code_sha256="c")
        server.stop()
        ledger.database.patience = 0.3
        with pytest.raises(sa.exc.OperationalError):
            ledger.take_lease()
        server.start()
        ledger.database.patience = 60.0
        assert ledger.take_lease() == 1


async def test_ctrl_c_twice_stops_now_though_the_loop_itself_waits_for_the_database() -> None:
    def press() -> None:
        for _ in range(2):
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGINT)

    with postgresql_server() as server:
        ledger = Ledger(open_engine(server.new_database("ledger")), "run-a")
        ledger.create(seed=0, recipe={}, recipe_sha256="r", code_sha256="c")
        server.stop()
        began = time.monotonic()
        with stop_on_signals(asyncio.Event()):
            threading.Thread(target=press, daemon=True).start()
            with pytest.raises(sa.exc.OperationalError):
                ledger.take_lease()
            assert 0.9 < time.monotonic() - began < 20
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(30)
        server.start()
        assert ledger.take_lease() == 1, "and the next one to wait does so"


def test_no_lease_changes_hands_before_a_write_is_committed(postgresql: Server) -> None:
    """The second orchestrator waits for the row; the first's write is whole before its lease is gone."""
    url = postgresql.new_database("fence")
    first, second = (Ledger(open_engine(url), "run-a") for _ in range(2))
    first.create(seed=0, recipe={}, recipe_sha256="r", code_sha256="c")
    first.take_lease()
    inside, epochs = threading.Event(), []

    def take() -> None:
        inside.wait(30)
        epochs.append(second.take_lease())

    taker = threading.Thread(target=take)
    taker.start()

    def slowly(connection: sa.Connection, row: dict[str, object]) -> None:
        inside.set()
        taker.join(0.5)
        assert taker.is_alive() and epochs == [], "the lease changed hands inside a write"
        first._change(connection, status="running")

    first._write(slowly)
    taker.join(30)
    assert epochs == [2] and second.info()["status"] == "running"
    with pytest.raises(LostLease):
        first.set_run(status="failed")
