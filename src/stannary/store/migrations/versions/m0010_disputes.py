"""Bonds that are disputed, and what becomes of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "disputes",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("bond_usd_micros", sa.BigInteger(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("opened_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("appeal", sa.Text()),
        sa.Column("checkpoint", sa.Text()),
        sa.Column("begun_at_ms", sa.BigInteger()),
        sa.Column("ruling", sa.Text()),
        sa.Column("lines", sa.JSON()),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name="fk_disputes_job"),
        sa.ForeignKeyConstraint(["node"], ["nodes.node"], name="fk_disputes_node"),
        sa.ForeignKeyConstraint(["task"], ["tasks.task"], name="fk_disputes_task"),
        sa.PrimaryKeyConstraint("job", "node", name="pk_disputes"),
    )
    op.create_index("ix_disputes_node", "disputes", ["node"])
    is_open = sa.text("stage NOT IN ('forfeited', 'released')")
    op.create_index("ix_disputes_open", "disputes", ["stage"], sqlite_where=is_open, postgresql_where=is_open)
