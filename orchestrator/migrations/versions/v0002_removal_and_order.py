"""What retention removed, who holds the lease, and the order in which rows were written."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds columns only: rows written before have none of it, and readers say so."""
    op.add_column("runs", sa.Column("lease_holder", sa.String))
    op.add_column("runs", sa.Column("sequence", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("rounds", sa.Column("payloads_removed_at", sa.Float))
    op.add_column("phases", sa.Column("sequence", sa.BigInteger))
    op.add_column("versions", sa.Column("sequence", sa.BigInteger))
    op.add_column("versions", sa.Column("parent", sa.JSON))
    op.add_column("versions", sa.Column("removed_at", sa.Float))
    op.add_column("checkpoints", sa.Column("removed_at", sa.Float))
