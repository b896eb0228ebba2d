"""How the program of a task ended, as its node handed it in, and as those who computed it again found it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the columns."""
    for table in ("tasks", "answers"):
        op.add_column(table, sa.Column("ended", sa.Text(), nullable=True))
