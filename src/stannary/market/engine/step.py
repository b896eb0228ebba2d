"""One step of one job: place, plan, draw, audit; then say whether it may be concluded.

A job that fails or is cancelled takes the same way with planning left out: what was handed in is
still judged and paid. `progress` keeps what the step needs again: the first round not settled for
good, the convicted, and how the job is going to end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from sqlalchemy.engine import Connection

from stannary.formats.canonical import Json
from stannary.formats.jobspec import JobKind, Verification
from stannary.jobs.states import JobStatus, TaskState, is_terminal
from stannary.market.engine import auditing, drawing, holding, leasing, placing
from stannary.market.engine.frame import JobFrame, Outcome, World
from stannary.market.engine.planning import PENDING, WAITING, Plan, is_answering, plan_command, plan_train
from stannary.rules.reasons import Reason
from stannary.store import audits, jobs, leases, nodes, tasks
from stannary.store.audits import DrawRow
from stannary.store.jobs import JobRow
from stannary.store.tasks import TaskRow
from stannary.store.transitions import Cause, move_job

ENDING = "ending"  # progress member: {status, reason, message} of a job that is to fail or be cancelled
FIRST_OPEN = "first_open"
MAX_STEPS = 64  # of one call; the rest is done by the next


@dataclass(slots=True)
class Stepped:
    """What a call of `step` leaves to do."""

    rings: set[str]
    moved: bool
    conclude: bool  # nothing is open any more: the receipt can be made
    terminal: bool
    awaits_log: bool = False  # what it waits for is on its way into the log
    deserted: bool = False  # a task waits, and nobody who could do it is there
    owed: bool = False  # nothing but the buyer's beacon value is waited for


def step(connection: Connection, frame: JobFrame, world: World) -> Stepped:
    """Move a job as far as it goes now."""
    rings: set[str] = set()
    moved = False
    for _ in range(MAX_STEPS):
        row = jobs.get(connection, frame.job)
        if is_terminal(row.status) or row.status is JobStatus.VERIFYING:
            return Stepped(rings, moved, row.status is JobStatus.VERIFYING, is_terminal(row.status))
        outcome = Outcome()
        done = _advance(connection, frame, world, row, outcome)
        if outcome.failure is not None:
            end(connection, frame.job, world.now_ms, JobStatus.FAILED, *outcome.failure)
            outcome.moved = True
        rings |= outcome.rings
        moved = moved or outcome.moved
        if not outcome.moved:
            deserted = _is_deserted(connection, frame, world)
            return Stepped(
                rings,
                moved,
                conclude=done,
                terminal=False,
                awaits_log=outcome.awaits_log,
                deserted=deserted,
                owed=outcome.owed,
            )
    return Stepped(rings, moved, conclude=False, terminal=False)


def end(connection: Connection, job: str, now_ms: int, to: JobStatus, reason: str, message: str) -> bool:
    """Begin the end of a job that fails or is cancelled; its open work is left, what was handed in is judged.

    Returns: whether it begins now; False of a job whose end has begun before.
    """
    row = jobs.get(connection, job)
    if is_terminal(row.status) or row.status in {JobStatus.VERIFYING, JobStatus.CANCELLING}:
        return False
    ending: dict[str, Json] = {"status": to.value, "reason": reason, "message": message[:1000]}
    jobs.set_progress(connection, job, {**row.progress, ENDING: ending})
    move_job(connection, job, JobStatus.CANCELLING, Cause(now_ms, reason, message))
    return True


def _advance(connection: Connection, frame: JobFrame, world: World, row: JobRow, outcome: Outcome) -> bool:
    """Do what can be done once; tell whether nothing is left to do but the receipt."""
    if row.status in {JobStatus.QUEUED, JobStatus.PLACING}:
        placing.place(connection, frame, world, outcome)
        return False
    plan: Plan | None = None
    if row.status is not JobStatus.CANCELLING:
        plan = _plan(connection, frame, world, row, outcome)
        if plan.failure:
            outcome.failure = (Reason.USELESS, plan.failure)
    else:
        _abandon(connection, frame, world, row, outcome)
    window = _window(connection, frame, plan)
    silent = False
    if frame.verification is Verification.NONE:
        drawing.pass_unasked(connection, world, window, outcome)
    else:
        owed = drawing.advance(connection, frame, world, window, outcome)
        silent = owed is not None and _is_silent(frame, world, owed)
        outcome.owed = owed is not None and not any(task.state in PENDING for task in window)
        auditing.advance(connection, frame, world, outcome)
    if silent:
        return _give_up_on_buyer(connection, frame, row, outcome)
    if plan is not None:
        return plan.finished
    # a job that ends early is over when nothing handed in waits for a verdict
    return not any(task.state in WAITING for task in _window(connection, frame, None))


def _is_deserted(connection: Connection, frame: JobFrame, world: World) -> bool:
    """Tell whether a task has waited as long as one may for placing, and no node that could take it is there now."""
    patience_ms = 1000 * world.settings.timing.placing_s
    waiting = (row for row in tasks.of_job(connection, frame.job) if row.state is TaskState.PLANNED)
    if not any(
        world.waited_ms(max(row.planned_at_ms, leases.last_end_ms(connection, row.task) or 0)) > patience_ms
        for row in waiting
    ):
        return False
    live = (nodes.get(connection, name) for name in world.live)
    return all(leasing.is_barred(connection, frame, node) for node in live)


def _is_silent(frame: JobFrame, world: World, owed: DrawRow) -> bool:
    """Tell whether a buyer has let his time go by; a value on its way into the log is none of silence."""
    waited_ms = world.waited_ms(owed.requested_at_ms)
    return waited_ms > 1000 * world.settings.timing.reveal_s and holding.beacon(frame.job) not in world.answering


def _abandon(connection: Connection, frame: JobFrame, world: World, row: JobRow, outcome: Outcome) -> None:
    """Give up what nobody has handed in of a job that ends early."""
    for task in tasks.of_job(connection, frame.job):
        if task.state in PENDING and not is_answering(connection, world, task):
            cause = Cause(world.now_ms, row.reason, f"{task.task} is given up")
            tasks.drop(connection, task.task, TaskState.ABANDONED, cause)
            outcome.moved = True


def _plan(connection: Connection, frame: JobFrame, world: World, row: JobRow, outcome: Outcome) -> Plan:
    if frame.spec.kind is JobKind.COMMAND:
        plan = plan_command(connection, frame, world, outcome)
    else:
        first_open = cast("int", row.progress.get(FIRST_OPEN, 0))
        plan = plan_train(connection, frame, world, outcome, first_open)
    progress = dict(jobs.get(connection, frame.job).progress)
    following: dict[str, Json] = {**progress, FIRST_OPEN: plan.first_open, "round": plan.current}
    if following != progress:
        jobs.set_progress(connection, frame.job, following)
    return plan


def _window(connection: Connection, frame: JobFrame, plan: Plan | None) -> list[TaskRow]:
    if plan is None or frame.spec.kind is JobKind.COMMAND:
        return tasks.of_job(connection, frame.job)
    rows = []
    for index in range(max(plan.first_open - 1, 0), plan.current + 1):
        rows.extend(tasks.of_job(connection, frame.job, round_index=index))
    return rows


def _give_up_on_buyer(connection: Connection, frame: JobFrame, row: JobRow, outcome: Outcome) -> bool:
    """End a job whose buyer does not reveal: committed work is paid unseen (docs/threat-model.md)."""
    message = "the buyer's broker has not revealed its beacon value in time"
    if row.status is not JobStatus.CANCELLING:
        outcome.failure = (Reason.BUYER_SILENT, message)
        return False
    ending = cast("dict[str, Json]", row.progress.get(ENDING, {}))
    if ending.get("reason") != Reason.BUYER_SILENT:
        silent: dict[str, Json] = {**ending, "reason": Reason.BUYER_SILENT, "message": message}
        jobs.set_progress(connection, frame.job, {**row.progress, ENDING: silent})
        outcome.moved = True
    return not audits.of_job(connection, frame.job, only_open=True)


def note_progress(connection: Connection, job: str, members: dict[str, Json]) -> None:
    """Set what the job says of itself (loss, steps) beside what the steps keep there."""
    jobs.set_progress(connection, job, {**jobs.get(connection, job).progress, **members})
