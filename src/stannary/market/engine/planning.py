"""Planning: which tasks a job needs now, and which of those it has are void.

Rules (rules/pace.py decides when a round closes, jobs/rounds.py what a merge admits and when it may be assigned):
- One reconciliation, from the first round that is not settled for good: for each lane the newest attempt
  must stand on the round's base weights; the merge must admit exactly what still counts. What does
  not is superseded and planned again as the next attempt. A conviction is nothing special: it makes a
  contribution inadmissible, and the rest follows.
- Work without a result is superseded at once. Work handed in is judged first, then superseded, so
  that an honest node is paid for work another's lie made useless.
- An assignment is written to the outbox in the transaction that plans its task, hence logged before
  any commitment to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.engine import Connection

from stannary.formats import ids, predicates
from stannary.formats.digest import Digest
from stannary.formats.ids import TaskId, TaskKind
from stannary.formats.predicates import Admitted, Assignment
from stannary.jobs import rounds
from stannary.jobs.rounds import Unit
from stannary.jobs.states import OPEN_TASK, TaskState
from stannary.market.engine.frame import JobFrame, Outcome, World, read_assignment, spell_assignment
from stannary.market.engine.outbox import post
from stannary.market.topics import WORK, node_topic
from stannary.rules import pace
from stannary.rules.reasons import Reason
from stannary.store import leases, tasks
from stannary.store.tasks import MERGE_LANE, NewTask, TaskRow
from stannary.store.transitions import Cause

WEIGHT_PPM = 1_000_000  # lanes of one round have equal tokens; the merge divides by the sum
MAX_ATTEMPTS = 100  # a lane that was redone so often never converges
MAX_LOST = 4  # attempts of a whole round, or of one command, of which none counted

PENDING = frozenset({TaskState.PLANNED, TaskState.LEASED, TaskState.COMMITTED})
WAITING = OPEN_TASK
OUT = frozenset({TaskState.REFUTED, TaskState.UNVERIFIED, TaskState.ABANDONED, TaskState.SUPERSEDED})


@dataclass(frozen=True, slots=True)
class Base:
    """What a round starts from; None for the weights of round 0, which the recipe's seed makes."""

    theta: Digest | None = None
    outer: Digest | None = None


