"""A ledger's database: SQLite beside the run, or PostgreSQL by URL. Transactions outlive its restarts.

    database = Database(open_engine("postgresql://trueline@db/ledger"))
    database.write(lambda connection: connection.execute(...))

A transaction whose connection was lost is run again, for a bounded time. Its commit may have happened all the
same with only the answer lost, so whatever is given to `write` must be safe to repeat.
"""

import importlib.util
import json
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine

from orchestrator.schema import REVISION

log = logging.getLogger(__name__)
T = TypeVar("T")

PATIENCE_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 2.0
AT_ONCE = threading.Event()  # set while this process was told to stop now: nobody waits for a database
SQLITE_LOCK_MILLISECONDS = 30_000
# Every wait of PostgreSQL is bounded: a half-open connection, a lock whose holder was stopped.
POSTGRESQL = {
    "application_name": "trueline",
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "options": "-c lock_timeout=20s -c statement_timeout=50s -c idle_in_transaction_session_timeout=50s",
}
MIGRATION_LOCK = 0x7472_6C6E  # any number that others are unlikely to choose
NON_FINITE = "$float"  # PostgreSQL's JSON knows no NaN


class LedgerError(Exception):
    """The ledger refuses: an unknown run, a changed recipe, a database that cannot be used."""


class LostLease(LedgerError):
    """Another orchestrator took the run over; this one must write nothing more."""


def checked_url(text: str) -> URL:
    """A ledger's URL as SQLAlchemy wants it. LedgerError for one of another kind."""
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError:
        raise LedgerError(
            "the ledger's URL cannot be read; it looks like postgresql://user@host/name"
        ) from None
    kind = url.drivername.partition("+")[0]
    if kind == "sqlite":
        return url
    if kind not in ("postgresql", "postgres"):
        raise LedgerError(f"a ledger is kept in sqlite:///... or postgresql://..., not in {kind}://...")
    if importlib.util.find_spec("psycopg") is None:
        raise LedgerError(
            "a ledger in PostgreSQL needs psycopg, which is not installed: pip install 'trueline[postgres]'"
        )
    given = {name: value for name, value in POSTGRESQL.items() if name not in url.query}
    return url.set(drivername="postgresql+psycopg").update_query_dict(given)


def open_engine(url: str) -> Engine:
    """An engine for sqlite:///path or postgresql://..., its schema brought up to date. LedgerError."""
    checked = checked_url(url)
    options: dict[str, Any] = dict(json_serializer=to_json, json_deserializer=from_json)
    if checked.get_backend_name() == "postgresql":
        options |= dict(pool_pre_ping=True, pool_size=2)
    engine = sa.create_engine(checked, **options)
    if engine.dialect.name == "sqlite":
        _make_durable(engine)
    _bring_up_to_date(Database(engine), checked)
    return engine


