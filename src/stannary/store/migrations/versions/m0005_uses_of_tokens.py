"""When an API token was last used, so that an operator sees which of them nobody needs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column; of earlier uses nothing is known."""
    op.add_column("api_tokens", sa.Column("last_used_at_ms", sa.BigInteger))
