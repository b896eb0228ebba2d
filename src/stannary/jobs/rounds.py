"""Decisions about the rounds of a training job, as pure functions of its tasks.

    may_merge     when a merge may be assigned (W)
    admission     what a merge admits, in which order, and what it leaves out
    merge_stands  whether a merge still counts after a conviction or a late silence

Rules (docs/rounds.md, docs/audits.md):
- A round closes when every lane has contributed; or with a quorum, once the deadline has passed or
  the grace after the quorum's arrival is over, whichever is later (rules/pace.py). It never closes without quorum.
- W (rules/kinds.py): merge t is not assigned before every audit of round and merge t - W is closed.
- A merge admits in the order of log indexes: the order is evidence, not the market's choice.
- A conviction makes void the merge that admitted the work and everything computed from it: whatever does not
  start from the weights of a merge that stands. What was void is planned again as the next attempt
  (jobs/course/kinds/train.py); nothing is ever subtracted from a result.

The core executes these decisions (jobs/course/).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stannary.jobs.course.state import Task
from stannary.jobs.states import TaskState

VOID = frozenset({TaskState.SUPERSEDED, TaskState.ABANDONED})
JUDGED = frozenset({TaskState.PASSED, TaskState.VERIFIED, TaskState.UNVERIFIED, TaskState.REFUTED})
ADMISSIBLE = frozenset({TaskState.CONTRIBUTED, TaskState.DRAWN, TaskState.PASSED, TaskState.VERIFIED})


def audits_closed(tasks: Iterable[Task], round_index: int) -> bool:
    """Tell whether nothing of a round or its merge waits for a draw, an audit or a verdict."""
    of_round = [task for task in tasks if task.round == round_index and task.state not in VOID]
    return bool(of_round) and all(task.state in JUDGED for task in of_round)


def may_merge(tasks: Iterable[Task], round_index: int, window: int) -> bool:
    """Tell whether merge `round_index` may be assigned: all audits of the round `window` before it are closed."""
    return round_index < window or audits_closed(tasks, round_index - window)


@dataclass(frozen=True, slots=True)
class Admission:
    """What a merge takes, in log order, and what it leaves out, by name."""

    admitted: tuple[Task, ...]
    excluded: tuple[str, ...]


def admission(newest: Iterable[Task]) -> Admission:
    """Decide what the merge of a closed round admits of the newest attempts of its lanes.

    Left out are the convicted, the silent (`unverified` before the merge), the late and who broke off; attempts that
    were superseded are no candidates at all.
    """
    counted = [task for task in newest if task.state is not TaskState.SUPERSEDED]
    taken = [task for task in counted if _counts(task) and task.contribution_index is not None]
    taken.sort(key=lambda task: (task.contribution_index or 0, task.task))
    names = {task.task for task in taken}
    return Admission(tuple(taken), tuple(sorted(task.task for task in counted if task.task not in names)))


def merge_stands(merge: Task, newest: Iterable[Task]) -> bool:
    """Tell whether a merge still counts: not void itself, and all it admitted, newest attempts of its round, counts."""
    counted = {task.task for task in newest if _counts(task)}
    lapsed = merge.state in VOID or merge.state in {TaskState.REFUTED, TaskState.UNVERIFIED}
    return not lapsed and all(item.task in counted for item in merge.assigned.admitted or ())


def _counts(task: Task) -> bool:
    return task.state in ADMISSIBLE and task.ended is None