@dataclass(slots=True)
class Round:
    """The tasks of one round."""

    index: int
    lanes: dict[int, list[TaskRow]]
    merges: list[TaskRow]

    @property
    def rows(self) -> list[TaskRow]:
        """All attempts."""
        return [row for listed in self.lanes.values() for row in listed] + self.merges

    @property
    def newest(self) -> list[TaskRow]:
        """The newest attempt of each lane."""
        return [listed[-1] for listed in self.lanes.values()]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a job is after planning."""

    first_open: int  # the first round that is not settled for good
    current: int  # the last round that has tasks
    finished: bool
    failure: str = ""


def unit(row: TaskRow) -> Unit:
    """Return a task as jobs/rounds.py sees it."""
    admitted = read_assignment(row.assignment).admitted or ()
    return Unit(
        task=row.task,
        kind=row.kind,
        round=row.round,
        lane=row.lane,
        attempt=row.attempt,
        state=row.state,
        log_index=row.contribution_index,
        admitted=frozenset(item.task for item in admitted),
    )


def read_round(connection: Connection, job: str, index: int) -> Round:
    """Read the tasks of one round."""
    lanes: dict[int, list[TaskRow]] = {}
    merges: list[TaskRow] = []
    for row in tasks.of_job(connection, job, round_index=index):
        (merges if row.kind is TaskKind.MERGE else lanes.setdefault(row.lane, [])).append(row)
    for listed in (*lanes.values(), merges):
        listed.sort(key=lambda row: row.attempt)
    return Round(index, lanes, merges)


def plan_command(connection: Connection, frame: JobFrame, world: World, outcome: Outcome) -> Plan:
    """Plan the tasks of a command job: one a lane; a lane whose result does not count is run again."""
    planner = _Planner(connection, frame, world, outcome)
    found = read_round(connection, frame.job, 0)
    for lane in range(frame.shape.num_lanes):
        listed = found.lanes.get(lane, [])
        redo = listed and listed[-1].state in OUT and not _counts_unverified(frame, listed[-1])
        if redo and len(listed) >= MAX_LOST:
            planner.failure = f"{len(listed)} attempts at lane {lane}, none of which counts"
        elif not listed or redo:
            planner.plan(planner.command(lane, len(listed)))
    rows = found.rows
    done = len(found.lanes) == frame.shape.num_lanes and all(
        row.state in {TaskState.PASSED, TaskState.VERIFIED} or _counts_unverified(frame, row) for row in found.newest
    )
    finished = done and not any(row.state in WAITING for row in rows)
    return Plan(0, 0, finished, planner.failure)


def plan_train(connection: Connection, frame: JobFrame, world: World, outcome: Outcome, first_open: int) -> Plan:
    """Reconcile the tasks of a train job from round `first_open` on."""
    planner = _Planner(connection, frame, world, outcome)
    before = read_round(connection, frame.job, first_open - 1) if first_open else None
    base = planner.base_behind(before) if before is not None else Base()
    settled, current, closed_so_far = first_open, first_open, True
    for index in range(first_open, frame.shape.num_rounds):
        found = read_round(connection, frame.job, index)
        if base is None and not found.rows:
            break
        current = index
        planner.reconcile_lanes(found, base)
        following: Base | None = None
        if base is not None:
            following = planner.reconcile_merge(found, base, before)
        else:
            planner.void_merges(found)
        closed = following is not None and _settled(found)
        closed_so_far = closed_so_far and closed
        if closed_so_far:
            settled = index + 1
        before, base = found, following
    finished = settled >= frame.shape.num_rounds and not outcome.moved
    return Plan(min(settled, frame.shape.num_rounds - 1), current, finished, planner.failure)


def _counts_unverified(frame: JobFrame, row: TaskRow) -> bool:
    """Tell whether `unverified` is all the buyer asked for."""
    return frame.verification.value == "none" and row.state is TaskState.UNVERIFIED


def _settled(found: Round) -> bool:
    good = found.merges and found.merges[-1].state in {TaskState.PASSED, TaskState.VERIFIED}
    return bool(good) and not any(row.state in WAITING for row in found.rows)


class _Planner:
    """One reconciliation in one transaction."""

    def __init__(self, connection: Connection, frame: JobFrame, world: World, outcome: Outcome) -> None:
        self._connection = connection
        self._frame = frame
        self._world = world
        self._outcome = outcome
        self.failure = ""

    def base_behind(self, found: Round) -> Base | None:
        """Return the base that a round's merge made, None while it has none that counts."""
        if not found.merges or found.merges[-1].state not in rounds.ADMISSIBLE:
            return None
        outputs = {str(item["name"]): Digest(str(item["digest"])) for item in found.merges[-1].outputs or ()}
        return Base(outputs.get("theta"), outputs.get("outer"))

    def reconcile_lanes(self, found: Round, base: Base | None) -> None:
        """Bring every lane's newest attempt onto the base."""
        for lane in range(self._frame.shape.num_lanes):
            listed = found.lanes.setdefault(lane, [])
            for row in listed:
                if base is None or read_assignment(row.assignment).theta != base.theta:
                    self._void(row)
            if base is None:
                continue
            stands = listed and read_assignment(listed[-1].assignment).theta == base.theta
            if not stands or listed[-1].state is TaskState.SUPERSEDED:
                self._again(found, lane, base)
        if base is not None and found.newest and all(row.state in OUT for row in found.newest):
            if min(row.attempt for row in found.newest) + 1 >= MAX_LOST:
                self.failure = f"round {found.index} was tried {MAX_LOST} times, and nobody's work counts"
                return
            for lane in range(self._frame.shape.num_lanes):  # nobody's work counts: the whole round again
                self._again(found, lane, base)
        found.lanes = {lane: listed for lane, listed in found.lanes.items() if listed}

    def reconcile_merge(self, found: Round, base: Base, before: Round | None) -> Base | None:
        """Make the round's merge admit exactly what counts; return the base it gives, if it has one."""
        newest = found.merges[-1] if found.merges else None
        if newest is not None and self._merge_stands(newest, found, base):
            return self.base_behind(found)
        for row in found.merges:
            self._void(row)
        if not self._closed(found):
            return None
        units = [unit(row) for row in before.rows] if before is not None else []
        if before is not None and not rounds.may_merge(units, found.index):
            return None  # W = 1
        admission = rounds.admission([unit(row) for row in found.newest], found.index)
        if admission.admitted:
            self.plan(self._merge(found, base, admission))
        return None

    def void_merges(self, found: Round) -> None:
        """Supersede the merges of a round that has no base any more."""
        for row in found.merges:
            self._void(row)

    def plan(self, assignment: Assignment) -> None:
        """Plan a task and post its assignment."""
        text = spell_assignment(assignment)
        merge = assignment.kind is TaskKind.MERGE
        new = NewTask(
            task=assignment.task,
            job=assignment.job,
            kind=assignment.kind,
            round=assignment.round,
            lane=MERGE_LANE if merge else assignment.lane,
            attempt=int(assignment.task.rpartition("/a")[2]),
            num_steps=assignment.num_steps,
            assignment=text,
            assignment_digest=predicates.assignment_digest(assignment),
        )
        if new.attempt >= MAX_ATTEMPTS:
            self.failure = f"{assignment.task} is attempt number {MAX_ATTEMPTS}"
            return
        post(self._connection, self._world, "assignment", assignment, assignment.job)
        tasks.plan(self._connection, new, at_ms=self._world.now_ms)
        self._outcome.moved = True
        self._outcome.rings.add(WORK)

    def command(self, lane: int, attempt: int) -> Assignment:
        """Return the assignment of one command."""
        task = ids.command_task(self._frame.job, lane, attempt)
        return Assignment(self._frame.job, task, TaskKind.COMMAND, 0, lane, 1, 0, 0)

    def _again(self, found: Round, lane: int, base: Base) -> None:
        listed = found.lanes[lane]
        attempt = listed[-1].attempt + 1 if listed else 0
        task = ids.round_task(self._frame.job, found.index, lane, attempt)
        num_steps = self._frame.shape.num_steps(TaskKind.ROUND, found.index)
        assignment = Assignment(
            job=self._frame.job,
            task=task,
            kind=TaskKind.ROUND,
            round=found.index,
            lane=lane,
            num_steps=num_steps,
            first_step=self._frame.shape.first_step(found.index),
            tokens=0,
            theta=base.theta,
        )
        self.plan(assignment)
        if not self.failure:
            listed.append(tasks.get(self._connection, task))

    def _merge(self, found: Round, base: Base, admission: rounds.Admission) -> Assignment:
        by_task = {row.task: row for row in found.newest}
        admitted = tuple(
            Admitted(TaskId(name), Digest(by_task[name].root or ""), by_task[name].contribution_index or 0, WEIGHT_PPM)
            for name in admission.admitted
        )
        attempt = found.merges[-1].attempt + 1 if found.merges else 0
        return Assignment(
            job=self._frame.job,
            task=ids.merge_task(self._frame.job, found.index, attempt),
            kind=TaskKind.MERGE,
            round=found.index,
            lane=0,
            num_steps=len(admitted),
            first_step=self._frame.shape.first_step(found.index + 1),
            tokens=0,
            theta=base.theta,
            outer=base.outer,
            admitted=admitted,
            excluded=tuple(TaskId(name) for name in admission.excluded),
        )

    def _merge_stands(self, merge: TaskRow, found: Round, base: Base) -> bool:
        assignment = read_assignment(merge.assignment)
        on_base = assignment.theta == base.theta and assignment.outer == base.outer
        return on_base and rounds.merge_stands(unit(merge), [unit(row) for row in found.newest])

    def _closed(self, found: Round) -> bool:
        """Tell whether a round waits for no lane; late lanes are abandoned when its time is over."""
        pending = [row for row in found.newest if row.state in PENDING]
        if len(found.lanes) < self._frame.shape.num_lanes:
            return False
        if not pending:
            return True
        opened_ms = min(row.planned_at_ms for row in found.newest)
        passed_ms = self._world.passed_ms
        arrivals = [passed_ms(opened_ms, row.contributed_at_ms) / 1000 for row in found.newest if row.contributed_at_ms]
        expected = pace.Pace(
            self._frame.shape.num_lanes, pace.PATIENCE_FACTOR * expected_s(self._frame, self._world, found.newest[0])
        )
        closing = pace.closing(arrivals, expected, self._world.waited_ms(opened_ms) / 1000)
        if not closing.closed:
            return False
        for row in pending:
            self._drop(row, TaskState.ABANDONED, Reason.LATE)
        return True

    def _void(self, row: TaskRow) -> None:
        """Supersede a task unless it must be judged first, or is for ever what it is."""
        judged = row.state in {TaskState.VERIFIED, TaskState.UNVERIFIED, TaskState.PASSED}
        if row.state in PENDING or judged:
            self._drop(row, TaskState.SUPERSEDED, Reason.SUPERSEDED)

    def _drop(self, row: TaskRow, to: TaskState, reason: str) -> None:
        holder = row.node
        if is_answering(self._connection, self._world, row):
            return  # what is being handed in is in the log already: it is taken, judged, and then superseded
        tasks.drop(self._connection, row.task, to, Cause(self._world.now_ms, reason, f"{row.task} is {reason}"))
        self._outcome.moved = True
        if holder is not None:
            self._outcome.rings.add(node_topic(holder))


def is_answering(connection: Connection, world: World, row: TaskRow) -> bool:
    """Tell whether a statement about a task is on its way into the log."""
    if row.state not in PENDING or not world.answering:
        return False
    return any(lease.lease in world.answering for lease in leases.live_of_task(connection, row.task))


def expected_s(frame: JobFrame, world: World, row: TaskRow) -> float:
    """Return how long a task should take, with start and link: at the agreed step time, or as was measured since."""
    step_s = frame.shape.step_s(world.step_s.get(frame.job, 0.0))
    return pace.expected_s(row.num_steps, step_s, world.settings.timing.start_link_s)
