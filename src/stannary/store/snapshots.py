"""A job read into the core's snapshot (jobs/course/state.py): a fixed number of queries, whatever the job holds.

Of a training job the rounds from the one before the first open one are read, and all in its last round, where a draw
may add what earlier ones passed over; the draws that may still take one of their tasks, and the last, or all; audits
and answers of tasks that are being heard, and the leases that asked them. Where a draw waits to be made, what each node
handed in last in rounds before (rules/stake.py), and what all that was handed in then took (rules/use.py).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stannary.formats import dsse, ids, record, statement
from stannary.formats.ids import TaskId, TaskKind
from stannary.formats.predicates import Candidates, Drawable, Role, Used, Watch
from stannary.formats.predicates import Draw as DrawRecord
from stannary.jobs.course.state import (
    AnswerRow,
    AuditOutcome,
    AuditRow,
    CandidateList,
    DrawRow,
    EarlierUse,
    JobOrder,
    JobState,
    LeaseRow,
    Task,
)
from stannary.rules import blame, edition, question, stake
from stannary.rules.grade import UNGRADED_PPM
from stannary.rules.stake import HELD_UNITS, UnitDone
from stannary.rules.use import DrawnUse
from stannary.store import audits as audits_
from stannary.store import jobs as jobs_
from stannary.store import leases as leases_
from stannary.store import tasks as tasks_
from stannary.store import watches as watches_
from stannary.store.envelopes import is_no_order
from stannary.store.schema import (
    answers,
    audits,
    draw_candidates,
    draws,
    envelopes,
    job_nodes,
    job_reports,
    leases,
    nodes,
    tasks,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = TypeVar("P", bound="DataclassInstance")


def load(connection: Connection, order: JobOrder) -> JobState:
    """Return one job as it stands.

    Raises:
        NotFound: there is no such job.
    """
    job = jobs_.get(connection, order.job)
    is_last = edition.of(order.spec).adds_missing and job.round + 1 >= order.shape.num_rounds
    window = {"job": order.job, "first": 0 if is_last else max(job.first_open - 1, 0), "all": is_last}
    found = {row["task"]: tasks_.read(row) for row in connection.execute(_TASKS, window).mappings()}
    rows = list(connection.execute(_DRAWS, window).mappings())
    is_drawing = any(row["value"] is not None and row["draw"] is None for row in rows)
    earlier = connection.execute(_EARLIER, window) if is_drawing and not blame.convicts(order.spec) else ()
    took = connection.execute(_TOOK, window).mappings() if is_drawing else ()
    accusing = connection.execute(_ACCUSERS, window) if not blame.convicts(order.spec) else ()
    accusers: dict[str, frozenset[str]] = {}
    for task, operator in accusing:
        unit = ids.unit_of(task)
        accusers[unit] = accusers.get(unit, frozenset()) | {operator}
    heard = {row["audit"]: audits_.read(row) for row in connection.execute(_AUDITS, {"job": order.job}).mappings()}
    given: dict[str, list[AnswerRow]] = {}
    for row in connection.execute(_ANSWERS, {"job": order.job}).mappings():
        given.setdefault(row["audit"], []).append(AnswerRow(**{**row, "role": Role(row["role"])}))
    reported: dict[str, tuple[str, ...]] = {}
    for task, operator in connection.execute(_REPORTS, {"job": order.job}):
        reported[task] = (*reported.get(task, ()), operator)
    may_ask, struck = question.may_open(order.spec), jobs_.struck(connection, order.job)
    asked = jobs_.questions_of(connection, order.job) if may_ask else ()
    placed = tuple(connection.execute(_PLACED, {"job": order.job}).scalars())
    worked = at_work(connection, order.job)
    return JobState(
        order=order,
        watch=watch_of(connection, order, worked),
        version=job.num_events,
        status=job.status,
        ending=job.ending,
        submitted_at_ms=job.submitted_at_ms,
        escrow_usd_micros=job.escrow_usd_micros,
        first_open=job.first_open,
        round=job.round,
        placed=placed,
        worked=worked,
        convicted=jobs_.convicted(connection, order.job),
        struck=struck,
        struck_since=jobs_.struck_since(connection, order.job) if asked else struck,
        took_part=frozenset(connection.execute(_TOOK_PART, {"job": order.job}).scalars()) if may_ask else frozenset(),
        questions=asked,
        reported=reported,
        tasks=found,
        draws=tuple(_draw(row) for row in rows if row["number"] is not None),
        listed={row["for_number"]: _listed(row) for row in rows if row["leaf"] is not None},
        drawn={row["number"]: _drawn(row["draw_envelope"]) for row in rows if row["draw_envelope"] is not None},
        accusers=accusers,
        earlier=tuple(UnitDone(*row) for row in earlier),
        earlier_uses=tuple(_handed_in(row) for row in took),
        audits=heard,
        answers={audit: tuple(listed) for audit, listed in given.items()},
        leases={row["lease"]: leases_.read(row) for row in connection.execute(_LEASES, {"job": order.job}).mappings()},
        last_end_ms=dict(iter(_ends(connection, order.job))),
    )


def at_work(connection: Connection, job: str) -> frozenset[str]:
    """Return the nodes that a task of a job was leased to."""
    return frozenset(connection.execute(_WORKED, {"job": job}).scalars())


def watch_of(connection: Connection, order: JobOrder, at_work: Collection[str]) -> Watch | None:
    """Return whose units the next draw of a job draws more often, None where nobody's."""
    has_rates = edition.of(order.spec).watches and stake.unit_ppm(order.spec, 1, 0) is not None
    return watches_.of_job(connection, order.job, at_work) if has_rates else None