def _make_durable(engine: Engine) -> None:
    """SQLite in WAL mode with full fsync; a writer takes its lock before it reads."""

    @sa.event.listens_for(engine, "connect")
    def durable(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        # A row that is there must stay there when the machine loses power. The time limit comes first: the
        # change to WAL may have to wait too.
        for pragma in (
            f"busy_timeout={SQLITE_LOCK_MILLISECONDS}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A reader that turns writer would fail where another writer came between.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _bring_up_to_date(database: "Database", url: URL) -> None:
    from orchestrator import migrations  # a quarter of a second that only the opening of a ledger costs

    def steps(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        if migrations.revision_of(connection) != REVISION:
            migrations.migrate(connection)

    try:
        if database.read(migrations.revision_of) != REVISION:
            database.write(steps)
    except migrations.UnknownSchema as error:
        raise LedgerError(
            f"{shown(url)}: {error}. A newer Trueline wrote this ledger: go on with that one"
        ) from None
    except sa.exc.OperationalError as error:
        raise LedgerError(f"{shown(url)}: cannot be opened: {str(error.orig).strip()}") from None


class Database:
    """Transactions on one engine, tried again for `patience` seconds while it cannot be reached."""

    def __init__(self, engine: Engine, patience: float = PATIENCE_SECONDS) -> None:
        self.engine, self.patience = engine, patience

    def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` reads, all of it as of one moment."""
        postgresql = self.engine.dialect.name == "postgresql"
        return self._patiently(work, {"isolation_level": "REPEATABLE READ"} if postgresql else {})

    def write(self, work: Callable[[Connection], T]) -> T:
        """Commits what `work` writes. It may run more than once: see above."""
        return self._patiently(work, {"writes": True})

    def _patiently(self, work: Callable[[Connection], T], options: dict[str, Any]) -> T:
        deadline, pause, waiting = time.monotonic() + self.patience, 0.05, False
        while True:
            try:
                with self.engine.connect().execution_options(**options) as connection:
                    with connection.begin():
                        done = work(connection)
            except sa.exc.DBAPIError as error:
                if not passes(error) or AT_ONCE.is_set() or time.monotonic() + pause > deadline:
                    raise
                if not waiting:
                    told = "the ledger's database does not answer (%s): trying for %.0f s; see that it runs"
                    log.warning(told, str(error.orig).strip(), self.patience)
                waiting = True
                _rest(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                if waiting:
                    log.warning("the ledger's database answers again; nothing was lost")
                return done


def _rest(seconds: float) -> None:
    """Sleeps, but no longer once the process is told to stop now: its loop may be what waits."""
    until = time.monotonic() + seconds
    while not AT_ONCE.is_set() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))


# By SQLSTATE: connections lost, a server going down or coming up, no room for another connection, a failed
# serialisation, a lock that was not got, a transaction that stood idle.
PASSING_STATES = ("08", "57P01", "57P02", "57P03", "53300", "40001", "40P01", "55P03", "25P03")
# A refused connection carries no state. A server that says one of these will say the same in a minute.
LASTING_REFUSALS = ("authentication failed", "does not exist", "no password supplied", "pg_hba.conf")
SQLITE_PASSING = ("database is locked", "database or disk is full")


def passes(error: sa.exc.DBAPIError) -> bool:
    """True for what may pass by itself: a lost connection, a restarting server, a held lock, a full disk."""
    if error.connection_invalidated:
        return True
    if not isinstance(error, sa.exc.OperationalError | sa.exc.InternalError):
        return False
    text, state = str(error.orig), getattr(error.orig, "sqlstate", None)
    if state is not None:
        return bool(state.startswith(PASSING_STATES))
    if type(error.orig).__module__.startswith("sqlite3"):
        return text.startswith(SQLITE_PASSING)
    return not any(refusal in text for refusal in LASTING_REFUSALS)


def shown(url: URL) -> str:
    """A URL for people and files: without its password and without what we added."""
    query = {
        name: value
        for name, value in url.query.items()
        if name not in ("password", "sslpassword") and POSTGRESQL.get(name) != value
    }
    drivername = "postgresql" if url.get_backend_name() == "postgresql" else url.drivername
    bare = URL.create(drivername, url.username, None, url.host, url.port, url.database, query)
    return bare.render_as_string(hide_password=False)


def to_json(value: Any) -> str:
    """JSON that both engines take: a number that is not finite becomes {"$float": "nan"}."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_marked(value), allow_nan=False)


def from_json(text: str) -> Any:
    """The value that `to_json` was given."""
    return json.loads(text, object_hook=_unmarked)


def _marked(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {NON_FINITE: str(value)}
    if isinstance(value, dict):
        return {name: _marked(each) for name, each in value.items()}
    return [_marked(each) for each in value] if isinstance(value, list | tuple) else value


def _unmarked(value: dict[str, Any]) -> Any:
    return float(value[NON_FINITE]) if value.keys() == {NON_FINITE} else value
