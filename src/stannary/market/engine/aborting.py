"""The end of a job the market itself cannot bring to one: everything given back, whatever state it is in.

Rules:
- Nothing here reads a statement or computes a figure that may be what the market failed at: rows and the job's own
  escrow only.
- The whole escrow that is left returns to the buyer; nobody is paid and nobody's bond is touched. A job whose money
  has moved already keeps its settlement, and lacks its receipt file only.
- There is no receipt: the market states nothing it could not compute. The operator finds the job in the list of faults.
"""

from __future__ import annotations

from sqlalchemy.engine import Connection

from stannary.formats.predicates import Verdict
from stannary.jobs.course.draft import PENDING
from stannary.jobs.course.state import AuditOutcome
from stannary.jobs.states import JobStatus, LeaseState, Settlement, TaskState, is_terminal
from stannary.rules.reasons import Reason
from stannary.settle import escrow
from stannary.store import audits, jobs, leases, ledger, tasks
from stannary.store.transitions import Cause, move_job, move_lease, move_settlement, move_task, move_verdict


def abort(connection: Connection, job: str, now_ms: int, what: str) -> None:
    """End a job as `market-fault` and give its escrow back; does nothing to one that has ended."""
    row = jobs.get(connection, job)
    if is_terminal(row.status):
        return
    cause = Cause(now_ms, Reason.MARKET_FAULT, f"the market could not bring this job to its end: {what}"[:1000])
    for lease in leases.live_of_job(connection, job):
        move_lease(connection, lease.lease, LeaseState.REVOKED, cause)
    for task in tasks.of_job(connection, job):
        if task.state in PENDING:
            move_task(connection, task.task, TaskState.ABANDONED, cause)
    for audit in audits.of_job(connection, job, only_open=True):
        audits.close(connection, audit.audit, AuditOutcome.DROPPED, at_ms=now_ms)
    entry = escrow.settle(escrow.Escrow(job, row.buyer, ledger.escrow_left(connection, job)))
    if entry is not None:
        ledger.post(connection, entry, at_ms=now_ms)
    if row.settlement is Settlement.HELD:
        move_settlement(connection, job, Settlement.REFUNDED, cause)
    if row.verdict is Verdict.PENDING:
        move_verdict(connection, job, Verdict.UNVERIFIED, cause)
    move_job(connection, job, JobStatus.FAILED, cause)
