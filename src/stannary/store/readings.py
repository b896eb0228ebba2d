"""The last meter reading of each node in a job, and the job's settlement lines, written once.

Whether a reading continues its chain is settle/meter.py's decision, from the one before it. That one is then forgotten:
readings are cumulative, the last is what a receipt holds, and a node may send any number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stannary.errors import ConflictError
from stannary.formats.predicates import SettlementLine
from stannary.settle.escrow import BOND
from stannary.store.schema import readings, settlement_lines


@dataclass(frozen=True, slots=True)
class ReadingRow:
    """One reading of a node in a job; `spent` holds the members of predicates.Spent."""

    job: str
    node: str
    seq: int
    previous: str
    digest: str
    spent: Mapping[str, int]
    read_at_ms: int
    envelope: bytes


def add(connection: Connection, reading: ReadingRow) -> None:
    """Keep a reading in place of the node's earlier ones; the same one again changes nothing.

    Raises:
        ConflictError: another reading has this seq: its node signed two stories.
    """
    of_node = (readings.c.job == reading.job) & (readings.c.node == reading.node)
    kept = connection.execute(sa.select(readings.c.digest).where(of_node, readings.c.seq == reading.seq))
    digest = kept.scalar_one_or_none()
    if digest is None:
        connection.execute(sa.insert(readings).values(**{**asdict(reading), "spent": dict(reading.spent)}))
        connection.execute(sa.delete(readings).where(of_node, readings.c.seq < reading.seq))
    elif digest != reading.digest:
        raise ConflictError("two readings have one number", why=f"{reading.node} in {reading.job}, seq {reading.seq}")


def last(connection: Connection, job: str, node: str) -> ReadingRow | None:
    """Return the newest reading of a node in a job."""
    query = sa.select(readings).where(readings.c.job == job, readings.c.node == node)
    row = connection.execute(query.order_by(readings.c.seq.desc()).limit(1)).mappings().one_or_none()
    return ReadingRow(**row) if row is not None else None


def of_job(connection: Connection, job: str) -> list[ReadingRow]:
    """Return all readings of a job by node and seq."""
    query = sa.select(readings).where(readings.c.job == job).order_by(readings.c.node, readings.c.seq)
    return [ReadingRow(**row) for row in connection.execute(query).mappings()]


def settle(connection: Connection, job: str, lines: Sequence[SettlementLine]) -> None:
    """Write the settlement of a job, once; the same lines again change nothing."""
    written = settlement(connection, job)
    if written:
        if written != list(lines):
            raise ConflictError("this job is settled already, differently", why=job)
        return
    rows = [{"job": job, "number": number, **asdict(line)} for number, line in enumerate(lines)]
    if rows:
        connection.execute(sa.insert(settlement_lines), rows)


def forfeited(connection: Connection, node: str, *, before: str) -> int:
    """Return what jobs other than `before`, settled earlier, have taken of a node's bond."""
    query = sa.select(sa.func.coalesce(sa.func.sum(settlement_lines.c.usd_micros), 0)).where(
        settlement_lines.c.task == node,
        settlement_lines.c.account.startswith(BOND),
        settlement_lines.c.job != before,
    )
    return -int(connection.execute(query).scalar_one())


def settlement(connection: Connection, job: str) -> list[SettlementLine]:
    """Return the settlement lines of a job in order."""
    columns = (settlement_lines.c[name] for name in ("account", "task", "reason", "usd_micros"))
    query = sa.select(*columns).where(settlement_lines.c.job == job).order_by(settlement_lines.c.number)
    return [SettlementLine(**row) for row in connection.execute(query).mappings()]
