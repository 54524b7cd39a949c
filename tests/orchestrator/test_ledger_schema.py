"""Ledgers of other schemas: an older one is brought up to date and gone on with, a newer one is refused."""

import secrets
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from orchestrator import migrations
from orchestrator.ledger import Ledger, LedgerError, open_engine, sqlite_url
from orchestrator.schema import REVISION, metadata
from tests.postgresql_server import Server

OLD = Path(__file__).parent / "ledger-1.sql"  # sqlite3 .dump of one that the first program wrote


def old_ledger(directory: Path) -> Ledger:
    with sqlite3.connect(directory / "ledger.db") as connection:
        connection.executescript(OLD.read_text())
    connection.close()
    return Ledger(open_engine(sqlite_url(directory)), "old-run")


def test_a_run_of_the_first_schema_goes_on(tmp_path: Path) -> None:
    ledger = old_ledger(tmp_path)
    assert ledger.info()["epoch"] == 1 and ledger.info()["seed"] == 7
    assert ledger.take_lease() == 2
    first, second = ledger.all_rounds("ppo")
    assert (first.status, second.status) == ("committed", "open") and not first.payloads_removed
    ledger.commit_round("ppo", 2, {"loss": 0.25}, 1.0)
    assert ledger.begin_round("ppo", 3, 8).cursor_start == 16
    ledger.finish_phase("ppo", 3, "sampled", {"chunks": 1})
    assert [row["phase"] for row in ledger.phase_rows()][-1] == "sampled", "new rows stand behind old ones"
    ledger.add_version("policy", 3, "f" * 64, "/v", "ppo", 3)
    newest = ledger.latest_version("policy")
    assert newest is not None and newest["number"] == 3 and ledger.newest_model() == "policy"
    assert len(ledger.all_comparisons("pairs")) == 1 and len(ledger.all_checkpoints()) == 1


def test_a_ledger_is_brought_up_to_date_once(tmp_path: Path) -> None:
    old_ledger(tmp_path)
    engine = open_engine(sqlite_url(tmp_path))
    with engine.connect() as connection:
        assert migrations.revision_of(connection) == REVISION


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    engine = old_ledger(tmp_path).database.engine
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {migrations.TABLE} SET version_num = '9999'"))
    with pytest.raises(LedgerError, match="its schema is 9999; this program knows 0001.* newer Trueline"):
        open_engine(sqlite_url(tmp_path))
    with engine.connect() as connection:
        assert migrations.revision_of(connection) == "9999"


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_steps_make_what_the_schema_says(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = sqlite_url(tmp_path)
    if kind == "postgresql":
        server: Server = request.getfixturevalue("postgresql")
        url = server.new_database(secrets.token_hex(4))
    with open_engine(url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": migrations.TABLE})
        assert compare_metadata(context, metadata) == []
        assert migrations.revision_of(connection) == REVISION
