"""How long a market keeps the bytes of a job.

Rules:
1. While a job is open all its bytes stay but the outputs of void tasks (superseded, abandoned): nothing admits them,
   starts from them or replays them. They go `void_s` after they were handed in, unless the same bytes are also
   - in the work directory or the inputs of an open job,
   - an output or an input of a task that is not void. A refuted one counts: its conviction may be disputed,
   - an input of a task that an open audit asks about, or of a lease that is held.
2. Once a job has ended and its money is settled, its files and results stay for `ended_s`: for its buyer, for who
   disputes it and for `verify --replay`. Then they go, unless another job holds them too.
3. Receipts stay for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from stannary.jobs.course.state import LeaseRow, Task
from stannary.jobs.rounds import VOID

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Retention:
    """How long, in seconds."""

    ended_s: float = 30 * DAY_S  # what an ended job used and made
    void_s: float = DAY_S  # what an open job made in vain


@dataclass(frozen=True, slots=True)
class Keepings:
    """An open job as far as its bytes are concerned."""

    version: int  # of the job, as the core counts it
    tasks: tuple[Task, ...]  # all of it
    heard: frozenset[str]  # tasks that an open audit asks about
    leases: tuple[LeaseRow, ...]  # that are held


def spent(kept: Keepings, named: Collection[str], before_ms: int) -> frozenset[str]:
    """Return the digests of an open job that nobody can ask for any more (rule 1).

    Args:
        kept: the job.
        named: work directories and inputs of all open jobs.
        before_ms: what was handed in before then was kept for `void_s`.
    """
    going, needed = set[str](), {str(name) for lease in kept.leases for name in lease.inputs}
    by_task = {task.task: task for task in kept.tasks}
    for task in kept.tasks:
        is_void = task.state in VOID
        is_due = is_void and task.contributed_at_ms is not None and task.contributed_at_ms < before_ms
        (going if is_due else needed).update(_outputs(task))
        if not is_void or task.task in kept.heard:
            needed |= _inputs(task, by_task)
    return frozenset(going - needed - set(named))


def _outputs(task: Task) -> set[str]:
    return {str(item["digest"]) for item in task.outputs or ()}


def _inputs(task: Task, by_task: Mapping[str, Task]) -> set[str]:
    assignment = task.assigned
    found = {str(name) for name in (assignment.theta, assignment.outer) if name is not None}
    for item in assignment.admitted or ():
        found |= _outputs(by_task[item.task])
    return found
