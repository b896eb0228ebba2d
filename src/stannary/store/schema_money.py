"""The tables of money: who has what, each movement of it, and how a job's escrow went (rules in schema.py)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

from stannary.store.naming import metadata

balances = Table(
    "balances",
    metadata,
    Column("account", Text, primary_key=True),
    Column("usd_micros", BigInteger, nullable=False),
    # Only the outside world may owe: whatever a bug orders, nobody is overdrawn.
    CheckConstraint("usd_micros >= 0 OR account = 'world'", name="not_overdrawn"),
)

ledger_entries = Table(
    "ledger_entries",
    metadata,
    Column("entry", Integer, primary_key=True, autoincrement=True),
    Column("key", Text, nullable=False, unique=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("job", Text),
    Column("task", Text),
    # A job's hold is found by its key (`hold:<job>`).
    Index(
        "ix_ledger_entries_job",
        "job",
        sqlite_where=text("reason <> 'hold'"),
        postgresql_where=text("reason <> 'hold'"),
    ),
)

ledger_postings = Table(
    "ledger_postings",
    metadata,
    Column("entry", Integer, ForeignKey("ledger_entries.entry"), nullable=False),
    Column("account", Text, ForeignKey("balances.account"), nullable=False),
    Column("usd_micros", BigInteger, nullable=False),
    PrimaryKeyConstraint("entry", "account"),
    sqlite_with_rowid=False,
)

settlement_lines = Table(
    "settlement_lines",
    metadata,
    Column("job", Text, ForeignKey("jobs.job"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("account", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("usd_micros", BigInteger, nullable=False),
    PrimaryKeyConstraint("job", "number"),
)
