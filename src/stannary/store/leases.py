"""Leases: who holds what, until when, in which epoch.

Rules:
- A task's epoch goes up with each work lease of it. A result is taken only from the live lease of
  the current epoch (`check`); every other sender gets a ConflictError that says `stale-epoch`.
- One live work lease per task and one per node, held by unique indexes, not by this code.
- A work lease that ends without a result puts its task back to planned, in the same transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from stannary.errors import ConflictError, NotFound
from stannary.formats.canonical import Json
from stannary.formats.ids import LeaseType, TaskKind
from stannary.jobs.course.state import Grant, Leased, LeaseRow
from stannary.jobs.states import LeaseState, TaskState
from stannary.rules.kinds import TASKS
from stannary.rules.reasons import Reason
from stannary.store import events
from stannary.store.schema import leases, tasks
from stannary.store.transitions import Cause, move_lease, move_task

STALE_EPOCH = "stale-epoch"


@dataclass(frozen=True, slots=True)
class Fence:
    """What a node believes it holds."""

    lease: str
    node: str
    epoch: int


def grant(connection: Connection, new: Grant, cause: Cause) -> LeaseRow:
    """Give a lease; a work lease takes its task from planned to leased, in the next epoch.

    Raises:
        ConflictError: the task is not to be had, or the node has work already.
    """
    row = connection.execute(sa.select(tasks.c.job, tasks.c.epoch).where(tasks.c.task == new.task)).one_or_none()
    if row is None:
        raise NotFound("no such task", why=new.task)
    epoch = row.epoch + 1 if new.type is LeaseType.WORK else 1
    if new.type is LeaseType.WORK:
        values = {
            "node": new.node,
            "epoch": epoch,
            "price_usd_micros": new.price_usd_micros,
            "leased_at_ms": cause.at_ms,
            # Whatever an earlier holder committed to goes with its epoch.
            "commitment": None,
            "commitment_index": None,
        }
        move_task(connection, new.task, TaskState.LEASED, cause, values)
    lease = LeaseRow(
        lease=new.lease,
        type=new.type,
        job=row.job,
        task=new.task,
        audit=new.audit,
        node=new.node,
        epoch=epoch,
        state=LeaseState.GRANTED,
        reason=cause.reason,
        body=dict(new.body),
        granted_at_ms=cause.at_ms,
        deadline_at_ms=new.deadline_at_ms,
        ended_at_ms=None,
    )
    try:
        connection.execute(sa.insert(leases).values(**{name: getattr(lease, name) for name in _COLUMNS}))
    except IntegrityError as error:
        raise ConflictError("this lease cannot be given", why=f"{new.node} or {new.task}: {error.orig}") from error
    data: dict[str, Json] = {"reason": cause.reason, "lease": new.lease, "type": new.type.value, "epoch": epoch}
    message = cause.message or f"{new.type} lease of {new.task} to {new.node}"
    happening = events.Happening(f"lease.{LeaseState.GRANTED}", message, cause.at_ms, new.task, new.node, data)
    events.append(connection, row.job, happening)
    return lease


def check(connection: Connection, fence: Fence) -> LeaseRow:
    """Return the lease if the node holds it in that epoch now.

    Raises:
        ConflictError: it does not (the message says `stale-epoch`); NotFound: there is no such lease.
    """
    lease = get(connection, fence.lease)
    if lease.node != fence.node:
        # Another node's lease id tells the asker nothing about that lease.
        raise NotFound("no such lease", why=fence.lease)
    if lease.state is not LeaseState.GRANTED or lease.epoch != fence.epoch:
        raise _stale(f"lease {fence.lease} is {lease.state}, epoch {lease.epoch}, not {fence.epoch}")
    if lease.type is LeaseType.WORK:
        epoch = connection.execute(sa.select(tasks.c.epoch).where(tasks.c.task == lease.task)).scalar_one()
        if epoch != fence.epoch:
            raise _stale(f"{lease.task} is in epoch {epoch}, not {fence.epoch}")
    return lease


def end(connection: Connection, lease: str, to: LeaseState, cause: Cause) -> LeaseRow:
    """End a lease; work without a result goes back to planned for another node.

    Raises:
        ConflictError: the lease has ended before.
    """
    row = get(connection, lease)
    move_lease(connection, lease, to, cause)
    if row.type is LeaseType.WORK and to is not LeaseState.COMPLETED:
        state = connection.execute(sa.select(tasks.c.state).where(tasks.c.task == row.task)).scalar_one()
        if state in (TaskState.LEASED, TaskState.COMMITTED):
            move_task(connection, row.task, TaskState.PLANNED, cause)
    return row


def get(connection: Connection, lease: str) -> LeaseRow:
    """Return one lease; NotFound if there is none."""
    row = connection.execute(_SELECT.where(leases.c.lease == lease)).mappings().one_or_none()
    if row is None:
        raise NotFound("no such lease", why=lease)
    return read(row)


def live_work(connection: Connection) -> list[Leased]:
    """Return every live lease with what tells whether it is late."""
    held = list(connection.execute(_WITH_TASKS).mappings())
    beside: dict[tuple[str, int], list[tuple[int, int]]] = {}
    if any(row["kind"] in _TRAINING for row in held):
        for job, round_index, leased_at_ms, contributed_at_ms in connection.execute(_HANDED_IN):
            beside.setdefault((job, round_index), []).append((leased_at_ms, contributed_at_ms))
    return [
        Leased(
            read({name: row[name] for name in _COLUMNS}),
            TaskKind(row["kind"]),
            row["num_steps"],
            tuple(beside.get((row["job"], row["round"]), ())),
        )
        for row in held
    ]


def live_of_node(connection: Connection, node: str) -> list[LeaseRow]:
    """Return what a node holds now, oldest first (an agent that came back is told the same again)."""
    return _live(connection, leases.c.node == node)


def stopped(connection: Connection, node: str, *, since_ms: int) -> list[LeaseRow]:
    """Return the work that a node had in hand when its buyer stopped the job, since then."""
    query = _SELECT.where(
        leases.c.node == node,
        leases.c.type == LeaseType.WORK.value,
        leases.c.state == LeaseState.REVOKED.value,
        leases.c.reason == Reason.CANCELLED.value,
        leases.c.ended_at_ms >= since_ms,
    )
    return [read(row) for row in connection.execute(query).mappings()]


def live_of_task(connection: Connection, task: str) -> list[LeaseRow]:
    """Return the live leases of a task, questions about it included."""
    return _live(connection, leases.c.task == task)


def live_of_job(connection: Connection, job: str) -> list[LeaseRow]:
    """Return the live leases of a job."""
    return _live(connection, leases.c.job == job)


def of_audit(connection: Connection, audit: str) -> list[LeaseRow]:
    """Return every lease of an audit, live or not."""
    query = _SELECT.where(leases.c.audit == audit).order_by(leases.c.granted_at_ms, leases.c.lease)
    return [read(row) for row in connection.execute(query).mappings()]


def _live(connection: Connection, *conditions: sa.ColumnElement[bool]) -> list[LeaseRow]:
    query = _SELECT.where(_IS_LIVE, *conditions).order_by(leases.c.granted_at_ms, leases.c.lease)
    return [read(row) for row in connection.execute(query).mappings()]


def read(row: sa.RowMapping | dict[str, Any]) -> LeaseRow:
    """Return a lease as its row says."""
    return LeaseRow(**{**row, "type": LeaseType(row["type"]), "state": LeaseState(row["state"])})


def _stale(why: str) -> ConflictError:
    return ConflictError(
        f"{STALE_EPOCH}: this work is no longer yours",
        why=why,
        hint="drop the work and ask for the next lease",
        detail=STALE_EPOCH,
    )


_COLUMNS = tuple(column.name for column in fields(LeaseRow))
_SELECT = sa.select(*(leases.c[name] for name in _COLUMNS))
_IS_LIVE = leases.c.state == sa.literal_column("'granted'")  # a literal, so that the partial indexes serve
_WITH_TASKS = (
    sa.select(*(leases.c[name] for name in _COLUMNS), tasks.c.kind, tasks.c.num_steps, tasks.c.round)
    .join(tasks, tasks.c.task == leases.c.task)
    .where(_IS_LIVE)
    .order_by(leases.c.granted_at_ms, leases.c.lease)
)
_RUNNING = sa.alias(tasks)
_TRAINING = [kind.value for kind, task in TASKS.items() if task.trains]
_HANDED_IN = (
    sa.select(tasks.c.job, tasks.c.round, tasks.c.leased_at_ms, tasks.c.contributed_at_ms)
    .where(tasks.c.kind.in_(_TRAINING), tasks.c.contributed_at_ms.is_not(None))
    .where(tasks.c.leased_at_ms.is_not(None))
    .where(
        sa.tuple_(tasks.c.job, tasks.c.round).in_(
            sa.select(_RUNNING.c.job, _RUNNING.c.round)
            .join(leases, leases.c.task == _RUNNING.c.task)
            .where(_IS_LIVE, leases.c.type == LeaseType.WORK.value, _RUNNING.c.kind.in_(_TRAINING))
        )
    )
)
