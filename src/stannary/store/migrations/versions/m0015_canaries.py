"""Canaries that the market orders of suspended nodes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "canaries",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("nonce", sa.Text(), nullable=False),
        sa.Column("asked_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("statement", sa.Text()),
        sa.Column("lines", sa.JSON()),
        sa.Column("decided_at_ms", sa.BigInteger()),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name="fk_canaries_job"),
        sa.ForeignKeyConstraint(["task"], ["tasks.task"], name="fk_canaries_task"),
        sa.ForeignKeyConstraint(["node"], ["nodes.node"], name="fk_canaries_node"),
        sa.PrimaryKeyConstraint("job", name="pk_canaries"),
    )
    op.create_index("ix_canaries_node_asked_at_ms", "canaries", ["node", "asked_at_ms"])
    is_open = sa.text("decided_at_ms IS NULL")
    op.create_index("ix_canaries_open", "canaries", ["job"], sqlite_where=is_open, postgresql_where=is_open)
