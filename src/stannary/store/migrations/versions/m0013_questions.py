"""Whether a job's program can be recomputed at all, and after how many such questions a strike came."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the table and the columns."""
    op.create_table(
        "questions",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text()),
        sa.Column("opened_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("closed_at_ms", sa.BigInteger()),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name="fk_questions_job"),
        sa.ForeignKeyConstraint(["task"], ["tasks.task"], name="fk_questions_task"),
        sa.PrimaryKeyConstraint("job", "number", name="pk_questions"),
    )
    op.add_column("strikes", sa.Column("num_answered", sa.Integer(), nullable=False, server_default=sa.text("0")))
