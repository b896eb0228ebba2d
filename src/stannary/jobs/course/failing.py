"""Reports that a task cannot run: whose they are, and when they are the job's failure rather than a node's.

Rules:
- A report is one of a node to which the market leased the task, under that lease; one operator is heard once a task.
- Three operators who agree end the job, fewer only where nobody else could try: no other operator's node is there and
  fits, busy or not, whose operator did not contradict the unit (offering.py: he may not do it). So two who lie together
  end no job that an honest third could do; a broken job costs one more start, and waits for the third to come free.
- Whoever reported a task is not given it again while another may take it.
- The message names the operators: a buyer who doubts them leaves them out of his next job (`exclude_operators`).
- What the program itself came to is no report but a result (rules/ending.py): a failure here is one of a lease, an
  environment or a sandbox, and is unpaid.
- A node's reason is a word of its own: one that decides about money or is the market's to say counts as `run-failed`.
"""

from __future__ import annotations

from collections.abc import Collection

from stannary.formats import ids
from stannary.formats.ids import LeaseType, TaskId
from stannary.jobs.course import actions, ending, masks
from stannary.jobs.course.draft import CourseDraft
from stannary.jobs.course.state import LeaseRow
from stannary.jobs.states import JobStatus, LeaseState
from stannary.rules import reasons
from stannary.rules.reasons import Reason

AGREEING = 3  # operators who must report a failure before it is the job's, where so many could try


def report(draft: CourseDraft, lease: LeaseRow, reason: str, message: str) -> None:
    """End a lease its node cannot fulfil; what enough operators report is the job's failure."""
    draft.do(actions.EndLease(lease.lease, LeaseState.RELEASED, reason, message[: ending.MAX_MESSAGE_CHARS]))
    if lease.type is not LeaseType.WORK:
        return
    operator = draft.world.nodes.get(lease.node).operator
    reported = sorted({*draft.reported.get(lease.task, ()), operator})
    draft.do(actions.ReportTask(lease.task, operator))
    barred = draft.accusers.get(ids.unit_of(TaskId(lease.task)), frozenset())
    if len(reported) >= _needed(draft, {*reported, *barred}, len(reported)):
        named = f"{message} (reported by {', '.join(reported)})"
        said = Reason.RUN_FAILED if reason in reasons.OWN else reason
        ending.begin_end(draft, JobStatus.FAILED, said, named)


def _needed(draft: CourseDraft, spent: Collection[str], num_reported: int) -> int:
    """Return how many operators must have reported a task before its job has failed; `spent` can try it no more."""
    able = any(
        node.operator not in spent
        and node.node in draft.world.live
        and not masks.why_not(node, draft.order, draft.world)
        and node.node not in draft.out
        for node in draft.world.nodes.of_class(draft.engine_class)
    )
    return AGREEING if able else num_reported  # nobody else could ever say otherwise