def _ends(connection: Connection, job: str) -> Iterator[tuple[str, int]]:
    for row in connection.execute(_ENDS, {"job": job}):
        yield row[0], row[1]


def _draw(row: sa.RowMapping) -> DrawRow:
    return DrawRow(**{name: row[name] for name in _DRAW_NAMES})


def _handed_in(row: sa.RowMapping) -> EarlierUse:
    used = record.from_json(Used, dict(row["used"])) if row["used"] is not None else None
    grade_ppm = UNGRADED_PPM if row["grade_ppm"] is None else row["grade_ppm"]
    use = DrawnUse(TaskKind(row["kind"]), row["num_steps"], used, grade_ppm)
    return EarlierUse(TaskId(row["task"]), row["contribution_index"], use)


def _listed(row: sa.RowMapping) -> CandidateList:
    said = _read(row["listed_envelope"], "candidates", Candidates)
    return CandidateList(row["leaf"], row["listed_index"], said.candidates, said.watch)


def _drawn(envelope: bytes) -> tuple[Drawable, ...]:
    drawable: tuple[Drawable, ...] = _read(envelope, "draw", DrawRecord).drawable
    return drawable


@functools.lru_cache(maxsize=1024)  # of our own signing; what is open is looked at again and again
def _read(envelope: bytes, kind: str, cls: type[P]) -> P:
    return statement.read(dsse.from_bytes(envelope).payload, kind, cls).predicate


def _kept_as(table: sa.FromClause, leaf: sa.Column[str]) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.leaf == leaf, is_no_order(table))


def _names(cls: type, table: sa.Table) -> list[sa.Column[object]]:
    return [table.c[field.name] for field in fields(cls)]


