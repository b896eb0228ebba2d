"""Every signed envelope, and whether the log has it yet.

A job's own envelope is no other's: it comes with its job (`add_orders`), is there once because the job is, and is found
by the number the job bears (`order_of`). All others are found by their leaf, and there once because of it.

Write order: the envelope is kept here first (`log_index` absent), then appended to the log, then
its index noted. A market killed in between finds it in `leaves_to_log` and appends it again: the log
knows a leaf it has. Nothing is ever acknowledged from a log entry this table does not hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stannary.errors import ConflictError, NotFound
from stannary.store import statements
from stannary.store.schema import envelopes, jobs

RECEIPT = "receipt"  # the kind of the one statement of a job that stands in no evidence


@dataclass(frozen=True, slots=True)
class Incoming:
    """An envelope to keep; `leaf` is its log leaf, spelled as a digest."""

    leaf: str
    kind: str
    envelope: bytes
    received_at_ms: int
    job: str | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """An envelope as kept."""

    leaf: str
    kind: str
    job: str | None
    envelope: bytes
    log_index: int | None
    received_at_ms: int


class Unlogged(NamedTuple):
    """What the log has still to take."""

    seq: int
    leaf: str
    kind: str
    job: str | None


def add(connection: Connection, incoming: Incoming) -> bool:
    """Keep an envelope; return False if this leaf is kept already."""
    return add_many(connection, [incoming]) == 1


def add_many(connection: Connection, incoming: Sequence[Incoming]) -> int:
    """Keep many envelopes; return how many were new."""
    if not incoming:
        return 0
    rows = [(item.leaf, item.kind, item.job, item.envelope, item.received_at_ms) for item in incoming]
    return _INSERT(connection, rows)


def add_orders(connection: Connection, orders: Sequence[Incoming]) -> int:
    """Keep the envelopes of jobs that are new; return the number of the first, the others' follow."""
    # One writer: the next number is ours.
    first = int(statements.run(connection, _NEXT).fetchone()[0])
    _INSERT_ORDER(
        connection,
        [
            (seq, item.leaf, item.kind, item.job, item.envelope, item.received_at_ms)
            for seq, item in enumerate(orders, first)
        ],
    )
    return first


def set_indexes(connection: Connection, indexes: Mapping[int, int]) -> None:
    """Note where the log holds each envelope, by its number.

    Raises:
        ConflictError: one is noted at another index already, or is not kept here.
    """
    if not indexes:
        return
    changed = connection.exec_driver_sql(_SET_INDEXES, (json.dumps(list(indexes.items())),)).rowcount
    if changed != len(indexes):
        why = f"{len(indexes) - changed} of {len(indexes)} leaves are at another index, or not kept here"
        raise ConflictError("a leaf is logged elsewhere", why=why)


def leaves_to_log(connection: Connection, *, limit: int = 10_000) -> list[Unlogged]:
    """Return what the log has still to take, in order of arrival."""
    return [Unlogged(*row) for row in connection.exec_driver_sql(_LEAVES_TO_LOG, (limit,))]


def all_leaves(connection: Connection) -> Iterator[tuple[str, int | None]]:
    """Yield every leaf kept, and its log index once it has one."""
    for row in connection.exec_driver_sql("SELECT leaf, log_index FROM envelopes"):
        yield row[0], row[1]


def get(connection: Connection, leaf: str) -> Kept:
    """Return one envelope, but a job's own; NotFound if it is not kept."""
    row = connection.execute(_SELECT.where(envelopes.c.leaf == leaf, is_no_order(envelopes))).mappings().one_or_none()
    if row is None:
        raise NotFound("no such envelope", why=leaf)
    return Kept(**row)


def some(connection: Connection, leaves: Sequence[str]) -> list[Kept]:
    """Return those of some envelopes that are kept, but no job's own."""
    wanted = sa.text("SELECT value FROM json_each(:leaves)")
    query = _SELECT.where(envelopes.c.leaf.in_(wanted), is_no_order(envelopes))
    return [Kept(**row) for row in connection.execute(query, {"leaves": json.dumps(leaves)}).mappings()]


def is_no_order(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Match what is found by its leaf: the condition of that index, without which a query reads the whole table."""
    return table.c.kind != sa.literal_column("'job'")


def order_of(connection: Connection, job: str) -> bytes:
    """Return a job's own envelope, which holds its spec; NotFound if there is no such job."""
    found = connection.execute(
        sa.select(envelopes.c.envelope).where(envelopes.c.seq == _order(job))
    ).scalar_one_or_none()
    if found is None:
        raise NotFound("no such job", why=job)
    return bytes(found)


def of_job(connection: Connection, job: str, *, kind: str | None = None) -> list[Kept]:
    """Return the envelopes of a job in log order, those not yet logged last."""
    # two arms, each with its index: the job's own envelope is not in the index of jobs (schema.py)
    query = _SELECT.where(
        sa.or_(envelopes.c.seq == _order(job), sa.and_(envelopes.c.job == job, is_no_order(envelopes)))
    )
    if kind is not None:
        query = query.where(envelopes.c.kind == kind)
    query = query.order_by(envelopes.c.log_index.is_(None), envelopes.c.log_index, envelopes.c.seq)
    return [Kept(**row) for row in connection.execute(query).mappings()]


def receipt_of(connection: Connection, job: str) -> Kept | None:
    """Return the receipt statement of a job, once it is posted."""
    found = of_job(connection, job, kind=RECEIPT)
    return found[0] if found else None


def _order(job: str) -> sa.ScalarSelect[int]:
    return sa.select(jobs.c.envelope_seq).where(jobs.c.job == job).scalar_subquery()


_LEAVES_TO_LOG = "SELECT seq, leaf, kind, job FROM envelopes WHERE log_index IS NULL ORDER BY seq LIMIT ?"
_NEXT = "SELECT coalesce(max(seq), 0) + 1 FROM envelopes"
_INSERT_ORDER = statements.insert(envelopes, "seq leaf kind job envelope received_at_ms")
_INSERT = statements.insert(envelopes, "leaf kind job envelope received_at_ms", ignore_known=True)
_SELECT = sa.select(
    envelopes.c.leaf,
    envelopes.c.kind,
    envelopes.c.job,
    envelopes.c.envelope,
    envelopes.c.log_index,
    envelopes.c.received_at_ms,
)
# One statement for a batch: thousands of leaves are logged together, and each statement alone costs ten times its row.
_SET_INDEXES = (
    "UPDATE envelopes SET log_index = json_extract(given.value, '$[1]') FROM json_each(?) AS given "
    "WHERE envelopes.seq = json_extract(given.value, '$[0]') "
    "AND (envelopes.log_index IS NULL OR envelopes.log_index = json_extract(given.value, '$[1]'))"
)
