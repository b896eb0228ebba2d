"""A count of all transactions, so that an older copy of the database is known for what it is (store/mark.py)."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the one row that names this database and counts its transactions."""
    marks = op.create_table(
        "marks",
        sa.Column("store", sa.Text, nullable=False),
        sa.Column("num_commits", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("store", name="pk_marks"),
    )
    op.bulk_insert(marks, [{"store": secrets.token_hex(16), "num_commits": 0}])
