"""What a job does next: a pure function of the job as it stands and of the world around it.

Place, plan, draw, hear; then say whether it may be concluded. A job that fails or is cancelled takes the same way with
planning left out: what was handed in is still judged and paid. Each pass sees what the passes before it decided, so one
decision goes as far as it can without anybody else's word.
"""

from __future__ import annotations

from stannary.formats.jobspec import Verification
from stannary.jobs.course import actions, drawing, ending, hearing, kinds, placing
from stannary.jobs.course.actions import Action
from stannary.jobs.course.draft import CourseDraft
from stannary.jobs.course.state import DrawRow, JobState, World
from stannary.jobs.states import OPEN_TASK, JobStatus, is_terminal

MAX_PASSES = 64  # of one decision; the rest is done by the next


def decide(state: JobState, world: World) -> tuple[Action, ...]:
    """Return what is to be done with a job now, in order; nothing where it waits."""
    return tuple(course(state, world).actions)


def course(state: JobState, world: World) -> CourseDraft:
    """Return a decision with the state it leaves behind."""
    draft = CourseDraft(state, world)
    if is_terminal(state.status):
        return draft
    if state.status is JobStatus.VERIFYING:
        draft.do(actions.Conclude())
        return draft
    for number in range(MAX_PASSES):
        draft.is_unfinished = number == MAX_PASSES - 1
        num_before = len(draft.actions)
        is_done = _advance(draft)
        if draft.failure is not None:
            reason, message = draft.failure
            draft.failure = None
            ending.begin_end(draft, JobStatus.FAILED, reason, message)
        if len(draft.actions) == num_before:
            if is_done:
                draft.do(actions.Conclude())
            break
    return draft


def _advance(draft: CourseDraft) -> bool:
    """Do what can be done once; tell whether nothing is left to do but the receipt."""
    if draft.status is JobStatus.QUEUED:
        placing.place(draft)
        return False
    finished: bool | None = None
    if draft.asked and draft.status is not JobStatus.CANCELLING:
        finished = False
    elif draft.status is not JobStatus.CANCELLING:
        finished = _plan(draft)
    else:
        ending.give_up_work(draft)
    if draft.order.verification is Verification.NONE:
        drawing.pass_unasked(draft)
    else:
        draft.drawing = drawing.advance(draft)
        owed = draft.drawing.owed
        hearing.advance(draft)
        if owed is not None and is_silent(draft, owed):
            return ending.give_up_on_buyer(draft)
    # a job that ends early is over when nothing handed in waits for a verdict
    return finished if finished is not None else not any(task.state in OPEN_TASK for task in draft.tasks.values())


def _plan(draft: CourseDraft) -> bool:
    found = kinds.of(draft.order.spec).plan(draft)
    if (found.first_open, found.current) != (draft.first_open, draft.round):
        draft.do(actions.Settle(found.first_open, found.current))
    return found.finished


def is_silent(draft: CourseDraft, owed: DrawRow) -> bool:
    """Tell whether a buyer has let his time go by; a value on its way into the log is none of silence."""
    world = draft.world
    waited_ms = world.waited_ms(owed.requested_at_ms)
    return waited_ms > 1000 * world.timing.reveal_s and beacon_hold(draft.order.job) not in world.answering


def beacon_hold(job: str) -> str:
    """Name what is held while a job's beacon value is on its way into the log."""
    return f"beacon:{job}"
