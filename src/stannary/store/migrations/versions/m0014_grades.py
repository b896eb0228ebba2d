"""The grade of a task's node when it was committed to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add the column."""
    op.add_column("tasks", sa.Column("grade_ppm", sa.BigInteger(), nullable=True))
