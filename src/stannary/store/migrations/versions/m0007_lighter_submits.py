"""A job bears the number of its envelope, whose leaf is in no index any more: a submit writes less."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

INDEXES = ("ix_envelopes_job", "ix_envelopes_unlogged", "uq_envelopes_log_index")


def upgrade() -> None:
    """Number them; make `envelopes` anew, since SQLite takes no constraint off a table."""
    op.add_column("jobs", sa.Column("envelope_seq", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.execute(
        "UPDATE jobs SET envelope_seq = coalesce((SELECT seq FROM envelopes WHERE envelopes.leaf = jobs.leaf), 0)"
    )
    for name in INDEXES:
        op.drop_index(name, "envelopes")
    op.rename_table("envelopes", "envelopes_before")
    op.create_table(
        "envelopes",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("leaf", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=True),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("log_index", sa.BigInteger(), nullable=True),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_envelopes"),
        sqlite_autoincrement=True,
    )
    columns = "seq, leaf, kind, job, envelope, log_index, received_at_ms"
    op.execute(f"INSERT INTO envelopes ({columns}) SELECT {columns} FROM envelopes_before ORDER BY seq")  # noqa: S608
    op.drop_table("envelopes_before")
    for name, column, is_unique, condition in (
        ("uq_envelopes_leaf", "leaf", True, "kind <> 'job'"),
        ("ix_envelopes_job", "job", False, "kind <> 'job'"),
        ("ix_envelopes_unlogged", "seq", False, "log_index IS NULL"),
        ("uq_envelopes_log_index", "log_index", True, "log_index IS NOT NULL"),
    ):
        where = sa.text(condition)
        op.create_index(name, "envelopes", [column], unique=is_unique, sqlite_where=where, postgresql_where=where)
