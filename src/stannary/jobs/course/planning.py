"""Planning: which tasks a job needs now, and which of those it has are void. What every kind of job shares.

Rules (rules/pace.py decides when a round closes, jobs/rounds.py what a merge admits and when it may be assigned):
- An assignment is stated in the transaction that plans its task, hence logged before any commitment to it.
- What does not count is superseded and planned again as the next attempt. A conviction is nothing special: it makes a
  contribution inadmissible, and the rest follows.
- Work without a result is superseded at once. Work handed in is judged first, then superseded, so
  that an honest node is paid for work another's lie made useless.
"""

from __future__ import annotations

from dataclasses import dataclass

from stannary.formats import ids
from stannary.formats.predicates import Assignment
from stannary.jobs.course import actions
from stannary.jobs.course.draft import PENDING, CourseDraft
from stannary.jobs.course.state import Task
from stannary.jobs.states import OPEN_TASK, TaskState
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


def plan(draft: CourseDraft, assignment: Assignment) -> Task | None:
    """Plan a task, unless it was tried too often: then the job cannot go on."""
    if ids.attempt_of(assignment.task) >= MAX_ATTEMPTS:
        fail(draft, f"{assignment.task} is attempt number {MAX_ATTEMPTS}")
        return None
    draft.do(actions.Plan(assignment))
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
