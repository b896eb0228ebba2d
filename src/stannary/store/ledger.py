"""The durable ledger: entries under unique keys, postings, and the balances they add up to.

The rules are settle/ledger.py's. The database holds them too: UNIQUE on the key, a CHECK that only
`world` is below zero, triggers that refuse to change or delete an entry.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stannary.settle import escrow
from stannary.settle.ledger import (
    ESCROW_SUFFIX,
    Account,
    Entry,
    Posting,
    after_posting,
    overdrawn,
    same_or_conflict,
)
from stannary.store import statements
from stannary.store.schema import balances, ledger_entries, ledger_postings


def post(connection: Connection, entry: Entry, *, at_ms: int) -> bool:
    """Post one entry; return False if exactly this was posted before.

    Raises:
        ConflictError: another entry has its key.
        UsageError: an account would be overdrawn.
    """
    posted = find(connection, entry.key)
    if posted is not None:
        same_or_conflict(posted, entry)
        return False
    _within_own_escrow(connection, entry)
    before = balances_of(connection, [posting.account for posting in entry.postings])
    append(connection, [entry], after_posting(before, entry.postings), at_ms=at_ms)
    return True


def append(connection: Connection, entries: Sequence[Entry], after: dict[Account, int], *, at_ms: int) -> None:
    """Write entries whose keys are new and whose outcome is `after` (checked by the caller)."""
    if not entries:
        return
    # One writer: the next number is ours, and known before the rows that refer to it.
    first = int(statements.run(connection, _NEXT_ENTRY).fetchone()[0])
    statements.run(connection, _UPSERT_BALANCES, (json.dumps(list(after.items())),))
    numbered = list(enumerate(entries, first))
    _INSERT_ENTRY(
        connection, [(number, entry.key, at_ms, entry.reason, entry.job, entry.task) for number, entry in numbered]
    )
    _INSERT_POSTING(
        connection, [(number, p.account, p.usd_micros) for number, entry in numbered for p in entry.postings]
    )


def find(connection: Connection, key: str) -> Entry | None:
    """Return the entry posted under `key`."""
    found = _entries(connection, ledger_entries.c.key == key)
    return found[0] if found else None


def newest(connection: Connection, *, limit: int) -> list[tuple[int, Entry]]:
    """Return the newest entries of the whole ledger and their numbers, oldest first."""
    following = int(statements.run(connection, _NEXT_ENTRY).fetchone()[0])
    first = max(following - limit, 1)  # numbers have no gaps: nothing is ever deleted
    return list(enumerate(_entries(connection, ledger_entries.c.entry >= first), first))


def newest_of(connection: Connection, account: str, *, limit: int) -> list[tuple[int, Entry]]:
    """Return the newest entries that move something into an account or out of it, and their numbers, oldest first."""
    mine = sa.select(ledger_postings.c.entry).where(ledger_postings.c.account == account)
    numbers = sorted(connection.execute(mine.order_by(ledger_postings.c.entry.desc()).limit(limit)).scalars())
    return list(zip(numbers, _entries(connection, ledger_entries.c.entry.in_(numbers)), strict=True))


def balances_of(connection: Connection, accounts: Iterable[Account]) -> dict[Account, int]:
    """Return the balances of those of `accounts` that exist."""
    rows = statements.run(connection, _BALANCES, (json.dumps(list(accounts)),))
    return {Account(account): value for account, value in rows}


def all_balances(connection: Connection) -> dict[Account, int]:
    """Return every account and what it holds; they add up to zero."""
    return {Account(account): value for account, value in connection.execute(sa.select(balances))}


def escrow_left(connection: Connection, job: str) -> int:
    """Return what a job still holds of its own escrow."""
    return int(connection.execute(_JOB_ESCROW, {"job": job, "hold": escrow.hold_key(job)}).scalar() or 0)


def _within_own_escrow(connection: Connection, entry: Entry) -> None:
    """Keep one job from being paid out of another's escrow: both lie in one account of the buyer."""
    taken = -sum(p.usd_micros for p in entry.postings if p.account.endswith(ESCROW_SUFFIX))
    if taken <= 0:
        return
    left = escrow_left(connection, entry.job) if entry.job is not None else 0
    if taken > left:
        raise overdrawn(f"the escrow of {entry.job}", left, taken)


def _entries(connection: Connection, condition: sa.ColumnElement[bool]) -> list[Entry]:
    rows = connection.execute(
        sa.select(ledger_entries, ledger_postings.c.account, ledger_postings.c.usd_micros)
        .join(ledger_postings, ledger_postings.c.entry == ledger_entries.c.entry)
        .where(condition)
        .order_by(ledger_entries.c.entry, ledger_postings.c.account)
    ).all()
    grouped: dict[int, list[sa.Row[tuple[object, ...]]]] = {}
    for row in rows:
        grouped.setdefault(row.entry, []).append(row)
    return [
        Entry(
            key=group[0].key,
            reason=group[0].reason,
            postings=tuple(Posting(Account(row.account), row.usd_micros) for row in group),
            job=group[0].job,
            task=group[0].task,
        )
        for group in grouped.values()
    ]


def _of_job(job: sa.ColumnElement[str], hold: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Match a job's entries by two indexes: its hold by key, all others by job (schema.py)."""
    others = sa.and_(ledger_entries.c.job == job, ledger_entries.c.reason != sa.literal_column("'hold'"))
    return sa.or_(ledger_entries.c.key == hold, others)


_NEXT_ENTRY = "SELECT coalesce(max(entry), 0) + 1 FROM ledger_entries"
_BALANCES = "SELECT account, usd_micros FROM balances WHERE account IN (SELECT value FROM json_each(?))"
_UPSERT_BALANCES = (
    "INSERT INTO balances (account, usd_micros) "
    "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?) WHERE true "
    "ON CONFLICT (account) DO UPDATE SET usd_micros = excluded.usd_micros"
)
_INSERT_ENTRY = statements.insert(ledger_entries, "entry key at_ms reason job task")
_INSERT_POSTING = statements.insert(ledger_postings, "entry account usd_micros")
_JOB_ESCROW = (
    sa.select(sa.func.sum(ledger_postings.c.usd_micros))
    .join(ledger_entries, ledger_entries.c.entry == ledger_postings.c.entry)
    .where(_of_job(sa.bindparam("job"), sa.bindparam("hold")), ledger_postings.c.account.like(f"%{ESCROW_SUFFIX}"))
)
