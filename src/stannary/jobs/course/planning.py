"""Planning: which tasks a job needs now, and which of those it has are void. What every kind of job shares.

Rules (rules/pace.py decides when a round closes, jobs/rounds.py what a merge admits and when it may be assigned):
- An assignment is stated in the transaction that plans its task, hence logged before any commitment to it.
- What does not count is superseded and planned again as the next attempt. A conviction is nothing special: it makes a
  contribution inadmissible, and the rest follows.
- Work without a result is superseded at once. Work handed in is judged first, then superseded, so
  that an honest node is paid for work another's lie made useless.
- Nothing but the first unit is planned before its check has ended (rules/first.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from stannary.formats import ids
from stannary.formats.ids import TaskId
from stannary.formats.predicates import Assignment
from stannary.jobs.course import actions
from stannary.jobs.course.draft import PENDING, CourseDraft
from stannary.jobs.course.state import Task
from stannary.jobs.states import OPEN_TASK, TaskState
from stannary.rules import first
from stannary.rules.ending import has_broken_off
from stannary.rules.kinds import TASKS
from stannary.rules.reasons import Reason

MAX_ATTEMPTS = 100  # a lane that was redone so often never converges
MAX_LOST = 4  # attempts of a whole round, or of one command, of which none counted

WAITING = OPEN_TASK
OUT = frozenset({TaskState.REFUTED, TaskState.UNVERIFIED, TaskState.ABANDONED, TaskState.SUPERSEDED})
DONE = frozenset({TaskState.PASSED, TaskState.VERIFIED})
JUDGED = frozenset({TaskState.VERIFIED, TaskState.UNVERIFIED, TaskState.PASSED})


@dataclass(slots=True)
class Round:
    """The tasks of one round."""

    index: int
    lanes: dict[int, list[Task]]
    merges: list[Task]

    @property
    def tasks(self) -> list[Task]:
        """All attempts."""
        return [task for listed in self.lanes.values() for task in listed] + self.merges

    @property
    def newest(self) -> list[Task]:
        """The newest attempt of each lane."""
        return [listed[-1] for listed in self.lanes.values()]


def read_round(draft: CourseDraft, index: int) -> Round:
    """Return the tasks of one round."""
    lanes: dict[int, list[Task]] = {}
    merges: list[Task] = []
    for task in draft.of_round(index):
        (merges if TASKS[task.kind].is_merge else lanes.setdefault(task.lane, [])).append(task)
    for listed in (*lanes.values(), merges):
        listed.sort(key=lambda task: task.attempt)
    return Round(index, lanes, merges)


def is_first_checked(draft: CourseDraft) -> bool:
    """Tell whether more than a job's first unit may begin: its check has ended, or there is none."""
    unit = first.unit(draft.order.spec, draft.order.job)
    if not unit or draft.first_open:
        return True
    return any(
        ids.unit_of(TaskId(task.task)) != unit
        or (first.ends(task.verdict, task.reason) and not has_broken_off(task.kind, task.ended))  # that ends the job
        for task in draft.tasks.values()
    )


def num_lanes(draft: CourseDraft) -> int:
    """Return how many lanes of a round may be planned now."""
    return draft.order.shape.num_lanes if is_first_checked(draft) else 1


def plan(draft: CourseDraft, assignment: Assignment) -> Task | None:
    """Plan a task, unless it was tried too often: then the job cannot go on."""
    if ids.attempt_of(assignment.task) >= MAX_ATTEMPTS:
        fail(draft, f"{assignment.task} is attempt number {MAX_ATTEMPTS}")
        return None
    draft.do(actions.Plan(assignment))
    if first.is_first(draft.order.spec, assignment.job, assignment.task) and not ids.attempt_of(assignment.task):
        message = f"another operator computes {assignment.task} again before anything else of the job begins"
        draft.do(actions.SayChecked(assignment.task, message))
    return draft.tasks[assignment.task]


def fail(draft: CourseDraft, message: str) -> None:
    """Say that the job cannot go on."""
    draft.failure = (Reason.USELESS, message)


def void(draft: CourseDraft, task: Task) -> None:
    """Supersede a task unless it must be judged first, or is for ever what it is."""
    if task.state in PENDING or task.state in JUDGED:
        drop(draft, task, TaskState.SUPERSEDED, Reason.SUPERSEDED)


def drop(draft: CourseDraft, task: Task, to: TaskState, reason: Reason) -> None:
    """Drop a task; what is being handed in is in the log already: it is taken, judged, and then superseded."""
    if not draft.is_answering(task):
        draft.do(actions.Drop(task.task, to, reason, f"{task.task} is {reason}"))
