"""Brings a ledger of an earlier schema to the present one. Alembic does the work; versions/ holds the steps.

A change of schema.py is a new file in versions/ and its number in schema.REVISION; a test compares what the
steps make with what schema.py says. There is no way down: a ledger is never made older.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

TABLE = "trueline_schema"  # a database may hold other programs' tables, and their alembic_version


class UnknownSchema(Exception):
    """The ledger was written by a newer program than this one."""


def revision_of(connection: Connection) -> str | None:
    """The revision a ledger stands at: None for an empty one, "0001" for one from before there were any."""
    inspector = sa.inspect(connection)
    if inspector.has_table(TABLE):
        found = connection.execute(sa.text(f"SELECT version_num FROM {TABLE}")).scalar_one_or_none()
        return None if found is None else str(found)
    return "0001" if inspector.has_table("runs") else None


def migrate(connection: Connection) -> None:
    """Every step that is missing, in the caller's transaction. UnknownSchema for a newer ledger."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    found = revision_of(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise UnknownSchema(f"its schema is {found}; this program knows {', '.join(sorted(known))}")
    if found == "0001" and not sa.inspect(connection).has_table(TABLE):
        command.stamp(config, "0001")
    command.upgrade(config, "head")
