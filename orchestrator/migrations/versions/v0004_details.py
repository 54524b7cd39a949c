"""Rankings kept whole beside the pairs that they give, and what is known of each comparison."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Adds columns only: comparisons written before have none of it."""
    op.add_column("comparisons", sa.Column("rankings", sa.JSON))
    op.add_column("comparisons", sa.Column("details", sa.JSON))
