"""Who said of which pair what: every label of a pair, and questions that wait for a person."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """A table of its own; older runs have no labels but in their comparisons."""
    op.create_table(
        "labels",
        sa.Column("run", sa.String, primary_key=True),
        sa.Column("stage", sa.String, primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("item", sa.String, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("prompt", sa.JSON, nullable=False),
        sa.Column("first", sa.Text, nullable=False),
        sa.Column("second", sa.Text, nullable=False),
        sa.Column("probability", sa.Float),
        sa.Column("reason", sa.String),
        sa.Column("message", sa.Text),
        sa.Column("gold_margin", sa.Float),
        sa.Column("annotator", sa.String),
        sa.Column("question", sa.JSON),
        sa.Column("verdict", sa.JSON),
        sa.Column("answered_at", sa.Float),
    )
