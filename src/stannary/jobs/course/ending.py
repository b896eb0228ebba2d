"""The end of a job that fails, is cancelled, or that somebody leaves: open work is given up, the rest is judged."""

from __future__ import annotations

from stannary.jobs.course import actions
from stannary.jobs.course.draft import PENDING, CourseDraft
from stannary.jobs.course.state import AuditOutcome, EarlyEnd, JobOrder, World
from stannary.jobs.states import JobStatus, TaskState, is_terminal
from stannary.rules import edition
from stannary.rules.pace import LATEST_FACTOR
from stannary.rules.reasons import Reason

MAX_MESSAGE_CHARS = 1000


def begin_end(draft: CourseDraft, to: JobStatus, reason: str, message: str) -> bool:
    """Begin the end of a job that fails or is cancelled.

    Returns: whether it begins now; False of a job whose end has begun before.
    """
    if is_terminal(draft.status) or draft.status in {JobStatus.VERIFYING, JobStatus.CANCELLING}:
        return False
    draft.do(actions.BeginEnd(EarlyEnd(to, reason, message[:MAX_MESSAGE_CHARS])))
    return True


def overdue(order: JobOrder, world: World, still_s: float, deserted_s: float | None) -> tuple[Reason, str] | None:
    """Return reason and message of the end of a job that nobody brings to one; None while it goes on.

    Args:
        order: the job.
        world: the moment; its `step_s` is this job's.
        still_s: since anything of it was handed in, drawn or judged, on the steady clock.
        deserted_s: since its work waits and no node that could take it is there (waiting.py), None if one is.
    """
    timing, shape = world.timing, order.shape
    if still_s > timing.stall_s + LATEST_FACTOR * shape.longest_steps * shape.step_s(world.step_s):
        return Reason.STALLED, f"nothing of it was handed in or judged for {still_s:,.0f} s"
    if deserted_s is not None and deserted_s > timing.lost_s:
        return Reason.NO_CAPACITY, "its work waits, and no node that could take it is there"
    return None


def give_up_work(draft: CourseDraft) -> None:
    """Give up what nobody has handed in of a job that ends early; what its buyer stops is paid as far as it came."""
    reason = draft.ending.reason if draft.ending is not None else ""
    is_paid = reason == Reason.CANCELLED and edition.of(draft.order.spec).pays_at_stop
    for task in list(draft.tasks.values()):
        if task.state in PENDING and not draft.is_answering(task):
            for lease in draft.live_of(task.task) if is_paid else ():
                draft.do(actions.SayStopped(task.task, lease.node, lease.granted_at_ms))
            draft.do(actions.Drop(task.task, TaskState.ABANDONED, reason, f"{task.task} is given up"))


def give_up_on_buyer(draft: CourseDraft) -> bool:
    """End a job whose buyer does not reveal: what is handed in is stored and paid unseen (docs/threat-model.md).

    Returns: whether nothing is left to do but the receipt.
    """
    message = "the buyer's broker has not revealed its beacon value in time"
    if draft.status is not JobStatus.CANCELLING:
        draft.failure = (Reason.BUYER_SILENT, message)
        return False
    if draft.ending is not None and draft.ending.reason != Reason.BUYER_SILENT:
        draft.do(actions.BeginEnd(EarlyEnd(draft.ending.status, Reason.BUYER_SILENT, message)))
    return all(audit.outcome is not AuditOutcome.OPEN for audit in draft.audits.values())
