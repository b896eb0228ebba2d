"""A draw made in the very decision that convicts its auditor: nothing is stated about a draw that has no leaf yet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.integration.market.fake_buyer import before, train_spec
from tests.unit.market import moment
from tests.unit.market.moment import CLASS, JOB, NOW_MS, ROOT

from stannary.formats import digest, ids
from stannary.formats.ids import NodeId, TaskKind
from stannary.formats.predicates import Absence, Assignment, Candidate, Drawable, Role, Verdict
from stannary.jobs.course.actions import Convict, MakeDraw, SaySilent
from stannary.jobs.course.decide import course
from stannary.jobs.course.draft import CourseDraft
from stannary.jobs.course.state import (
    AnswerRow,
    AuditOutcome,
    AuditRow,
    CandidateList,
    DrawRow,
    JobState,
    Task,
    read_assignment,
    spell_assignment,
)
from stannary.jobs.states import JobStatus, TaskState
from stannary.rules import draw as rule

PROVER, LIAR, JUDGE = "n-prover", "n-liar", "n-judge"
NODES = [moment.node(PROVER, "ann"), moment.node(LIAR, "xen"), moment.node(JUDGE, "bob")]
LEAF = digest.digest(b"draw")
RIGHT, WRONG = digest.digest(b"right"), digest.digest(b"wrong")
VALUES = ("11" * 32, "22" * 32)


def task(lane: int, state: TaskState, commitment_index: int) -> Task:
    """Return a lane's task, handed in by the prover."""
    name = ids.round_task(JOB, 0, lane)
    text = spell_assignment(Assignment(JOB, name, TaskKind.ROUND, 0, lane, 3, 0, 0))
    handed_in: dict[str, Any] = {"commitment": "c", "contribution": "leaf", "root": RIGHT, "outputs": []}
    return Task(
        name, JOB, TaskKind.ROUND, 0, lane, 0, 3, text, digest.digest(text.encode()), state, 1, PROVER, 1,
        commitment_index=commitment_index, contribution_index=commitment_index + 1, draw_number=0,
        verdict=Verdict.PENDING, reason="", planned_at_ms=NOW_MS, leased_at_ms=NOW_MS, contributed_at_ms=NOW_MS,
        **handed_in,
    )  # fmt: skip


def entry(made: Task) -> Drawable:
    """Return what a draw lists of a task."""
    at = made.commitment_index or 0
    return Drawable(ids.parse_task(made.task), NodeId(made.node or ""), "ada", CLASS, made.num_steps, at)


def answers(audit: str, role: Role, node: str, root: str) -> tuple[AnswerRow, ...]:
    """Return one opened answer."""
    return (AnswerRow(audit, role, node, "c", "leaf", NOW_MS, "leaf", "aa", root, [], NOW_MS),)


def about_to_convict() -> JobState:
    """Return a job whose first task is about to outvote the liar, and whose second draw is about to ask him."""
    heard, drawn = task(0, TaskState.DRAWN, 3), task(1, TaskState.CONTRIBUTED, 13)
    draws = tuple(
        DrawRow(JOB, number, "note", 10 * (number + 1), ROOT, (), NOW_MS, "reveal", VALUES[number], leaf, NOW_MS)
        for number, leaf in ((0, LEAF), (1, None))
    )
    randomness = rule.beacon(VALUES[0], ROOT)
    audits = {}
    for number, (auditor, outcome) in enumerate(((LIAR, AuditOutcome.DISAGREED), (JUDGE, AuditOutcome.OPEN))):
        name = rule.audit_name(randomness, ids.parse_task(heard.task), auditor)
        audits[name] = AuditRow(
            name, JOB, heard.task, number, 0, False, "aa", 1, auditor, (auditor,), 1, 0, outcome, NOW_MS + 1, None
        )
    first, second = audits
    given = {
        first: answers(first, Role.PROVER, PROVER, RIGHT) + answers(first, Role.AUDITOR, LIAR, WRONG),
        second: answers(second, Role.AUDITOR, JUDGE, RIGHT),
    }
    liar_alone = (Candidate(NodeId(LIAR), "xen", CLASS),)
    return moment.state(
        before(train_spec(lanes=2)),  # where an audit is asked for at once, before its node has room
        status=JobStatus.RUNNING,
        placed=(PROVER, PROVER),
        worked=frozenset({PROVER}),
        tasks={heard.task: heard, drawn.task: drawn},
        draws=draws,
        listed={0: CandidateList("list", 1), 1: CandidateList(digest.digest(b"list"), 11, liar_alone)},
        drawn={0: (entry(heard),)},
        audits=audits,
        answers=given,
    )


def said(draft: CourseDraft) -> list[SaySilent]:
    """Return the silences a decision states."""
    return [action for action in draft.actions if isinstance(action, SaySilent)]


def test_a_silence_waits_for_its_draws_leaf() -> None:
    """The draw is made, its auditor asked and convicted at once; that he is silent is stated by the next decision."""
    world = moment.world(*NODES)
    draft = course(about_to_convict(), world)
    assert [action.made.index for action in draft.actions if isinstance(action, MakeDraw)] == [1]
    assert [action.node for action in draft.actions if isinstance(action, Convict)] == [LIAR]
    assert said(draft) == []
    assert draft.is_unfinished
    left = draft.state()
    signed = tuple(replace(row, draw=row.draw or LEAF) for row in left.draws)
    (silence,) = said(course(replace(left, draws=signed), world))
    assert (silence.said.node, silence.said.draw, silence.said.reason) == (LIAR, LEAF, Absence.REVOKED)
    assert read_assignment(left.tasks[str(silence.said.task)].assignment).lane == 1
