"""Tasks: planned by the market, held through leases, committed, handed in, judged.

The holder's steps (`commit`, `contribute`) go through a *fence*: the lease, node and epoch the
sender believes in must be what the market believes in, at the moment of writing. A node that was
given up and comes back finds its epoch stale and cannot be paid for what another was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stannary.errors import ConflictError, NotFound
from stannary.formats import ended
from stannary.formats.canonical import Json
from stannary.formats.ids import TaskKind
from stannary.formats.predicates import Verdict
from stannary.jobs.course.state import NewTask, Task
from stannary.jobs.states import LeaseState, TaskState
from stannary.store import events, leases
from stannary.store.schema import tasks
from stannary.store.transitions import Cause, move_lease, move_task


@dataclass(frozen=True, slots=True)
class Contributed:
    """What a contribution adds to its task."""

    leaf: str
    log_index: int
    root: str
    outputs: Sequence[Mapping[str, Json]]
    ended: str | None = None


def plan(connection: Connection, new: NewTask, *, at_ms: int) -> None:
    """Add a task in state planned, with its event."""
    values = {name.name: getattr(new, name.name) for name in fields(NewTask)}
    if connection.execute(sa.select(tasks.c.task).where(tasks.c.task == new.task)).first() is not None:
        raise ConflictError("this task is planned already", why=new.task)
    connection.execute(sa.insert(tasks).values(**values, state=TaskState.PLANNED.value, planned_at_ms=at_ms))
    events.append(
        connection,
        new.job,
        events.Happening(f"task.{TaskState.PLANNED}", f"planned {new.task}", at_ms, task=new.task),
    )


def commit(
    connection: Connection,
    fence: leases.Fence,
    commitment: str,
    log_index: int,
    cause: Cause,
    *,
    used: Mapping[str, Json] | None = None,
    grade_ppm: int | None = None,
) -> None:
    """Take the commitment of the node that holds the task now.

    Raises:
        ConflictError: stale epoch, or another commitment was made in this epoch.
    """
    lease = leases.check(connection, fence)
    row = get(connection, lease.task)
    if row.state is TaskState.COMMITTED and row.commitment == commitment:
        return  # the same request again: its answer was lost on the way
    values = {"commitment": commitment, "commitment_index": log_index, "used": used, "grade_ppm": grade_ppm}
    move_task(connection, lease.task, TaskState.COMMITTED, cause, values)


def contribute(connection: Connection, fence: leases.Fence, contributed: Contributed, cause: Cause) -> None:
    """Take the contribution of the node that holds the task now, and complete its lease.

    Raises:
        ConflictError: stale epoch, or nothing was committed.
    """
    lease = leases.check(connection, fence)
    values = {
        "contribution": contributed.leaf,
        "contribution_index": contributed.log_index,
        "root": contributed.root,
        "outputs": list(contributed.outputs),
        "ended": contributed.ended,
        "contributed_at_ms": cause.at_ms,
    }
    move_task(connection, lease.task, TaskState.CONTRIBUTED, cause, values)
    move_lease(connection, lease.lease, LeaseState.COMPLETED, cause)


def draw(connection: Connection, task: str, *, number: int, selected: bool, cause: Cause) -> None:
    """Note what draw `number` said of a task: selected for an audit, or passed over."""
    to = TaskState.DRAWN if selected else TaskState.PASSED
    move_task(connection, task, to, cause, {"draw_number": number})


def leave(connection: Connection, task: str, outputs: Sequence[Mapping[str, Json]]) -> None:
    """Keep what there was of a task when its buyer stopped it; it stays abandoned.

    Raises:
        ConflictError: it is not, or something of it is kept already.
    """
    values = {"outputs": list(outputs), "ended": ended.STOPPED}
    is_open = (tasks.c.task == task, tasks.c.state == TaskState.ABANDONED.value, tasks.c.outputs.is_(None))
    if connection.execute(sa.update(tasks).where(*is_open).values(**values)).rowcount != 1:
        raise ConflictError("nothing more is taken of this task", why=task)


_STATE_OF = {
    Verdict.VERIFIED: TaskState.VERIFIED,
    Verdict.UNVERIFIED: TaskState.UNVERIFIED,
    Verdict.REFUTED: TaskState.REFUTED,
}


def judge(connection: Connection, task: str, verdict: Verdict, cause: Cause) -> None:
    """Set the verdict of a task: its state and its verdict say the same from here on."""
    if verdict not in _STATE_OF:
        raise ConflictError("this verdict closes no task", why=verdict.value)
    move_task(connection, task, _STATE_OF[verdict], cause, {"verdict": verdict.value})


def drop(connection: Connection, task: str, to: TaskState, cause: Cause) -> None:
    """Supersede or abandon a task and revoke whatever leases it has."""
    for lease in leases.live_of_task(connection, task):
        move_lease(connection, lease.lease, LeaseState.REVOKED, cause)
    move_task(connection, task, to, cause)


def get(connection: Connection, task: str) -> Task:
    """Return one task; NotFound if there is none."""
    row = connection.execute(_SELECT.where(tasks.c.task == task)).mappings().one_or_none()
    if row is None:
        raise NotFound("no such task", why=task)
    return read(row)


def of_job(connection: Connection, job: str, *, round_index: int | None = None) -> list[Task]:
    """Return the tasks of a job (or of one of its rounds) by round, lane and attempt."""
    query = _SELECT.where(tasks.c.job == job)
    if round_index is not None:
        query = query.where(tasks.c.round == round_index)
    query = query.order_by(tasks.c.round, tasks.c.kind.desc(), tasks.c.lane, tasks.c.attempt)
    return [read(row) for row in connection.execute(query).mappings()]


def read(row: sa.RowMapping) -> Task:
    """Return a task as its row says."""
    kinds = {"kind": TaskKind(row["kind"]), "state": TaskState(row["state"]), "verdict": Verdict(row["verdict"])}
    return Task(**{**row, **kinds})


_SELECT = sa.select(*(tasks.c[field.name] for field in fields(Task)))
