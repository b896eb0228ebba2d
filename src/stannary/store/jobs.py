"""Jobs: submitted once, placed, watched.

`submit` is the hot path: it takes all submits that wait together and writes them with a handful of
statements, each with its escrow and its envelope for the log; its first event is its row (events.py). Which of them
were submitted before, and whose money does not reach, is decided in memory before anything is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from stannary.errors import AuthError, ConflictError, NotFound, StannaryError, UsageError
from stannary.formats.predicates import Verdict
from stannary.jobs.course.state import AskedQuestion, EarlyEnd
from stannary.jobs.states import OPEN_JOB, JobStatus, Settlement
from stannary.rules.reasons import Reason
from stannary.settle import escrow
from stannary.settle.ledger import Account, Entry, after_posting, buyer_available, buyer_escrow
from stannary.store import envelopes, ledger, statements
from stannary.store.schema import job_convictions, job_nodes, job_reports, jobs, questions, strikes

MAX_PAGE = 200


@dataclass(frozen=True, slots=True)
class Submission:
    """A job as it arrives; `payload_digest` covers all that the idempotency key stands for."""

    job: str
    buyer: str
    idempotency_key: str
    payload_digest: str
    job_digest: str
    leaf: str
    name: str
    kind: str
    verification: str
    envelope: bytes  # holds the spec
    escrow_usd_micros: int
    submitted_at_ms: int


@dataclass(frozen=True, slots=True)
class Submitted:
    """The durable answer: `created` is False when the same submit came before."""

    job: str
    created: bool


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as it stands."""

    job: str
    buyer: str
    idempotency_key: str
    payload_digest: str
    job_digest: str
    name: str
    kind: str
    verification: str
    leaf: str  # of the buyer's envelope (envelopes.order_of), which holds the spec
    status: JobStatus
    verdict: Verdict
    settlement: Settlement
    reason: str
    message: str
    first_open: int
    round: int
    loss: str | None
    heldout: str | None
    ending_status: str | None
    ending_reason: str | None
    ending_message: str | None
    escrow_usd_micros: int
    num_events: int
    num_log_lines: int
    num_dropped_log_lines: int
    submitted_at_ms: int
    started_at_ms: int | None
    finished_at_ms: int | None
    receipt: str | None

    @property
    def ending(self) -> EarlyEnd | None:
        """How it is going to end, of a job that ends early."""
        if self.ending_status is None:
            return None
        return EarlyEnd(JobStatus(self.ending_status), self.ending_reason or "", self.ending_message or "")


def submit(connection: Connection, items: Sequence[Submission], /) -> list[Submitted | StannaryError]:
    """Accept many submissions in one transaction (a `Bulk`); one answer each.

    An answer is `Submitted`, or an error that leaves the others alone: ConflictError (the key was
    used for another payload, the job exists), UsageError (not enough money), AuthError (no such buyer).
    """
    seen = _submitted_before(connection, items)
    known = _known_buyers(connection, items)
    money = ledger.balances_of(
        connection, {name for buyer in known for name in (buyer_available(buyer), buyer_escrow(buyer))}
    )
    fresh: list[tuple[Submission, Entry | None]] = []
    answers: list[Submitted | StannaryError] = []
    touched: dict[Account, int] = {}
    for item in items:
        answer = _judge(item, seen, known)
        if answer is None:
            try:
                entry = _hold(item, money, touched)
            except UsageError as error:
                answers.append(error)
                continue
            answer = Submitted(item.job, created=True)
            seen[item.buyer, item.idempotency_key] = seen[item.job] = (item.job, item.payload_digest)
            fresh.append((item, entry))
        answers.append(answer)
    if fresh:
        _insert(connection, fresh, touched)
    return answers


def get(connection: Connection, job: str) -> JobRow:
    """Return one job; NotFound if there is none."""
    row = connection.execute(_SELECT.where(jobs.c.job == job)).mappings().one_or_none()
    if row is None:
        raise NotFound("no such job", why=job, hint="stannary ls")
    return _job(row)


def of_buyer(
    connection: Connection, buyer: str, *, limit: int = MAX_PAGE, before: tuple[int, str] | None = None
) -> list[JobRow]:
    """Return a page of a buyer's jobs, newest first; `before` is (submitted_at_ms, job) of the last seen."""
    query = _SELECT.where(jobs.c.buyer == buyer).order_by(jobs.c.submitted_at_ms.desc(), jobs.c.job.desc())
    if before is not None:
        query = query.where(sa.tuple_(jobs.c.submitted_at_ms, jobs.c.job) < sa.tuple_(*map(sa.literal, before)))
    return [_job(row) for row in connection.execute(query.limit(min(limit, MAX_PAGE))).mappings()]


def open_jobs(connection: Connection) -> list[JobRow]:
    """Return every job that has not ended: what a market goes on with after a restart."""
    states = sorted(state.value for state in OPEN_JOB)
    query = _SELECT.where(jobs.c.status.in_(states)).order_by(jobs.c.submitted_at_ms, jobs.c.job)
    return [_job(row) for row in connection.execute(query).mappings()]