_MINE: sa.BindParameter[str] = sa.bindparam("job")
_DRAW_NAMES = [field.name for field in fields(DrawRow)]
_REPORTS = (
    sa.select(job_reports.c.task, job_reports.c.operator).where(job_reports.c.job == _MINE).order_by(*job_reports.c)
)
_PLACED = sa.select(job_nodes.c.node).where(job_nodes.c.job == _MINE).order_by(job_nodes.c.lane)
_WORKED = sa.select(tasks.c.node).where(tasks.c.job == _MINE, tasks.c.node.is_not(None)).distinct()
_TOOK_PART = sa.union(
    sa.select(tasks.c.node).where(tasks.c.job == _MINE, tasks.c.contribution.is_not(None)),
    sa.select(answers.c.node)
    .select_from(answers.join(audits, audits.c.audit == answers.c.audit))
    .where(audits.c.job == _MINE, answers.c.role == Role.AUDITOR.value),
)
_TASKS = (
    sa.select(*_names(Task, tasks))
    .where(tasks.c.job == _MINE, tasks.c.round >= sa.bindparam("first"))
    .order_by(tasks.c.round, tasks.c.kind.desc(), tasks.c.lane, tasks.c.attempt)
)
_NEWEST = sa.func.row_number().over(partition_by=tasks.c.node, order_by=tasks.c.contribution_index.desc())
_HANDED_IN = (
    sa.select(tasks.c.node, tasks.c.contribution_index, tasks.c.num_steps, _NEWEST.label("place"))
    .where(tasks.c.job == _MINE, tasks.c.round < sa.bindparam("first"), tasks.c.contribution_index.is_not(None))
    .subquery()
)
_TOOK = sa.select(
    tasks.c.task, tasks.c.kind, tasks.c.num_steps, tasks.c.used, tasks.c.grade_ppm, tasks.c.contribution_index
).where(tasks.c.job == _MINE, tasks.c.round < sa.bindparam("first"), tasks.c.contribution_index.is_not(None))
_EARLIER = sa.select(*list(_HANDED_IN.c)[:3]).where(_HANDED_IN.c.place <= HELD_UNITS)
_ACCUSERS = (
    sa.select(audits.c.task, nodes.c.operator)
    .join(nodes, nodes.c.node == audits.c.auditor)
    .join(tasks, tasks.c.task == audits.c.task)
    .where(tasks.c.job == _MINE, tasks.c.round >= sa.bindparam("first"))
    .where(audits.c.outcome == AuditOutcome.DISAGREED.value)
)
_OPEN = sa.select(audits.c.task).where(audits.c.job == _MINE, audits.c.outcome == AuditOutcome.OPEN.value)
_HEARD = sa.select(audits.c.audit).where(audits.c.task.in_(_OPEN))
_AUDITS = (
    sa.select(*_names(AuditRow, audits)).where(audits.c.task.in_(_OPEN)).order_by(audits.c.opened_at_ms, audits.c.audit)
)
_ANSWERS = (
    sa.select(*_names(AnswerRow, answers))
    .where(answers.c.audit.in_(_HEARD))
    .order_by(answers.c.committed_at_ms, answers.c.role)
)
_LEASES = (
    sa.select(*_names(LeaseRow, leases))
    .where(
        leases.c.job == _MINE,
        sa.or_(leases.c.state == sa.literal_column("'granted'"), leases.c.audit.in_(_HEARD)),
    )
    .order_by(leases.c.granted_at_ms, leases.c.lease)
)
_WAITING = sa.select(tasks.c.task).where(tasks.c.job == _MINE, tasks.c.state == sa.literal_column("'planned'"))
_ENDS = (
    sa.select(leases.c.task, sa.func.max(leases.c.ended_at_ms))
    .where(leases.c.task.in_(_WAITING), leases.c.ended_at_ms.is_not(None))
    .group_by(leases.c.task)
)
_UNDECIDED = (
    sa.select(sa.func.min(tasks.c.commitment_index))
    .where(tasks.c.job == _MINE, tasks.c.round >= sa.bindparam("first"))
    .where(tasks.c.state.in_(("committed", "contributed")))
    .scalar_subquery()
)
_LAST = sa.select(sa.func.max(draws.c.number)).where(draws.c.job == _MINE).scalar_subquery()
_ASKED = sa.select(audits.c.draw_number).where(audits.c.audit.in_(_HEARD))
_LOGGED_LIST = sa.alias(envelopes)
_LOGGED_DRAW = sa.alias(envelopes)
# Draws that may still take a task, the last one, and those of audits under way, or all; beside them the candidates of
# each, and of the next one, which may be fixed already.
_DRAWS = (
    sa.select(
        *_names(DrawRow, draws),
        draw_candidates.c.number.label("for_number"),
        draw_candidates.c.leaf,
        _LOGGED_LIST.c.log_index.label("listed_index"),
        _LOGGED_LIST.c.envelope.label("listed_envelope"),
        _LOGGED_DRAW.c.envelope.label("draw_envelope"),
    )
    .select_from(
        draw_candidates.outerjoin(
            draws, sa.and_(draws.c.job == draw_candidates.c.job, draws.c.number == draw_candidates.c.number)
        )
        .outerjoin(_LOGGED_LIST, _kept_as(_LOGGED_LIST, draw_candidates.c.leaf))
        .outerjoin(_LOGGED_DRAW, _kept_as(_LOGGED_DRAW, draws.c.draw))
    )
    .where(draw_candidates.c.job == _MINE)
    .where(
        sa.or_(
            sa.bindparam("all", type_=sa.Boolean),
            draws.c.number.is_(None),
            draws.c.number == _LAST,
            draws.c.checkpoint_size > _UNDECIDED,
            draws.c.number.in_(_ASKED),
        )
    )
    .order_by(draw_candidates.c.number)
)
