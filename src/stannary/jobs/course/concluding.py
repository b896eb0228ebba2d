"""The end of a job of which nothing is open: verdict, money and receipt, in three steps a crash may part.

    close     the last reading of every node goes to the log; a running job is `verifying`
    settle    everything is logged: the receipt is stated, the money moves, and who is refuted works here no more (where
              a conviction only disputes a bond, that waits for the appeal, and nothing here waits for it)
    publish   the receipt is logged: its file is named, and the job ends

What has been done is seen in the snapshot, so each step is done once. What the evidence shows is verify/conclusion.py's
to say; the market joins it in, as `Concluded`.
"""

from __future__ import annotations

from dataclasses import dataclass

from stannary.formats.digest import Digest
from stannary.formats.predicates import Receipt, Verdict
from stannary.formats.statement import Subject
from stannary.jobs.course import actions
from stannary.jobs.course.actions import Action
from stannary.jobs.course.state import EarlyEnd, JobOrder
from stannary.jobs.states import JobStatus, Settlement
from stannary.rules import edition
from stannary.rules.reasons import Reason


@dataclass(frozen=True, slots=True)
class JudgedJob:
    """A job of which nothing is open, as it stands."""

    order: JobOrder
    version: int  # number of its events
    status: JobStatus
    ending: EarlyEnd | None
    verdict: Verdict
    begun_at_ms: int
    readings: tuple[bytes, ...]  # envelopes of last readings that are not posted yet, while there is no receipt
    num_unlogged: int  # of its statements on their way into the log, the same
    receipt: Receipt | None  # once it is posted

    @property
    def is_closed(self) -> bool:
        """Whether the log holds all there is to say of it."""
        return self.status is not JobStatus.RUNNING and not self.readings and not self.num_unlogged

    @property
    def end(self) -> EarlyEnd:
        """How and why it ends."""
        return self.ending or EarlyEnd(JobStatus.SUCCEEDED, Reason.COMPLETE, "")


@dataclass(frozen=True, slots=True)
class Concluded:
    """What the evidence of a job shows."""

    receipt: Receipt
    subjects: tuple[Subject, ...]  # results, of a job that succeeded
    refuted: tuple[str, ...]  # nodes


def close(job: JudgedJob) -> tuple[Action, ...]:
    """Return what brings all of a job into the log; nothing where it is on its way."""
    readings = (actions.PostReading(envelope) for envelope in job.readings)
    return (*readings, *([actions.Verify()] if job.status is JobStatus.RUNNING else []))


def settle(job: JudgedJob, made: Concluded) -> tuple[Action, ...]:
    """Return what follows, once, from all that is logged."""
    paid, disputes = made.receipt.paid_usd_micros, edition.of(job.order.spec).disputes_bonds
    return (
        actions.StateReceipt(made.receipt, made.subjects),
        actions.Pay(
            made.receipt.settlement, Settlement.RELEASED if paid else Settlement.REFUNDED, f"${paid / 1e6:.6f} paid"
        ),
        *(actions.Revoke(node, f"refuted in {job.order.job}") for node in made.refuted if not disputes),
    )


def publish(job: JudgedJob, file: Digest, size_bytes: int) -> tuple[Action, ...]:
    """Return the last of a job, whose receipt is logged and lies in a stored file."""
    stated = job.receipt
    assert stated is not None
    end = EarlyEnd(JobStatus(stated.status), stated.reason, job.end.message or f"{stated.status}, {stated.verdict}")
    verdict = stated.verdict if job.verdict is Verdict.PENDING else None
    return (actions.Publish(file, size_bytes, verdict, end),)