def ended_for(connection: Connection, reason: str) -> list[JobRow]:
    """Return a page of the jobs that ended for one reason, newest first."""
    query = _SELECT.where(jobs.c.reason == reason, jobs.c.finished_at_ms.is_not(None))
    query = query.order_by(jobs.c.finished_at_ms.desc(), jobs.c.job).limit(MAX_PAGE)
    return [_job(row) for row in connection.execute(query).mappings()]


def note_rounds(connection: Connection, job: str, *, first_open: int, last: int) -> None:
    """Note the first round that is not settled for good, and the last that has tasks (no event: nothing follows)."""
    connection.execute(sa.update(jobs).where(jobs.c.job == job).values(first_open=first_open, round=last))


def note_figures(connection: Connection, job: str, figures: Mapping[str, str]) -> None:
    """Note `loss` and `heldout` as a node last said them: shown to the buyer, counted with by nobody."""
    connection.execute(sa.update(jobs).where(jobs.c.job == job).values(**figures))


def note_ending(connection: Connection, job: str, ending: EarlyEnd) -> None:
    """Note how a job that ends early is going to end."""
    values = {"ending_status": ending.status.value, "ending_reason": ending.reason, "ending_message": ending.message}
    connection.execute(sa.update(jobs).where(jobs.c.job == job).values(**values))


def convict(connection: Connection, job: str, node: str) -> None:
    """Note that a node was convicted in a job: it gets no more of it."""
    connection.execute(insert(job_convictions).values(job=job, node=node).on_conflict_do_nothing())


def convicted(connection: Connection, job: str) -> frozenset[str]:
    """Return the nodes convicted in a job."""
    return frozenset(
        connection.execute(sa.select(job_convictions.c.node).where(job_convictions.c.job == job)).scalars()
    )


def strike(connection: Connection, job: str, node: str, task: str, *, at_ms: int) -> None:
    """Note that a node stood alone in a buyer's own code: it gets no more of that job."""
    row = {
        "job": job,
        "node": node,
        "task": task,
        "struck_at_ms": at_ms,
        "num_answered": _num_answered(connection, job),
    }
    connection.execute(insert(strikes).values(**row).on_conflict_do_nothing())


def struck(connection: Connection, job: str) -> frozenset[str]:
    """Return the nodes struck in a job whose strikes count."""
    return _standing_strikes(connection, job)


def struck_since(connection: Connection, job: str) -> frozenset[str]:
    """Return those of them that were struck since it was last answered whether the program can be recomputed."""
    return _standing_strikes(connection, job, strikes.c.num_answered == _num_answered(connection, job))


def open_question(connection: Connection, job: str, task: str, *, at_ms: int) -> None:
    """Note that it is asked whether the program of a job can be recomputed, about this task."""
    number = len(questions_of(connection, job))
    connection.execute(insert(questions).values(job=job, number=number, task=task, opened_at_ms=at_ms))


def close_question(connection: Connection, job: str, outcome: Reason, *, at_ms: int) -> None:
    """Note what the open question of a job came to."""
    is_open = (questions.c.job == job, questions.c.outcome.is_(None))
    connection.execute(sa.update(questions).where(*is_open).values(outcome=outcome.value, closed_at_ms=at_ms))


def questions_of(connection: Connection, job: str) -> tuple[AskedQuestion, ...]:
    """Return the questions of a job, oldest first."""
    query = sa.select(questions.c.task, questions.c.outcome, questions.c.closed_at_ms)
    query = query.where(questions.c.job == job).order_by(questions.c.number)
    return tuple(
        AskedQuestion(task, Reason(outcome) if outcome is not None else None, closed_at_ms)
        for task, outcome, closed_at_ms in connection.execute(query)
    )


def _standing_strikes(connection: Connection, job: str, *more: sa.ColumnElement[bool]) -> frozenset[str]:
    query = sa.select(strikes.c.node).where(strikes.c.job == job, strikes.c.taken_back_at_ms.is_(None), *more)
    return frozenset(connection.execute(query).scalars())


def _num_answered(connection: Connection, job: str) -> int:
    return sum(not asked.is_open for asked in questions_of(connection, job))


def report(connection: Connection, job: str, task: str, operator: str) -> None:
    """Note that an operator says that a task cannot run."""
    connection.execute(insert(job_reports).values(job=job, task=task, operator=operator).on_conflict_do_nothing())


def set_receipt(connection: Connection, job: str, receipt: str) -> None:
    """Note the digest of a job's receipt file, once."""
    changed = connection.execute(
        sa.update(jobs)
        .where(jobs.c.job == job, sa.or_(jobs.c.receipt.is_(None), jobs.c.receipt == receipt))
        .values(receipt=receipt)
    )
    if changed.rowcount != 1:
        raise ConflictError("this job has its receipt already", why=job)


