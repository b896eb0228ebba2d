"""Bonds in dispute: opened by a conviction or two stories, once a job and node, closed by a ruling (docs/audits.md).

A stage changes only along jobs/states.py, together with its event, as every state does (transitions.py).
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stannary.errors import ConflictError
from stannary.formats.canonical import Json
from stannary.formats.quantity import dollars
from stannary.jobs.appealing import DisputeRow
from stannary.jobs.states import DisputeStage, advance
from stannary.store import events
from stannary.store.schema import disputes
from stannary.store.transitions import Cause


def open_(connection: Connection, row: DisputeRow, why: str = "an appeal decides") -> None:
    """Note that a bond is disputed, with its event; where it is already in this job, nothing more."""
    if any(known.node == row.node for known in of_job(connection, row.job)):
        return
    connection.execute(sa.insert(disputes).values(**{name: getattr(row, name) for name in _COLUMNS}))
    message = f"the bond of {row.node}, {dollars(row.bond_usd_micros)}, is disputed: {why}"
    data: dict[str, Json] = {"bond_usd_micros": row.bond_usd_micros}
    happening = events.Happening(f"bond.{row.stage}", message, row.opened_at_ms, row.task, row.node, data)
    events.append(connection, row.job, happening)


def waiting(connection: Connection, node: str | None = None) -> list[DisputeRow]:
    """Return every dispute that is not decided, or those of one node, first opened first."""
    query = (
        _SELECT.where(sa.text(IS_OPEN)) if node is None else _SELECT.where(sa.text(IS_OPEN), disputes.c.node == node)
    )
    query = query.order_by(disputes.c.opened_at_ms, disputes.c.job, disputes.c.node)
    return [_read(row) for row in connection.execute(query).mappings()]


def note_appeal(connection: Connection, row: DisputeRow, leaf: str) -> None:
    """Note the statement that says who may hear a dispute, once."""
    is_new = _one(row).where(disputes.c.appeal.is_(None))
    if connection.execute(is_new.values(appeal=leaf)).rowcount != 1:
        raise ConflictError("this appeal is open already", why=f"{row.node} in {row.job}")


def move(connection: Connection, row: DisputeRow, to: DisputeStage, cause: Cause, **values: Any) -> None:
    """Move a dispute, with its event.

    Raises:
        ConflictError: it has moved on, or may not go there.
    """
    advance(row.stage, to)
    said: dict[str, Json] = {"reason": cause.reason, **cause.data}
    happening = events.Happening(f"bond.{to}", cause.message, cause.at_ms, row.task, row.node, said)
    events.append(connection, row.job, happening)
    changed = connection.execute(_one(row).where(disputes.c.stage == row.stage).values(stage=to.value, **values))
    if changed.rowcount != 1:
        raise ConflictError("this dispute has moved on", why=f"{row.node} in {row.job}")


def note_listened(connection: Connection, row: DisputeRow, listened_s: int) -> None:
    """Note how much of its window has passed."""
    connection.execute(_one(row).values(listened_s=listened_s))


def begin_replay(connection: Connection, row: DisputeRow) -> None:
    """Count a replay before it begins: one that takes the market down with it must not be begun for ever."""
    connection.execute(_one(row).values(num_replays=disputes.c.num_replays + 1))


def forfeited(connection: Connection, node: str, job: str = "") -> int:
    """Return what rulings have taken of a node's bond, those of one job or all."""
    return int(connection.exec_driver_sql(_FORFEITED, (node, job)).scalar_one())


def of_job(connection: Connection, job: str) -> list[DisputeRow]:
    """Return the disputes of a job, first opened first."""
    query = _SELECT.where(disputes.c.job == job).order_by(disputes.c.opened_at_ms, disputes.c.node)
    return [_read(row) for row in connection.execute(query).mappings()]


def _read(row: sa.RowMapping) -> DisputeRow:
    return DisputeRow(**{**row, "stage": DisputeStage(row["stage"])})


def _one(row: DisputeRow) -> sa.Update:
    return sa.update(disputes).where(disputes.c.job == row.job, disputes.c.node == row.node)


IS_OPEN = "stage NOT IN ('forfeited', 'released')"  # spelled as the index is
_FORFEITED = (
    "SELECT coalesce(-sum(json_extract(line.value, '$.usd_micros')), 0) "
    "FROM disputes, json_each(disputes.lines) AS line "
    "WHERE json_extract(line.value, '$.account') LIKE 'bond:%' AND json_extract(line.value, '$.task') = ? "
    "AND ? IN ('', disputes.job)"
)
_COLUMNS = tuple(column.name for column in fields(DisputeRow))
_SELECT = sa.select(*(disputes.c[name] for name in _COLUMNS))
