"""What strikes of many buyers came to for a node, and strikes that were taken back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the table and the column."""
    op.create_table(
        "standing_changes",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("change", sa.Text(), nullable=False),
        sa.Column("score_ppm", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["node"], ["nodes.node"], name="fk_standing_changes_node"),
        sa.PrimaryKeyConstraint("number", name="pk_standing_changes"),
    )
    op.create_index("ix_standing_changes_node_number", "standing_changes", ["node", "number"])
    op.create_index("ix_strikes_node", "strikes", ["node"])
    op.add_column("strikes", sa.Column("taken_back_at_ms", sa.BigInteger(), nullable=True))
