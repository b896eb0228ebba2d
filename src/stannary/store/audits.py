"""Draws, audits and their answers.

An audit is one recomputation of a task by one auditor, compared with the prover's own answer to the
same question. It is `open` until it is closed with an outcome; a round's merge waits for all of them.
Both answers are committed to before either is opened (docs/audits.md): `commit_answer` refuses a
second commitment of the same node, and `open_answer` refuses one that was not committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stannary.errors import ConflictError, NotFound
from stannary.formats.canonical import Json
from stannary.formats.predicates import Role
from stannary.jobs.course.state import AnswerRow, AuditOutcome, AuditRow, DrawRow, NewAudit, NewDraw
from stannary.store import events
from stannary.store.schema import answers, audits, draw_candidates, draws


@dataclass(frozen=True, slots=True)
class CandidatesRow:
    """The candidates of a draw: their statement, and its place in the checkpoint shown for the draw."""

    job: str
    number: int
    leaf: str
    log_index: int | None
    inclusion: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Opened:
    """An answer as revealed."""

    leaf: str
    answer: str
    root: str
    outputs: Sequence[Mapping[str, Json]]
    ended: str | None = None


def fix_candidates(connection: Connection, job: str, number: int, leaf: str) -> None:
    """Note whose statement says who may audit what a draw draws, once and for all."""
    connection.execute(sa.insert(draw_candidates).values(job=job, number=number, leaf=leaf))


def cover_candidates(connection: Connection, job: str, number: int, index: int, inclusion: Sequence[str]) -> None:
    """Note where the checkpoint shown for a draw holds its candidates."""
    connection.execute(
        sa.update(draw_candidates)
        .where(draw_candidates.c.job == job, draw_candidates.c.number == number)
        .values(log_index=index, inclusion=list(inclusion))
    )


def candidates_of(connection: Connection, job: str, number: int) -> CandidatesRow | None:
    """Return the candidates fixed for a draw, None before they are."""
    query = sa.select(draw_candidates).where(draw_candidates.c.job == job, draw_candidates.c.number == number)
    row = connection.execute(query).mappings().one_or_none()
    return CandidatesRow(**row) if row is not None else None


def agreeing(connection: Connection, task: str) -> list[str]:
    """Return the auditors who found what was handed in as a task."""
    query = sa.select(audits.c.auditor).where(audits.c.task == task, audits.c.outcome == AuditOutcome.AGREED.value)
    return list(connection.execute(query.where(audits.c.auditor.is_not(None))).scalars())


def request_draw(connection: Connection, new: NewDraw) -> None:
    """Ask the buyer for the beacon value of one checkpoint."""
    connection.execute(sa.insert(draws).values(**{**asdict(new), "consistency": list(new.consistency)}))
    happening = events.Happening("beacon.requested", f"beacon value {new.number} asked for", new.requested_at_ms)
    events.append(connection, new.job, happening)


def reveal(connection: Connection, job: str, number: int, *, leaf: str, value: str, at_ms: int) -> None:
    """Take the buyer's beacon value, once; the same one again changes nothing."""
    row = get_draw(connection, job, number)
    if row.value is not None:
        if row.value != value:
            raise ConflictError("another beacon value was revealed", why=f"{job}, draw {number}")
        return
    connection.execute(_one_draw(job, number).values(reveal=leaf, value=value, revealed_at_ms=at_ms))
    events.append(connection, job, events.Happening("beacon.revealed", f"beacon value {number} revealed", at_ms))


def set_draw(connection: Connection, job: str, number: int, leaf: str, *, at_ms: int) -> None:
    """Note the leaf of the draw statement made from a revealed value, once."""
    changed = connection.execute(
        _one_draw(job, number).where(draws.c.value.is_not(None), draws.c.draw.is_(None)).values(draw=leaf)
    )
    if changed.rowcount != 1:
        raise ConflictError("this draw is made already, or not revealed", why=f"{job}, draw {number}")
    events.append(connection, job, events.Happening("draw.made", f"draw {number} made", at_ms))


def get_draw(connection: Connection, job: str, number: int) -> DrawRow:
    """Return one draw; NotFound if it was never asked for."""
    found = [row for row in draws_of_job(connection, job) if row.number == number]
    if not found:
        raise NotFound("no such draw", why=f"{job}, draw {number}")
    return found[0]


def draws_of_job(connection: Connection, job: str) -> list[DrawRow]:
    """Return the draws of a job in order; one without a value is what the buyer owes."""
    query = sa.select(draws).where(draws.c.job == job).order_by(draws.c.number)
    return [DrawRow(**row) for row in connection.execute(query).mappings()]


