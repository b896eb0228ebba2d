"""Canaries of suspended nodes in the store: ordered, and decided once (jobs/canary.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stannary.errors import ConflictError
from stannary.formats.canonical import Json
from stannary.formats.predicates import CanaryOutcome
from stannary.jobs.canary import CanaryRow
from stannary.store.schema import canaries
from stannary.store.transitions import Cause


def add(connection: Connection, row: CanaryRow) -> None:
    """Note a canary that is asked now."""
    connection.execute(sa.insert(canaries).values(**{name: getattr(row, name) for name in _COLUMNS}))


def open_(connection: Connection) -> list[CanaryRow]:
    """Return every canary that is not decided, first asked first."""
    query = _SELECT.where(canaries.c.decided_at_ms.is_(None)).order_by(canaries.c.asked_at_ms, canaries.c.job)
    return [_read(row) for row in connection.execute(query).mappings()]


def of_node(connection: Connection, node: str, *, since_ms: int = 0) -> list[CanaryRow]:
    """Return what was asked of a node since then, first asked first."""
    query = _SELECT.where(canaries.c.node == node, canaries.c.asked_at_ms >= since_ms)
    return [_read(row) for row in connection.execute(query.order_by(canaries.c.asked_at_ms, canaries.c.job)).mappings()]


def of_job(connection: Connection, job: str) -> list[CanaryRow]:
    """Return the canary whose order a job is, if it is one's."""
    return [_read(row) for row in connection.execute(_SELECT.where(canaries.c.job == job)).mappings()]


def decide(
    connection: Connection,
    row: CanaryRow,
    outcome: CanaryOutcome,
    cause: Cause,
    said: tuple[str, Sequence[dict[str, Json]]],
) -> None:
    """Note what a canary came to, once, and the leaf and the lines of the statement that says it.

    Raises:
        ConflictError: it is decided already.
    """
    leaf, lines = said
    values = {"outcome": outcome.value, "reason": cause.reason, "statement": leaf, "lines": list(lines)}
    is_open = sa.update(canaries).where(canaries.c.job == row.job, canaries.c.decided_at_ms.is_(None))
    if connection.execute(is_open.values(**values, decided_at_ms=cause.at_ms)).rowcount != 1:
        raise ConflictError("this canary is decided already", why=row.job)


def _read(row: sa.RowMapping) -> CanaryRow:
    outcome = row["outcome"]
    return CanaryRow(**{**row, "outcome": CanaryOutcome(outcome) if outcome is not None else None})


_COLUMNS = tuple(column.name for column in fields(CanaryRow))
_SELECT = sa.select(*(canaries.c[name] for name in _COLUMNS))
