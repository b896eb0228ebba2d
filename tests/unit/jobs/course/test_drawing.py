"""Draws: what each may take, and what becomes of work that none can."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.integration.market.fake_buyer import train_spec
from tests.unit.jobs.course.test_unsigned_draws import JUDGE, LEAF, LIAR, NODES, PROVER, VALUES, entry, task
from tests.unit.market import moment
from tests.unit.market.moment import CLASS, JOB, NOW_MS, ROOT

from stannary.errors import ConflictError
from stannary.formats.ids import NodeId
from stannary.formats.predicates import Candidate
from stannary.jobs.course import drawing, waiting
from stannary.jobs.course.actions import BeginEnd, FixCandidates, Judge, OpenAudit, Pass, RequestDraw
from stannary.jobs.course.decide import course
from stannary.jobs.course.draft import CourseDraft
from stannary.jobs.course.state import CandidateList, CosignedCheckpoint, DrawRow, JobState
from stannary.jobs.states import JobStatus, TaskState

LISTED = CandidateList("list", 5, (Candidate(NodeId(JUDGE), "bob", CLASS),))


def handed_in(state: TaskState = TaskState.CONTRIBUTED, **changes: Any) -> JobState:
    """Return a job with one task handed in, at log index 3 and 4, and the candidates of its first draw fixed."""
    made = task(0, state, 3)
    listed = changes.pop("listed", {0: LISTED})
    return moment.state(
        train_spec(lanes=1),
        status=JobStatus.RUNNING,
        placed=(PROVER,),
        tasks={made.task: made},
        listed=listed,
        **changes,
    )


def draft_of(state: JobState, size: int = 20) -> CourseDraft:
    """Return a draft at a moment whose checkpoint covers so many leaves."""
    return CourseDraft(state, moment.world(*NODES, checkpoint=CosignedCheckpoint("note", size, ROOT)))


def revealed(number: int = 0, size: int = 20, draw: str | None = None) -> DrawRow:
    """Return a draw whose value is there."""
    return DrawRow(JOB, number, "note", size, ROOT, (), NOW_MS, "reveal", VALUES[number], draw, NOW_MS)


def test_candidates_are_fixed_once_something_is_committed_to() -> None:
    """Before the checkpoint its beacon is made of: who may audit is logged first."""
    draft = draft_of(handed_in(TaskState.COMMITTED, listed={}))
    assert drawing.advance(draft) == drawing.Drawing()
    (fixed,) = draft.actions
    assert isinstance(fixed, FixCandidates)
    assert [item.node for item in fixed.made.candidates] == sorted([PROVER, LIAR, JUDGE])


@pytest.mark.parametrize(("index", "size"), [(None, 20), (20, 20), (5, 0)])
def test_a_value_is_asked_for_when_a_checkpoint_covers_work_and_candidates(index: int | None, size: int) -> None:
    """Until then the draw waits for the log; so does a checkpoint no larger than the last draw's."""
    state = handed_in(listed={0: replace(LISTED, log_index=index)})
    draft = draft_of(state, size)
    found = drawing.advance(draft)
    assert (found.owed, draft.actions) == (None, [])
    assert found.awaits_log is (size > 3)
    asked = draft_of(handed_in())
    assert drawing.advance(asked).owed is not None
    assert asked.actions == [RequestDraw(0, 0, 5)]
    assert "beacon value of draw 0" in waiting.waits(_with(asked))[0].waits_for


def _with(draft: CourseDraft) -> CourseDraft:
    draft.drawing = drawing.Drawing(owed=draft.draws[-1])
    return draft


def test_a_chain_at_its_end_draws_nothing_more() -> None:
    """What waits for another draw is unverified, and the job ends, with the reason."""
    state = handed_in()
    predicate = replace(state.order.predicate, beacon_length=0)
    draft = course(replace(state, order=replace(state.order, predicate=predicate)), draft_of(state).world)
    assert [action.reason for action in draft.actions if isinstance(action, Judge)] == ["beacon-exhausted"]
    assert [action.ending.reason for action in draft.actions if isinstance(action, BeginEnd)] == ["beacon-exhausted"]


def test_a_late_opening_is_judged_by_the_draw_that_took_it() -> None:
    """The selection is of the logged draw; a task it did not list (another epoch's) is passed by."""
    listed = entry(task(0, TaskState.CONTRIBUTED, 3))
    made = handed_in(draws=(revealed(draw=LEAF),), drawn={0: (listed,)})
    draft = draft_of(made)
    drawing.advance(draft)
    assert [type(action) for action in draft.actions[:2]] == [Pass, OpenAudit]
    unlisted = draft_of(replace(made, drawn={0: ()}))
    drawing.advance(unlisted)
    assert unlisted.actions == []


def test_an_audit_nobody_is_left_to_make_has_no_auditor() -> None:
    """Of the ranked whoever was convicted is passed over; with nobody left the prover is asked all the same."""
    listed = entry(task(0, TaskState.CONTRIBUTED, 3))
    made = handed_in(draws=(revealed(draw=LEAF),), drawn={0: (listed,)}, convicted=frozenset({JUDGE}))
    draft = draft_of(made)
    drawing.advance(draft)
    (opened,) = (action for action in draft.actions if isinstance(action, OpenAudit))
    assert (opened.new.auditor, opened.new.ranked, opened.new.price_usd_micros) == (None, (), 0)


def test_a_draw_without_its_candidates_is_a_fault() -> None:
    """It cannot be stated; so can none be found that was never asked for."""
    draft = draft_of(handed_in(draws=(revealed(),), listed={}))
    with pytest.raises(ConflictError, match="without its candidates"):
        drawing.advance(draft)
    with pytest.raises(ConflictError, match="no such draw"):
        drawing.get_draw(draft, 7)


def test_what_the_log_is_waited_for_is_said() -> None:
    """A covered result and candidates that are not: the wait names what is missing."""
    draft = draft_of(handed_in(listed={0: replace(LISTED, log_index=None)}))
    draft.drawing = drawing.advance(draft)
    assert waiting.waits(draft)[0].waits_for == "a cosigned checkpoint that covers who may audit"
