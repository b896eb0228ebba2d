"""Train jobs: rounds of lanes, and a merge behind each.

One reconciliation, from the first round that is not settled for good: for each lane the newest attempt must stand on
the round's base weights; the merge must admit exactly what still counts. What does not is superseded and planned again
as the next attempt.
"""

from __future__ import annotations

from dataclasses import dataclass

from stannary.formats import ended, ids
from stannary.formats.digest import Digest
from stannary.formats.ids import TaskId, TaskKind
from stannary.formats.predicates import Admitted, Assignment
from stannary.jobs import rounds
from stannary.jobs.course import planning
from stannary.jobs.course.draft import PENDING, CourseDraft
from stannary.jobs.course.kinds.kind import Progress
from stannary.jobs.course.pace import expected_s
from stannary.jobs.course.planning import DONE, MAX_LOST, OUT, WAITING, Round
from stannary.jobs.course.state import Task
from stannary.jobs.states import TaskState
from stannary.rules import edition, first
from stannary.rules.kinds import OUTER, TASKS, THETA, WEIGHT_PPM
from stannary.rules.pace import PATIENCE_FACTOR, Pace, is_closed
from stannary.rules.reasons import Reason


@dataclass(frozen=True, slots=True)
class Base:
    """What a round starts from; None for the weights of round 0, which the recipe's seed makes."""

    theta: Digest | None = None
    outer: Digest | None = None


class TrainKind:
    """Low-communication training."""

    def plan(self, draft: CourseDraft) -> Progress:
        """Reconcile the tasks from the first round on that is not settled for good."""
        first_open, num_rounds, num_before = draft.first_open, draft.order.shape.num_rounds, len(draft.actions)
        before = planning.read_round(draft, first_open - 1) if first_open else None
        base = _base_behind(before) if before is not None else Base()
        settled, current, closed_so_far = first_open, first_open, True
        for index in range(first_open, num_rounds):
            found = planning.read_round(draft, index)
            if base is None and not found.tasks:
                break
            current = index
            _reconcile_lanes(draft, found, base)
            _note_end(draft, found)
            following: Base | None = None
            if base is not None:
                following = _reconcile_merge(draft, found, base, before)
            else:
                _void_merges(draft, found)
            closed = following is not None and _is_settled(found)
            closed_so_far = closed_so_far and closed
            if closed_so_far:
                settled = index + 1
            before, base = found, following
        finished = settled >= num_rounds and len(draft.actions) == num_before
        return Progress(min(settled, num_rounds - 1), current, finished)


def _is_settled(found: Round) -> bool:
    good = found.merges and found.merges[-1].state in DONE
    return bool(good) and not any(task.state in WAITING for task in found.tasks)


def _base_behind(found: Round) -> Base | None:
    """Return the base that a round's merge made, None while it has none that counts."""
    if not found.merges or found.merges[-1].state not in rounds.ADMISSIBLE:
        return None
    outputs = {str(item["name"]): Digest(str(item["digest"])) for item in found.merges[-1].outputs or ()}
    return Base(outputs.get(THETA), outputs.get(OUTER))


def _reconcile_lanes(draft: CourseDraft, found: Round, base: Base | None) -> None:
    """Bring every lane's newest attempt onto the base."""
    num_lanes = planning.num_lanes(draft)
    for lane in range(num_lanes):
        listed = found.lanes.setdefault(lane, [])
        for task in listed:
            if base is None or task.assigned.theta != base.theta:
                planning.void(draft, task)
        if base is None:
            continue
        stands = listed and listed[-1].assigned.theta == base.theta
        if not stands or listed[-1].state is TaskState.SUPERSEDED:
            _again(draft, found, lane, base)
    if base is not None and found.newest and all(_is_out(task) for task in found.newest):
        if min(task.attempt for task in found.newest) + 1 >= MAX_LOST:
            planning.fail(draft, f"round {found.index} was tried {MAX_LOST} times, and nobody's work counts")
            return
        for lane in range(num_lanes):  # nobody's work counts: the whole round again
            _again(draft, found, lane, base)
    found.lanes = {lane: listed for lane, listed in found.lanes.items() if listed}


def _note_end(draft: CourseDraft, found: Round) -> None:
    """End a job whose recipe breaks off, as others have found too: it would do so again."""
    for task in found.newest:
        if task.ended is not None and task.state in (TaskState.VERIFIED, TaskState.UNVERIFIED) and not _is_out(task):
            where = TASKS[task.kind].words.format(task.round, task.lane)
            asked = draft.order.spec.resources
            limits = {"wall_s": asked.wall_s, "memory_bytes": asked.memory_bytes}
            said = ended.recipe_sentence(task.ended, where, **limits)
            draft.failure = (Reason.RUN_FAILED, said)
            return


