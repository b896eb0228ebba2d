"""The one place where a state changes: checked by its table, announced by an event, fenced.

Every change is three statements in one transaction: read the current state, append the event
(`job.running`, `task.leased`, `lease.expired`, ...), update the row *where the state is still what
was read*. A trigger refuses an update whose event is missing, so a change that goes round this
module fails (migrations/).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stannary.errors import ConflictError, NotFound
from stannary.formats.canonical import Json
from stannary.formats.predicates import Verdict
from stannary.jobs.states import JobStatus, LeaseState, Settlement, TaskState, advance, is_terminal
from stannary.store import events
from stannary.store.schema import jobs, leases, tasks


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a state changes: `reason` is one word for machines, `message` one line for people."""

    at_ms: int
    reason: str
    message: str = ""
    data: Mapping[str, Json] = field(default_factory=dict)


def move_job(connection: Connection, job: str, to: JobStatus, cause: Cause) -> None:
    """Move a job; its reason and message become what the buyer reads."""
    current = JobStatus(_read(connection, jobs, jobs.c.status, job))
    advance(current, to)
    values: dict[str, Any] = {"reason": cause.reason, "message": cause.message}
    if to is JobStatus.RUNNING:
        values["started_at_ms"] = sa.func.coalesce(jobs.c.started_at_ms, cause.at_ms)
    if is_terminal(to):
        values["finished_at_ms"] = cause.at_ms
    events.append(connection, job, _announce("job", to, cause))
    _write(connection, jobs.c.status, job, (current, to), values)


def move_verdict(connection: Connection, job: str, to: Verdict, cause: Cause) -> None:
    """Set the verdict of a job, once."""
    current = Verdict(_read(connection, jobs, jobs.c.verdict, job))
    advance(current, to)
    events.append(connection, job, _announce("verdict", to, cause))
    _write(connection, jobs.c.verdict, job, (current, to), {})


def move_settlement(connection: Connection, job: str, to: Settlement, cause: Cause) -> None:
    """Move the settlement of a job."""
    current = Settlement(_read(connection, jobs, jobs.c.settlement, job))
    advance(current, to)
    events.append(connection, job, _announce("settlement", to, cause))
    _write(connection, jobs.c.settlement, job, (current, to), {})


def move_task(
    connection: Connection, task: str, to: TaskState, cause: Cause, values: Mapping[str, Any] | None = None
) -> None:
    """Move a task and set `values` of its row with the same statement."""
    row = _row(connection, tasks, task)
    current = TaskState(row["state"])
    advance(current, to)
    node = (values or {}).get("node", row["node"])
    events.append(connection, row["job"], _announce("task", to, cause, task=task, node=node))
    _write(connection, tasks.c.state, task, (current, to), {"reason": cause.reason, **(values or {})}, row["epoch"])


def move_lease(connection: Connection, lease: str, to: LeaseState, cause: Cause) -> None:
    """End a lease (leases.py moves its task)."""
    row = _row(connection, leases, lease)
    current = LeaseState(row["state"])
    advance(current, to)
    happening = _announce("lease", to, cause, task=row["task"], node=row["node"])
    events.append(connection, row["job"], happening)
    values = {"reason": cause.reason, "ended_at_ms": cause.at_ms}
    _write(connection, leases.c.state, lease, (current, to), values, row["epoch"])


def _announce(
    subject: str, to: str, cause: Cause, *, task: str | None = None, node: str | None = None
) -> events.Happening:
    data: dict[str, Json] = {"reason": cause.reason, **cause.data}
    return events.Happening(f"{subject}.{to}", cause.message or cause.reason, cause.at_ms, task, node, data)


def _key(table: sa.Table) -> sa.Column[Any]:
    (column,) = table.primary_key.columns
    return column


def _read(connection: Connection, table: sa.Table, column: sa.Column[Any], key: str) -> str:
    value = connection.execute(sa.select(column).where(_key(table) == key)).scalar_one_or_none()
    if value is None:
        raise NotFound(f"no such {_key(table).name}", why=key)
    return str(value)


def _row(connection: Connection, table: sa.Table, key: str) -> sa.RowMapping:
    row = connection.execute(
        sa.select(table.c.job, table.c.task, table.c.state, table.c.node, table.c.epoch).where(_key(table) == key)
    ).mappings()
    found = row.one_or_none()
    if found is None:
        raise NotFound(f"no such {_key(table).name}", why=key)
    return found


def _write(  # one fenced UPDATE
    connection: Connection,
    column: sa.Column[Any],
    key: str,
    change: tuple[str, str],
    values: Mapping[str, Any],
    epoch: int | None = None,
) -> None:
    table = column.table
    assert isinstance(table, sa.Table)
    before, to = change
    statement = sa.update(table).where(_key(table) == key, column == before)
    if epoch is not None:
        statement = statement.where(table.c.epoch == epoch)
    if connection.execute(statement.values({**values, column.name: to})).rowcount != 1:
        raise ConflictError(f"the {_key(table).name} has moved on", why=f"{key} was {before}")
