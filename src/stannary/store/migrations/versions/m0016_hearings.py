"""How much of the window of a hearing has passed, and how often the market began to compute a disputed unit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Add the columns."""
    for name in ("listened_s", "num_replays"):
        op.add_column("disputes", sa.Column(name, sa.Integer(), nullable=False, server_default=sa.text("0")))
