"""Alembic's entry: runs the steps on the connection that migrations passes, in its transaction."""

from alembic import context

from orchestrator.migrations import TABLE

context.configure(connection=context.config.attributes["connection"], version_table=TABLE)
with context.begin_transaction():
    context.run_migrations()
