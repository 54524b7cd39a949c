"""The tables that the first runs were kept in."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes every table."""
    make_tables_of_progress()
    make_tables_of_artifacts()


def make_tables_of_progress() -> None:
    """Runs, stages, rounds, phases."""
    op.create_table(
        "runs",
        sa.Column("run", sa.String, primary_key=True),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("recipe", sa.JSON, nullable=False),
        sa.Column("recipe_sha256", sa.String, nullable=False),
        sa.Column("code_sha256", sa.String, nullable=False),
        sa.Column("data_sha256", sa.JSON, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("notes", sa.JSON, nullable=False),
        sa.Column("peak_memory_bytes", sa.JSON, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("finished_at", sa.Float),
    )
    op.create_table(
        "stages",
        sa.Column("run", sa.String, primary_key=True),
        sa.Column("stage", sa.String, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("result", sa.JSON, nullable=False),
    )
    op.create_table(
        "rounds",
        sa.Column("run", sa.String, primary_key=True),
        sa.Column("stage", sa.String, primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("cursor_start", sa.BigInteger, nullable=False),
        sa.Column("cursor_end", sa.BigInteger, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("begun_at", sa.Float, nullable=False),
        sa.Column("seconds", sa.Float),
    )
    op.create_table(
        "phases",
        sa.Column("run", sa.String, primary_key=True),
        sa.Column("stage", sa.String, primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("phase", sa.String, primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("output", sa.JSON, nullable=False),
        sa.Column("finished_at", sa.Float, nullable=False),
    )


def make_tables_of_artifacts() -> None:
    """Versions, checkpoints, comparisons."""
    op.create_table(
        "versions",
        sa.Column("run", sa.String, primary_key=True),
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("uri", sa.String, nullable=False),
        sa.Column("stage", sa.String, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("published_at", sa.Float, nullable=False),
    )
    op.create_table(
        "checkpoints",
        sa.Column("run", sa.String, primary_key=True),
        sa.Column("stage", sa.String, primary_key=True),
        sa.Column("step", sa.BigInteger, primary_key=True),
        sa.Column("uri", sa.String, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
    )
    op.create_table(
        "comparisons",
        sa.Column("run", sa.String, primary_key=True),
        sa.Column("collection", sa.String, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("prompt_id", sa.String, nullable=False),
        sa.Column("prompt", sa.JSON, nullable=False),
        sa.Column("responses", sa.JSON, nullable=False),
        sa.Column("preferences", sa.JSON, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("held_out", sa.Boolean, nullable=False),
        sa.Column("policy_version", sa.JSON, nullable=False),
    )
