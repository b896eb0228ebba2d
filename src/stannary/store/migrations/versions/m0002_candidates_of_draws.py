"""Whom a draw may rank, noted before its beacon value is asked for.

Revision: 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table of candidate lists."""
    op.create_table(
        "draw_candidates",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("leaf", sa.Text(), nullable=False),
        sa.Column("log_index", sa.BigInteger(), nullable=True),
        sa.Column("inclusion", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name=op.f("fk_draw_candidates_job")),
        sa.PrimaryKeyConstraint("job", "number", name=op.f("pk_draw_candidates")),
    )