def open_audit(connection: Connection, new: NewAudit, *, at_ms: int) -> None:
    """Open an audit, with its event."""
    values = {**asdict(new), "ranked": list(new.ranked), "canary": int(new.canary)}
    connection.execute(sa.insert(audits).values(**values, opened_at_ms=at_ms))
    # The event does not say which audits are canaries: auditors may read the job's history.
    happening = events.Happening("audit.opened", f"audit {new.audit}", at_ms, new.task, new.auditor)
    events.append(connection, new.job, happening)


def commit_answer(
    connection: Connection, audit: str, role: Role, node: str, *, commitment: str, leaf: str, at_ms: int
) -> None:
    """Take a blinded answer; the same one again changes nothing, another is refused."""
    # A prover answers once for all audits of its task: that its first auditor gave up is nothing it can help.
    if role is Role.AUDITOR and get(connection, audit).outcome is not AuditOutcome.OPEN:
        raise ConflictError("this audit is closed", why=audit)
    given = {(row.role, row.node): row for row in answers_of(connection, audit)}.get((role, node))
    if given is not None:
        if given.commitment != commitment:
            raise ConflictError("an answer is committed to once", why=f"{audit}, {role} {node}")
        return
    values = {"audit": audit, "role": role.value, "node": node, "commitment": commitment}
    connection.execute(sa.insert(answers).values(**values, commitment_leaf=leaf, committed_at_ms=at_ms))


def open_answer(connection: Connection, audit: str, role: Role, node: str, opened: Opened, *, at_ms: int) -> None:
    """Take an answer that was committed to (the market checks that it opens the commitment)."""
    changed = connection.execute(
        sa.update(answers)
        .where(answers.c.audit == audit, answers.c.role == role.value, answers.c.node == node)
        .where(sa.or_(answers.c.answer_leaf.is_(None), answers.c.answer_leaf == opened.leaf))
        .values(
            answer_leaf=opened.leaf,
            answer=opened.answer,
            root=opened.root,
            outputs=list(opened.outputs),
            ended=opened.ended,
            answered_at_ms=at_ms,
        )
    )
    if changed.rowcount != 1:
        raise ConflictError("no commitment waits for this answer", why=f"{audit}, {role} {node}")


def close(connection: Connection, audit: str, outcome: AuditOutcome, *, at_ms: int) -> None:
    """Close an audit, once, with its event."""
    row = get(connection, audit)
    if row.outcome is not AuditOutcome.OPEN:
        raise ConflictError("this audit is closed", why=f"{audit} {row.outcome}")
    connection.execute(_one(audit).values(outcome=outcome.value, closed_at_ms=at_ms))
    happening = events.Happening(f"audit.{outcome}", f"audit {audit} {outcome}", at_ms, row.task, row.auditor)
    events.append(connection, row.job, happening)


def get(connection: Connection, audit: str) -> AuditRow:
    """Return one audit; NotFound if there is none."""
    row = connection.execute(_SELECT.where(audits.c.audit == audit)).mappings().one_or_none()
    if row is None:
        raise NotFound("no such audit", why=audit)
    return read(row)


def of_job(connection: Connection, job: str, *, only_open: bool = False) -> list[AuditRow]:
    """Return the audits of a job in the order they were opened."""
    query = _SELECT.where(audits.c.job == job)
    if only_open:
        query = query.where(audits.c.outcome == AuditOutcome.OPEN.value)
    return [read(row) for row in connection.execute(query.order_by(audits.c.opened_at_ms, audits.c.audit)).mappings()]


def answers_of(connection: Connection, audit: str) -> list[AnswerRow]:
    """Return what was said to one audit's question, in order of commitment."""
    query = sa.select(answers).where(answers.c.audit == audit).order_by(answers.c.committed_at_ms, answers.c.role)
    return [AnswerRow(**{**row, "role": Role(row["role"])}) for row in connection.execute(query).mappings()]


def read(row: sa.RowMapping) -> AuditRow:
    """Return an audit as its row says."""
    return AuditRow(**{**row, "canary": bool(row["canary"]), "outcome": AuditOutcome(row["outcome"])})


def _one(audit: str) -> sa.Update:
    return sa.update(audits).where(audits.c.audit == audit)


def _one_draw(job: str, number: int) -> sa.Update:
    return sa.update(draws).where(draws.c.job == job, draws.c.number == number)


_SELECT = sa.select(*(audits.c[field.name] for field in fields(AuditRow)))