def _is_out(task: Task) -> bool:
    """Tell whether a lane has nothing that counts: also where nobody had room to see that it broke off."""
    if task.ended is not None and task.reason in (Reason.NOT_AUDITED, Reason.CUT):
        return task.reason == Reason.NOT_AUDITED
    return task.state in OUT


def _reconcile_merge(draft: CourseDraft, found: Round, base: Base, before: Round | None) -> Base | None:
    """Make the round's merge admit exactly what counts; return the base it gives, if it has one."""
    newest = found.merges[-1] if found.merges else None
    if newest is not None and _merge_stands(newest, found, base):
        return _base_behind(found)
    _void_merges(draft, found)
    if not _is_closed(draft, found):
        return None
    window = draft.order.shape.kind.window
    if before is not None and not rounds.may_merge(before.tasks, found.index, window):
        return None
    admission = rounds.admission(found.newest)
    if admission.admitted:
        planning.plan(draft, _merge(draft, found, base, admission))
    return None


def _void_merges(draft: CourseDraft, found: Round) -> None:
    """Supersede the merges of a round that has no base any more, or admit what does not count."""
    for task in found.merges:
        planning.void(draft, task)


def _again(draft: CourseDraft, found: Round, lane: int, base: Base) -> None:
    listed = found.lanes[lane]
    attempt = listed[-1].attempt + 1 if listed else 0
    shape = draft.order.shape
    assignment = Assignment(
        job=draft.order.job,
        task=ids.round_task(draft.order.job, found.index, lane, attempt),
        kind=TaskKind.ROUND,
        round=found.index,
        lane=lane,
        num_steps=shape.num_steps(TaskKind.ROUND, found.index),
        first_step=shape.first_step(found.index),
        tokens=0,
        theta=base.theta,
    )
    planned = planning.plan(draft, assignment)
    if planned is not None:
        listed.append(planned)


def _merge(draft: CourseDraft, found: Round, base: Base, admission: rounds.Admission) -> Assignment:
    admitted = tuple(
        Admitted(TaskId(task.task), Digest(task.root or ""), task.contribution_index or 0, WEIGHT_PPM)
        for task in admission.admitted
    )
    attempt = found.merges[-1].attempt + 1 if found.merges else 0
    return Assignment(
        job=draft.order.job,
        task=ids.merge_task(draft.order.job, found.index, attempt),
        kind=TaskKind.MERGE,
        round=found.index,
        lane=0,
        num_steps=len(admitted),
        first_step=draft.order.shape.first_step(found.index + 1),
        tokens=0,
        theta=base.theta,
        outer=base.outer,
        admitted=admitted,
        excluded=tuple(TaskId(name) for name in admission.excluded),
    )


def _merge_stands(merge: Task, found: Round, base: Base) -> bool:
    assignment = merge.assigned
    on_base = assignment.theta == base.theta and assignment.outer == base.outer
    return on_base and rounds.merge_stands(merge, found.newest)


def _is_closed(draft: CourseDraft, found: Round) -> bool:
    """Tell whether a round waits for no lane; late lanes are abandoned when its time is over."""
    world, num_lanes = draft.world, draft.order.shape.num_lanes
    pending = [task for task in found.newest if task.state in PENDING]
    if not planning.is_first_checked(draft):
        return False
    if len(found.lanes) < num_lanes or any(task.ended is not None and task.state in WAITING for task in found.newest):
        return False  # of a lane that broke off the others wait to hear whether that is so
    if not pending:
        return True
    if edition.of(draft.order.spec).recomputes_admission and any(map(draft.is_answering, pending)):
        return False  # its contribution is in the log, or nearly: the merge would leave out a lane that came in time
    opened_ms = _opened_ms(draft, found)
    arrivals = [
        max(world.passed_ms(opened_ms, task.contributed_at_ms), 0) / 1000
        for task in found.newest
        if task.contributed_at_ms
    ]
    pace = Pace(num_lanes, PATIENCE_FACTOR * expected_s(draft.order, world, found.newest[0].num_steps))
    if not is_closed(arrivals, pace, world.waited_ms(opened_ms) / 1000):
        return False
    for task in pending:
        planning.drop(draft, task, TaskState.ABANDONED, Reason.LATE)
    return True


def _opened_ms(draft: CourseDraft, found: Round) -> int:
    """Return when a round began for its lanes: one that was checked first began before the others."""
    order = draft.order
    others = [task for task in found.newest if not first.is_first(order.spec, order.job, TaskId(task.task))]
    return min(task.planned_at_ms for task in others or found.newest)