def place(connection: Connection, job: str, nodes: Sequence[str]) -> None:
    """Note which node holds each lane, replacing an earlier placement."""
    connection.execute(sa.delete(job_nodes).where(job_nodes.c.job == job))
    if nodes:
        rows = [{"job": job, "lane": lane, "node": node} for lane, node in enumerate(nodes)]
        connection.execute(sa.insert(job_nodes), rows)


def placed(connection: Connection, job: str) -> list[str]:
    """Return the nodes of a job's lanes, in lane order."""
    query = sa.select(job_nodes.c.node).where(job_nodes.c.job == job).order_by(job_nodes.c.lane)
    return list(connection.execute(query).scalars())


_COLUMNS = [field.name for field in fields(JobRow)]
_SELECT = sa.select(*(jobs.c[name] for name in _COLUMNS))
_Seen = dict[Any, tuple[str, str]]  # (buyer, key) or job -> (job, payload digest)


def _job(row: sa.RowMapping) -> JobRow:
    states = {
        "status": JobStatus(row["status"]),
        "verdict": Verdict(row["verdict"]),
        "settlement": Settlement(row["settlement"]),
    }
    return JobRow(**{**row, **states})


def _submitted_before(connection: Connection, items: Sequence[Submission]) -> _Seen:
    wanted = json.dumps([[item.buyer, item.idempotency_key, item.job] for item in items])
    seen: _Seen = {}
    for job, buyer, key, payload in statements.run(connection, _BEFORE, (wanted, wanted)):
        seen[buyer, key] = seen[job] = (job, payload)
    return seen


def _known_buyers(connection: Connection, items: Sequence[Submission]) -> set[str]:
    wanted = json.dumps(list({item.buyer for item in items}))
    return {buyer for (buyer,) in statements.run(connection, _BUYERS, (wanted,))}


def _judge(item: Submission, seen: _Seen, known: set[str]) -> Submitted | StannaryError | None:
    before = seen.get((item.buyer, item.idempotency_key))
    if before is not None:
        job, payload = before
        if payload == item.payload_digest:
            return Submitted(job, created=False)
        return ConflictError(
            "this idempotency key was used for another job",
            why=f"key {item.idempotency_key!r:.80} stands for {job}",
            hint="send the new job under a key of its own",
        )
    if item.job in seen:
        return ConflictError("this job was submitted already", why=f"{item.job}, under another idempotency key")
    if item.buyer not in known:
        return AuthError("no such buyer", why=item.buyer)
    return None


def _hold(item: Submission, money: dict[Account, int], touched: dict[Account, int]) -> Entry | None:
    if item.escrow_usd_micros == 0:
        return None
    entry = escrow.hold(item.job, item.buyer, item.escrow_usd_micros)
    after = after_posting(money, entry.postings)
    money.update(after)
    touched.update(after)
    return entry


def _insert(
    connection: Connection, fresh: Sequence[tuple[Submission, Entry | None]], touched: dict[Account, int]
) -> None:
    first = envelopes.add_orders(
        connection,
        [envelopes.Incoming(item.leaf, "job", item.envelope, item.submitted_at_ms, item.job) for item, _ in fresh],
    )
    _INSERT_JOB(connection, [_job_values(item, seq) for seq, (item, _) in enumerate(fresh, first)])
    at_ms = max(item.submitted_at_ms for item, _ in fresh)
    ledger.append(connection, [entry for _, entry in fresh if entry is not None], touched, at_ms=at_ms)


def _job_values(item: Submission, envelope_seq: int) -> tuple[object, ...]:
    return (
        item.job,
        item.buyer,
        item.idempotency_key,
        item.payload_digest,
        item.job_digest,
        item.name,
        item.kind,
        item.verification,
        item.leaf,
        envelope_seq,
        JobStatus.QUEUED.value,
        Verdict.PENDING.value,
        Settlement.HELD.value,
        item.escrow_usd_micros,
        1,
        item.submitted_at_ms,
    )


# One parameter for a thousand keys: an IN list of them would be compiled anew for each length.
_BEFORE = (
    "SELECT jobs.job, buyer, idempotency_key, payload_digest FROM json_each(?) AS wanted "
    "CROSS JOIN jobs ON buyer = json_extract(wanted.value, '$[0]') "
    "AND idempotency_key = json_extract(wanted.value, '$[1]') UNION ALL "
    "SELECT jobs.job, buyer, idempotency_key, payload_digest FROM json_each(?) AS wanted "
    "CROSS JOIN jobs ON jobs.job = json_extract(wanted.value, '$[2]')"
)
_BUYERS = "SELECT buyer FROM buyers WHERE buyer IN (SELECT value FROM json_each(?))"
_INSERT_JOB = statements.insert(
    jobs,
    "job buyer idempotency_key payload_digest job_digest name kind verification leaf"
    " envelope_seq status verdict settlement escrow_usd_micros num_events submitted_at_ms",
)
