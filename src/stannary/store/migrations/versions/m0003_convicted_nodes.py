"""When a node was convicted: from then on it gets no new work, before its job is settled.

Revision: 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the time of a node's conviction."""
    op.add_column("nodes", sa.Column("convicted_at_ms", sa.BigInteger(), nullable=True))
