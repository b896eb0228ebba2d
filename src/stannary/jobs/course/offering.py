"""Who is given which waiting task: work is pulled, and a node that asks gets what is most its own.

    0  its own lane's task                      3  another's lane, after a while or when that lane's node cannot
    1  a merge                                  4  what it was silent about, or reported, when nobody else came
    2  what another did not do

In the buyer's own code whoever contradicted a unit gains nothing by it: nobody of his operator does it again. A node
with work or an audit in hand gets no second piece. What it is given has a ceiling of time (rules/pace.py), and
the price of its ask.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

from stannary.formats import ids
from stannary.formats.ids import LeaseType, TaskId
from stannary.formats.predicates import Verdict
from stannary.formats.quantity import PPM
from stannary.jobs.course.pace import expected_s
from stannary.jobs.course.state import Grant, JobOrder, JobState, Node, Task, World
from stannary.jobs.states import JobStatus, TaskState
from stannary.rules.kinds import TASKS
from stannary.rules.pace import CEILING_FACTOR, LAST_RESORT_FACTOR
from stannary.rules.price import price_of

OF_NOBODY = 2  # the last rank of what is no other node's own


@dataclass(frozen=True, slots=True)
class Vacancy:
    """A task that waits for a node."""

    task: Task
    own: str | None  # whom its lane was placed on
    last_end_ms: int | None  # when its newest lease ended
    reported: tuple[str, ...]  # operators who said that it cannot run
    silent: frozenset[str]  # who handed in an earlier attempt and did not answer for it
    accusers: frozenset[str] = frozenset()  # operators who contradicted an earlier attempt


def vacancies(state: JobState) -> Iterator[Vacancy]:
    """List the tasks of a job that wait for a node, oldest first; one that ends gives out nothing more.

    Nor does one of which it is asked whether its program can be recomputed: what is done of one that cannot is unpaid,
    and whoever takes part now could not be asked.
    """
    if state.status is not JobStatus.RUNNING or (state.questions and state.questions[-1].is_open):
        return
    waiting = [task for task in state.tasks.values() if task.state is TaskState.PLANNED]
    for task in sorted(waiting, key=lambda task: (task.planned_at_ms, task.task)):
        has_own = not TASKS[task.kind].is_merge and task.lane < len(state.placed)
        yield Vacancy(
            task,
            state.placed[task.lane] if has_own else None,
            state.last_end_ms.get(task.task),
            state.reported.get(task.task, ()),
            _silent(state, task),
            state.accusers.get(ids.unit_of(TaskId(task.task)), frozenset()),
        )


def rank(vacancy: Vacancy, node: Node, world: World, out: Container[str], occupied: Container[str]) -> int | None:
    """Return how much a task is this node's (0 most), None if it must wait for another.

    Args:
        vacancy: the task.
        node: who asks; it may do the job's work (masks.py).
        world: who is there, and what time it is.
        out: nodes convicted or struck in the job.
        occupied: nodes with a piece of work in hand.
    """
    task, name = vacancy.task, node.node
    if node.operator in vacancy.accusers:
        return None
    has_reported = (
        node.operator in vacancy.reported
    )  # he had his chance when it was leased to him last, however long ago
    if has_reported or name in vacancy.silent:
        ended_ms = vacancy.last_end_ms if has_reported else None
        return _last_resort(world, ended_ms or task.planned_at_ms)
    patient = is_anybodys(task.planned_at_ms, world)
    if TASKS[task.kind].is_merge:
        return 1 if task.node != name or patient else None
    if task.epoch == 0 and vacancy.own == name:
        return 0
    if task.epoch > 0 and task.node != name:
        return OF_NOBODY
    return 3 if patient or _is_orphan(vacancy, world, out, occupied) else None


def grant(order: JobOrder, task: Task, node: Node, world: World, lease: str) -> Grant:
    """Return the lease by which a node gets a waiting task; `lease` is its name.

    A node that is slow by all its tests has more time for it, by the best of them.
    """
    longest_s = expected_s(order, world, task.num_steps) * max(PPM / node.best_grade_ppm, 1.0)
    return Grant(
        lease=lease,
        type=LeaseType.WORK,
        task=task.task,
        node=node.node,
        deadline_at_ms=world.now_ms + int(1000 * CEILING_FACTOR * longest_s),
        price_usd_micros=price_of(task.num_steps, order.shape.step_ms, node.ask_usd_micros_per_hour),
    )


def is_anybodys(planned_at_ms: int, world: World) -> bool:
    """Tell whether a task has waited for its own node for long enough; one planned later has not waited longer."""
    return world.waited_ms(planned_at_ms) / 1000 > world.timing.start_link_s


def _last_resort(world: World, since_ms: int) -> int | None:
    """Return the rank of who has had his chance at a task: after everybody else, when nobody else came."""
    return 4 if world.waited_ms(since_ms) / 1000 > LAST_RESORT_FACTOR * world.timing.start_link_s else None


def _is_orphan(vacancy: Vacancy, world: World, out: Container[str], occupied: Container[str]) -> bool:
    """Tell whether the lane's own node cannot take its task now: gone, convicted, struck, or at another piece."""
    own = vacancy.own
    is_barred = own is not None and world.nodes.get(own).operator in vacancy.accusers
    return own is None or own not in world.live or own in out or own in vacancy.silent or own in occupied or is_barred


def _silent(state: JobState, task: Task) -> frozenset[str]:
    """Return who handed in an earlier attempt at this task and did not answer for it.

    Given the next attempt too it would be silent again: audits eat the escrow, and the job never ends.
    """
    if task.attempt == 0:
        return frozenset()
    place = (task.round, task.kind, task.lane)
    return frozenset(
        row.node
        for row in state.tasks.values()
        if row.verdict is Verdict.UNVERIFIED and row.node is not None and (row.round, row.kind, row.lane) == place
    )
