"""What a job waits for, until when, and what comes then: the rows of the course (jobs/states.py) it is in now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from stannary.formats import ids, instants
from stannary.formats.ids import LeaseType, TaskId
from stannary.formats.predicates import Role
from stannary.jobs.course import asking, masks, outsiders, planning
from stannary.jobs.course.draft import PENDING, CourseDraft
from stannary.jobs.course.state import AuditOutcome, AuditRow, LeaseRow, Task
from stannary.jobs.states import AuditStage, JobStatus, LeaseState, TaskState
from stannary.rules import edition, first

MAX_LISTED = 64  # waits of one job that are told; of more, the first


@dataclass(frozen=True, slots=True)
class Wait:
    """One thing a job waits for."""

    subject: str  # job, task, draw or audit, by name
    stage: str  # a row of the course
    waits_for: str
    then: str
    until_ms: int | None = None  # at least until then; None where nothing ends it
    otherwise: str = ""


def waits(draft: CourseDraft) -> list[Wait]:
    """Return what a job waits for, what its course hangs on first."""
    listed = []
    for wait in _waits(draft):
        listed.append(wait)
        if len(listed) == MAX_LISTED:
            break
    return listed


def for_its_turn(job: str) -> Wait:
    """Return what a queued job waits for."""
    return Wait(job, JobStatus.QUEUED, "its buyer's turn, and nodes that may take it", "place it")


def _waits(draft: CourseDraft) -> Iterator[Wait]:
    job, timing = draft.order.job, draft.world.timing
    if draft.status is JobStatus.QUEUED:
        until_ms = max(draft.submitted_at_ms, draft.world.resumed_at_ms) + int(1000 * timing.placing_s)
        yield replace(for_its_turn(job), until_ms=until_ms, otherwise="end: no-capacity")
    elif draft.status is JobStatus.VERIFYING:
        yield Wait(job, JobStatus.VERIFYING, "the log to hold every statement of it", "make the receipt")
    elif draft.status in (JobStatus.RUNNING, JobStatus.CANCELLING):
        yield from _of_question_asked(draft)
        yield from _of_draws(draft)
        yield from _of_first_check(draft)
        yield from _of_audits(draft)
        yield from _of_tasks(draft)


def _of_question_asked(draft: CourseDraft) -> Iterator[Wait]:
    """Say who is asked whether the program can be recomputed, and until when."""
    if not draft.asked:
        return
    runs = [
        audit
        for audit in draft.audits_of(draft.asked)
        if audit.outcome is AuditOutcome.OPEN and outsiders.is_run(draft, audit)
    ]
    asked = " and ".join(dict.fromkeys(audit.auditor or "" for audit in runs)) or "two operators without a part in it"
    what = f"two runs each of {draft.asked} by {asked}: can it be computed again"
    until_ms = max((_until_ms(draft, audit) for audit in runs), default=None)
    then = "go on, or end: not-reproducible"
    yield Wait(draft.asked, TaskState.DRAWN, what, then, until_ms, "ask the next without a part, else end: unverified")


def _until_ms(draft: CourseDraft, audit: AuditRow) -> int:
    leases = [lease.deadline_at_ms for lease in draft.live_of(audit.task) if lease.audit == audit.audit]
    return max(leases, default=audit.opened_at_ms + asking.wait_ms(draft, draft.tasks[audit.task]))


def _of_first_check(draft: CourseDraft) -> Iterator[Wait]:
    if draft.status is JobStatus.RUNNING and not planning.is_first_checked(draft):
        number = draft.order.shape.num_tasks - 1
        what = f"the first check: another operator to compute {first.unit(draft.order.spec, draft.order.job)} again"
        yield Wait(draft.order.job, JobStatus.RUNNING, what, f"begin the other {number:,}")


def _of_draws(draft: CourseDraft) -> Iterator[Wait]:
    owed, last = draft.drawing.owed, draft.draws[-1] if draft.draws else None
    if owed is not None:
        until_ms = owed.requested_at_ms + int(1000 * draft.world.timing.reveal_s)
        what = f"the beacon value of draw {owed.number}"
        yield Wait(f"draw {owed.number}", "owed", what, "draw", until_ms, "pay what is committed unseen")
    elif draft.drawing.awaits_log:
        number = last.number + 1 if last is not None else 0
        what = "a cosigned checkpoint that covers who may audit"
        yield Wait(f"draw {number}", "listed", what, "ask for the beacon value")


def _of_audits(draft: CourseDraft) -> Iterator[Wait]:
    for audit in draft.audits.values():
        if audit.outcome is not AuditOutcome.OPEN:
            continue
        for lease in draft.live_of(audit.task):
            if lease.type is not LeaseType.WORK:
                yield _of_question(lease)
        if edition.of(draft.order.spec).audits_are_taken and asking.is_offered(audit, draft.leases):
            yield _of_offer(draft, audit)


def _of_offer(draft: CourseDraft, audit: AuditRow) -> Wait:
    held = draft.world.busy.get(audit.auditor or "", {})
    busy = f", busy since {instants.spell(min(held.values()) / 1000)}" if held else ""
    what = f"auditor {audit.auditor} to have room for {audit.task}{busy}"
    until_ms = audit.opened_at_ms + asking.wait_ms(draft, draft.tasks[audit.task])
    otherwise = "count it as not audited"
    return Wait(audit.audit, AuditStage.OFFERED, what, "let it recompute the task", until_ms, otherwise)


def _of_question(lease: LeaseRow) -> Wait:
    is_prover = lease.body.get("role") == Role.PROVER
    party = f"{lease.node} ({'who did it' if is_prover else 'auditor'})"
    opening = lease.type is LeaseType.REVEAL
    what = f"{'the opened' if opening else 'a blinded'} answer of {party} about {lease.task}"
    then = "compare, once both are open" if opening else "ask to open it, once both are logged"
    otherwise = "judge unheard" if is_prover else "ask the next in rank"
    return Wait(lease.audit or "", "opening" if opening else "asked", what, then, lease.deadline_at_ms, otherwise)


def _of_tasks(draft: CourseDraft) -> Iterator[Wait]:
    for task in draft.tasks.values():
        if task.state in PENDING:
            yield _of_task(draft, task)


def _of_task(draft: CourseDraft, task: Task) -> Wait:
    if task.state is TaskState.PLANNED:
        return Wait(task.task, task.state, "a node that asks for work and may take it", "lease it")
    held = next((item for item in draft.live_of(task.task) if item.state is LeaseState.GRANTED), None)
    until_ms = held.deadline_at_ms if held is not None else None
    committed = task.state is TaskState.COMMITTED
    what = f"the {'result' if committed else 'commitment'} of {task.node}"
    then = "draw, when it is covered" if committed else "take its result"
    return Wait(task.task, task.state, what, then, until_ms, "give it to another node")


def owes(draft: CourseDraft) -> bool:
    """Tell whether nothing but the buyer's beacon value is waited for."""
    return draft.drawing.owed is not None and not any(task.state in PENDING for task in draft.tasks.values())


def is_deserted(draft: CourseDraft) -> bool:
    """Tell whether a task has waited as long as one may for placing, and no node that could take it is there now."""
    world, order = draft.world, draft.order
    patience_ms = 1000 * world.timing.placing_s
    waiting = [task for task in draft.tasks.values() if task.state is TaskState.PLANNED]
    overdue = [
        draft.accusers.get(ids.unit_of(TaskId(task.task)), frozenset())
        for task in waiting
        if world.waited_ms(max(task.planned_at_ms, draft.last_end_ms.get(task.task, 0))) > patience_ms
    ]
    able = {
        node.operator
        for node in (world.nodes.of_class(draft.engine_class) if overdue else ())
        if node.node in world.live and not masks.why_barred(node, order, world, draft.engine_class, draft.out)
    }
    return any(able <= accusers for accusers in overdue)
