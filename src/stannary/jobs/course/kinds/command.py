"""Command jobs: one task a lane; a lane whose result does not count is run again."""

from __future__ import annotations

from stannary.formats import ids
from stannary.formats.ids import TaskKind
from stannary.formats.jobspec import Verification
from stannary.formats.predicates import Assignment
from stannary.jobs.course import planning
from stannary.jobs.course.draft import CourseDraft
from stannary.jobs.course.kinds.kind import Progress
from stannary.jobs.course.planning import DONE, MAX_LOST, OUT, WAITING
from stannary.jobs.course.state import Task
from stannary.jobs.states import TaskState
from stannary.rules.reasons import Reason


class CommandKind:
    """A program that is run once on each of its nodes."""

    def plan(self, draft: CourseDraft) -> Progress:
        """Plan each lane's first attempt, and the next one where the last does not count."""
        found = planning.read_round(draft, 0)
        num_lanes = draft.order.shape.num_lanes
        for lane in range(planning.num_lanes(draft)):
            listed = found.lanes.get(lane, [])
            redo = listed and listed[-1].state in OUT and not _counts_unverified(draft, listed[-1])
            if redo and len(listed) >= MAX_LOST:
                planning.fail(draft, f"{len(listed)} attempts at lane {lane}, none of which counts")
            elif not listed or redo:
                planning.plan(draft, _assignment(draft, lane, len(listed)))
        done = len(found.lanes) == num_lanes and all(
            task.state in DONE or _counts_unverified(draft, task) for task in found.newest
        )
        return Progress(0, 0, done and not any(task.state in WAITING for task in found.tasks))


def _counts_unverified(draft: CourseDraft, task: Task) -> bool:
    """Tell whether `unverified` is all that can be: the buyer asked for no more, or a clock or a limit cut it."""
    is_enough = draft.order.verification is Verification.NONE or task.reason == Reason.CUT
    return is_enough and task.state is TaskState.UNVERIFIED


def _assignment(draft: CourseDraft, lane: int, attempt: int) -> Assignment:
    job = draft.order.job
    return Assignment(job, ids.command_task(job, lane, attempt), TaskKind.COMMAND, 0, lane, 1, 0, 0)
