"""Who stood alone in which buyer's own code."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "strikes",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("struck_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name="fk_strikes_job"),
        sa.ForeignKeyConstraint(["node"], ["nodes.node"], name="fk_strikes_node"),
        sa.ForeignKeyConstraint(["task"], ["tasks.task"], name="fk_strikes_task"),
        sa.PrimaryKeyConstraint("job", "node", "task", name="pk_strikes"),
    )
