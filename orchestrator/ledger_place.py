"""Where a run's ledger is: a file beside the run, or a database whose URL, without password, is kept there.

    runs/a/ledger.db       SQLite, unless told otherwise
    runs/a/ledger-url      postgresql://trueline@db:5432/ledger

A password comes from where PostgreSQL's own programs take it (PGPASSFILE, ~/.pgpass, PGPASSWORD), or with the
URL given again (--ledger, TRUELINE_LEDGER).
"""

import os
from pathlib import Path

from sqlalchemy.engine import URL

from orchestrator.database import LedgerError, checked_url, shown
from orchestrator.ledger import sqlite_url
from orchestrator.whole_files import replaced

VARIABLE = "TRUELINE_LEDGER"
FILE = "ledger.db"
URL_FILE = "ledger-url"


def holds_run(directory: Path) -> bool:
    """True where a run was begun in the directory."""
    return (directory / FILE).exists() or (directory / URL_FILE).exists()


def new_ledger_url(directory: Path, given: str | None) -> str:
    """The URL for a new run: the one given, TRUELINE_LEDGER's, or a file beside the run. LedgerError."""
    url = given or os.environ.get(VARIABLE)
    return absolute(checked_url(url)) if url else sqlite_url(directory)


def keep_ledger_url(directory: Path, url: str) -> None:
    """Keeps the URL beside the run; one for the file beside it needs no keeping."""
    if url != sqlite_url(directory):
        with replaced(directory / URL_FILE) as file:  # an empty one would lock the run out
            file.write(f"{shown(checked_url(url))}\n".encode())


def kept_ledger_url(directory: Path, given: str | None) -> str:
    """The URL of a run that exists: the one given, else where it began. LedgerError where there is none."""
    if given:
        return absolute(checked_url(given))
    if (directory / URL_FILE).exists():
        kept = (directory / URL_FILE).read_text(encoding="utf-8").strip()
        return with_password(checked_url(kept), os.environ.get(VARIABLE))
    if (directory / FILE).exists():
        return sqlite_url(directory)
    raise LedgerError(f"{directory} holds no run (neither {FILE} nor {URL_FILE})")


def with_password(kept: URL, variable: str | None) -> str:
    """The kept URL, with the password of TRUELINE_LEDGER where that names the same place."""
    if variable:
        here = checked_url(variable)
        if shown(here) == shown(kept):
            return here.render_as_string(hide_password=False)
    return kept.render_as_string(hide_password=False)


def absolute(url: URL) -> str:
    """The URL with its password; an SQLite file's path made absolute, so that it holds in any directory."""
    if url.get_backend_name() == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise LedgerError("a ledger must outlive its process: give sqlite:///path a path")
        url = url.set(database=str(Path(str(url.database)).resolve()))
    return url.render_as_string(hide_password=False)
