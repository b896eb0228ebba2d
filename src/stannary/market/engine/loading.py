"""What decisions rest on, read from the store: each in one transaction and a fixed number of queries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy.engine import Connection

from stannary.errors import StannaryError
from stannary.formats import digest, dsse, jobspec, statement
from stannary.formats.digest import Digest
from stannary.formats.ids import JobId, NodeId
from stannary.formats.predicates import Candidates, Credential, Job, Placement, Receipt, Watch
from stannary.jobs.course.concluding import JudgedJob
from stannary.jobs.course.state import JobOrder, JobState, Leased, LeaseRow
from stannary.jobs.states import JobStatus
from stannary.store import audits, envelopes, jobs, leases, nodes, readings, snapshots
from stannary.store.envelopes import RECEIPT, Kept
from stannary.store.jobs import JobRow
from stannary.verify import case
from stannary.verify.case import Logged

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = TypeVar("P", bound="DataclassInstance")


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is logged of a job, and what the nodes it names worked under, in log order; its receipt apart."""

    statements: tuple[Logged[DataclassInstance], ...]
    envelopes: tuple[dsse.Envelope, ...]  # the same
    checkpoints: tuple[tuple[str, int], ...]  # that draws were made for, with their sizes
    receipt: dsse.Envelope | None  # once it is posted

    @property
    def leaves(self) -> tuple[Digest, ...]:
        """Return the leaves a receipt lists."""
        return tuple(item.leaf for item in self.statements)


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A job that has not ended, as it is taken up at a start."""

    job: str
    is_queued: bool
    submitted_at_ms: int
    order: JobOrder | StannaryError  # why it cannot be read: taken by an older market, say


def open_jobs(connection: Connection) -> list[OpenJob]:
    """Return every job that has not ended."""
    return [
        OpenJob(row.job, row.status is JobStatus.QUEUED, row.submitted_at_ms, _order_or_fault(connection, row))
        for row in jobs.open_jobs(connection)
    ]


def snapshot(connection: Connection, order: JobOrder) -> JobState:
    """Return one job as it stands; NotFound if there is none."""
    return snapshots.load(connection, order)


def watch(connection: Connection, order: JobOrder) -> Watch | None:
    """Return whose units the next draw of a job draws more often, None where nobody's."""
    return snapshots.watch_of(connection, order, snapshots.at_work(connection, order.job))


def lease(connection: Connection, name: str) -> LeaseRow:
    """Return one lease; NotFound if there is none."""
    return leases.get(connection, name)


def held(connection: Connection) -> list[Leased]:
    """Return every live lease, with what tells whether it is late."""
    return leases.live_work(connection)


def order_of(row: JobRow, envelope: bytes) -> JobOrder:
    """Read the order of a stored job (its envelope was verified when it was admitted)."""
    made = _predicate(envelope, "job", Job)
    return JobOrder(
        JobId(row.job),
        Digest(row.job_digest),
        row.leaf,
        row.buyer,
        made,
        jobspec.from_canonical(made.spec),
        row.escrow_usd_micros,
    )


def order(connection: Connection, job: str) -> JobOrder:
    """Return the order of a job, whether it has ended or not; NotFound if there is none."""
    return order_of(jobs.get(connection, job), envelopes.order_of(connection, job))


def judged(connection: Connection, order: JobOrder) -> tuple[JudgedJob, Evidence | None]:
    """Return a job of which nothing is open, and its evidence once it is closed.

    Raises:
        NotFound: there is no such job.
    """
    row, kept = jobs.get(connection, order.job), envelopes.of_job(connection, order.job)
    posted = {item.leaf for item in kept}
    last = {reading.node: reading.envelope for reading in readings.of_job(connection, order.job)}
    receipt = next((item for item in kept if item.kind == RECEIPT), None)
    job = JudgedJob(
        order=order,
        version=row.num_events,
        status=row.status,
        ending=row.ending,
        verdict=row.verdict,
        begun_at_ms=row.started_at_ms or row.submitted_at_ms,
        readings=tuple(held for held in last.values() if receipt is None and _leaf(held) not in posted),
        num_unlogged=sum(item.log_index is None for item in kept) if receipt is None else 0,
        receipt=_predicate(receipt.envelope, RECEIPT, Receipt) if receipt is not None else None,
    )
    return job, _evidence(connection, order.job, kept) if job.is_closed else None


def told(connection: Connection, job: str, receipt: Kept) -> tuple[case.Case, Receipt, Digest]:
    """Return the case of an ended job, from what its receipt lists and nothing else."""
    stated = _predicate(receipt.envelope, RECEIPT, Receipt)
    listed = set(stated.evidence)
    own = [item for item in envelopes.of_job(connection, job) if item.leaf in listed]
    papers = envelopes.some(connection, sorted(listed - {item.leaf for item in own}))
    return case.Case(_logged(item)[0] for item in (*own, *papers)), stated, Digest(receipt.leaf)


def _order_or_fault(connection: Connection, row: JobRow) -> JobOrder | StannaryError:
    try:
        return order_of(row, envelopes.order_of(connection, row.job))
    except StannaryError as err:  # one order must not keep all others waiting
        return err


def _evidence(connection: Connection, job: str, kept: Sequence[Kept]) -> Evidence:
    own = [_logged(item) for item in kept if item.kind != RECEIPT and item.log_index is not None]
    papers = _papers(connection, _named(read for read, _ in own))
    ordered = sorted([*own, *map(_logged, papers)], key=lambda item: item[0].index)
    draws = [row for row in audits.draws_of_job(connection, job) if row.reveal is not None]
    return Evidence(
        statements=tuple(read for read, _ in ordered),
        envelopes=tuple(envelope for _, envelope in ordered),
        checkpoints=tuple((row.checkpoint, row.checkpoint_size) for row in draws),
        receipt=next((_read(item.envelope) for item in kept if item.kind == RECEIPT), None),
    )


def _papers(connection: Connection, named: Iterable[NodeId]) -> list[Kept]:
    """Return the logged credentials of nodes, their joins and tests: work before a renewal was done under the old one.

    A renewal on its way into the log is none yet: nothing that the log has was done under it.
    """
    issued = {item.leaf: item for item in nodes.credentials_of(connection, sorted(named))}
    logged = [item for item in envelopes.some(connection, sorted(issued)) if item.log_index is not None]
    said = [_predicate(item.envelope, "credential", Credential) for item in logged]
    signed = {str(item.join) for item in said} | {str(test.power) for item in said for test in item.tests or ()}
    return [*logged, *envelopes.some(connection, sorted(signed))]


def _named(statements: Iterable[Logged[DataclassInstance]]) -> set[NodeId]:
    found: set[NodeId] = set()
    for item in statements:
        predicate = item.predicate
        if isinstance(predicate, Placement):
            found.update(predicate.chosen)
        elif isinstance(predicate, Candidates):
            found.update(entry.node for entry in predicate.candidates)
        elif isinstance(node := getattr(predicate, "node", None), str):
            found.add(NodeId(node))
    return found


def _logged(kept: Kept) -> tuple[Logged[DataclassInstance], dsse.Envelope]:
    envelope = _read(kept.envelope)
    return case.read(kept.log_index or 0, envelope), envelope


def _read(envelope: bytes) -> dsse.Envelope:
    return dsse.from_bytes(envelope)


def _predicate(envelope: bytes, kind: str, cls: type[P]) -> P:
    return statement.read(_read(envelope).payload, kind, cls).predicate


def _leaf(envelope: bytes) -> Digest:
    return digest.from_raw(_read(envelope).leaf())
