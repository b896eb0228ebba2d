"""Jobs in which units of a struck operator's nodes are drawn more often."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Add the table, and an index of the units that others found the same."""
    op.create_table(
        "watches",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("granted_usd_micros", sa.BigInteger(), nullable=False),
        sa.Column("used_usd_micros", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name="fk_watches_job"),
        sa.PrimaryKeyConstraint("job", name="pk_watches"),
    )
    op.create_index("ix_watches_operator", "watches", ["operator"])
    agreed = sa.text("reason = 'agreed'")
    op.create_index(
        "ix_tasks_agreed", "tasks", ["node", "contributed_at_ms"], sqlite_where=agreed, postgresql_where=agreed
    )
