"""What a node's sandbox measured of a task, as its commitment says."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the column."""
    op.add_column("tasks", sa.Column("used", sa.JSON(), nullable=True))
