"""Audits on their way: who is asked to open, who is replaced, and what is let go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.integration.market.fake_buyer import before, train_spec
from tests.unit.jobs.course.test_unsigned_draws import (
    JUDGE,
    LEAF,
    LIAR,
    NODES,
    PROVER,
    RIGHT,
    VALUES,
    WRONG,
    entry,
    task,
)
from tests.unit.market import moment
from tests.unit.market.moment import JOB, NOW_MS, ROOT

from stannary.errors import NotFound
from stannary.formats import ids
from stannary.formats.ids import LeaseType
from stannary.formats.predicates import Awaited, Role, Verdict
from stannary.jobs.course import hearing
from stannary.jobs.course.actions import Ask, CloseAudit, EndLease, Judge, OpenAudit, SaySilent
from stannary.jobs.course.asking import question_id
from stannary.jobs.course.draft import CourseDraft
from stannary.jobs.course.state import AnswerRow, AuditOutcome, AuditRow, CandidateList, DrawRow, LeaseRow
from stannary.jobs.states import JobStatus, LeaseState, TaskState
from stannary.rules import draw as rule

TASK = task(0, TaskState.DRAWN, 3)
AUDIT = rule.audit_name(rule.beacon(VALUES[0], ROOT), ids.parse_task(TASK.task), JUDGE)
DRAW = DrawRow(JOB, 0, "note", 20, ROOT, (), NOW_MS, "reveal", VALUES[0], LEAF, NOW_MS)
OPEN = AuditRow(
    AUDIT, JOB, TASK.task, 0, 0, False, "aa", 1, JUDGE, (JUDGE, LIAR), 1, 0, AuditOutcome.OPEN, NOW_MS, None
)


def said(role: Role, node: str, *, opened: bool = False) -> AnswerRow:
    """Return what a party has said so far."""
    given = ("leaf", "aa", RIGHT, [], NOW_MS) if opened else (None, None, None, None, None)
    return AnswerRow(AUDIT, role, node, "c", "leaf", NOW_MS, *given)


def asked(kind: LeaseType, role: Role, node: str, state: LeaseState) -> LeaseRow:
    """Return the lease of a question, and what became of it."""
    name = question_id(AUDIT, kind, role, node)
    ended_ms = None if state is LeaseState.GRANTED else NOW_MS
    body = {"role": role.value}
    return LeaseRow(
        name, kind, JOB, TASK.task, AUDIT, node, 1, state, "deadline", body, NOW_MS, NOW_MS + 60_000, ended_ms
    )


def heard(answers: list[AnswerRow], leases: list[LeaseRow], **changes: Any) -> CourseDraft:
    """Return what a hearing decides once."""
    state = moment.state(
        before(train_spec(lanes=1)),  # where an audit is asked for at once, before its node has room
        status=JobStatus.RUNNING,
        placed=(PROVER,),
        tasks={TASK.task: changes.pop("task", TASK)},
        draws=(DRAW,),
        listed={0: CandidateList("list", 1)},
        drawn={0: (entry(TASK),)},
        audits={AUDIT: changes.pop("audit", OPEN)},
        answers={AUDIT: tuple(answers)},
        leases={item.lease: item for item in leases},
    )
    draft = CourseDraft(state, moment.world(*NODES))
    hearing.advance(draft)
    return draft


def kinds(draft: CourseDraft) -> list[type]:
    """Return the kinds of action decided, in order."""
    return [type(action) for action in draft.actions]


BOTH = [said(Role.PROVER, PROVER), said(Role.AUDITOR, JUDGE)]
PROVERS_REVEAL = asked(LeaseType.REVEAL, Role.PROVER, PROVER, LeaseState.EXPIRED)
JUDGES_REVEAL = asked(LeaseType.REVEAL, Role.AUDITOR, JUDGE, LeaseState.EXPIRED)


def test_both_are_asked_to_open_when_both_have_committed() -> None:
    """Not before: nobody sees another's answer."""
    assert kinds(heard([BOTH[0]], [])) == [Ask]
    opening = heard(BOTH, [])
    assert {(action.grant.type, action.grant.node) for action in opening.actions if isinstance(action, Ask)} == {
        (LeaseType.REVEAL, PROVER),
        (LeaseType.REVEAL, JUDGE),
    }


def test_a_prover_who_does_not_open_is_judged_by_his_auditor() -> None:
    """The auditor is asked to open all the same: silence hides no lie."""
    draft = heard(BOTH, [PROVERS_REVEAL])
    (asking,) = draft.actions
    assert isinstance(asking, Ask)
    assert (asking.grant.type, asking.grant.node) == (LeaseType.REVEAL, JUDGE)


@pytest.mark.parametrize(("handed_in", "outcome"), [(RIGHT, AuditOutcome.UNANSWERED), (WRONG, AuditOutcome.DISAGREED)])
def test_a_silent_prover_is_told_apart_from_a_liar(handed_in: str, outcome: AuditOutcome) -> None:
    """An auditor who finds what was handed in differs from nobody; one who finds something else does."""
    answered = [said(Role.PROVER, PROVER), said(Role.AUDITOR, JUDGE, opened=True)]
    draft = heard(answered, [PROVERS_REVEAL], task=replace(TASK, root=handed_in))
    closed = next(action for action in draft.actions if isinstance(action, CloseAudit))
    assert closed.outcome is outcome


@pytest.mark.parametrize("is_prover_silent", [False, True])
def test_an_auditor_who_does_not_open_is_replaced(*, is_prover_silent: bool) -> None:
    """By the next in rank; that he was asked, and until when, is stated first."""
    first = [] if is_prover_silent else [said(Role.PROVER, PROVER, opened=True)]
    question = asked(LeaseType.QUESTION, Role.PROVER, PROVER, LeaseState.EXPIRED)
    draft = heard([*first, BOTH[1]], [JUDGES_REVEAL, *([question] if is_prover_silent else [])])
    assert kinds(draft) == [SaySilent, CloseAudit, OpenAudit]
    silent, closed, opened = draft.actions
    assert isinstance(silent, SaySilent)
    assert (silent.said.node, silent.said.awaited) == (JUDGE, Awaited.ANSWER)
    assert isinstance(closed, CloseAudit)
    assert closed.outcome is AuditOutcome.SILENT
    assert isinstance(opened, OpenAudit)
    assert (opened.new.auditor, opened.new.number, opened.new.canary) == (LIAR, 1, False)


def test_a_canary_is_let_go_with_its_auditor() -> None:
    """The task has its agreement; leases about it end with its verdict, but for what is on its way into the log."""
    stray, kept = (
        replace(asked(LeaseType.AUDIT, Role.AUDITOR, node, LeaseState.GRANTED), lease=node) for node in (LIAR, PROVER)
    )
    silent = asked(LeaseType.AUDIT, Role.AUDITOR, JUDGE, LeaseState.EXPIRED)
    answered = [said(Role.PROVER, PROVER, opened=True)]
    draft = heard(answered, [silent, stray], audit=replace(OPEN, canary=True))
    assert kinds(draft) == [SaySilent, CloseAudit, EndLease, Judge]
    state = moment.state(
        train_spec(lanes=1),
        status=JobStatus.RUNNING,
        placed=(PROVER,),
        tasks={TASK.task: TASK},
        draws=(DRAW,),
        listed={0: CandidateList("list", 1)},
        drawn={0: (entry(TASK),)},
        audits={AUDIT: replace(OPEN, canary=True)},
        answers={AUDIT: tuple(answered)},
        leases={item.lease: item for item in (silent, kept)},
    )
    answering = CourseDraft(state, moment.world(*NODES, answering=frozenset({kept.lease})))
    hearing.advance(answering)
    assert kinds(answering) == [SaySilent, CloseAudit, Judge]


def test_an_audit_of_work_that_was_superseded_is_dropped() -> None:
    """Its task waits for nothing any more."""
    draft = heard(BOTH, [], task=replace(TASK, state=TaskState.SUPERSEDED))
    assert draft.actions == [CloseAudit(AUDIT, AuditOutcome.DROPPED)]


def test_nobody_is_silent_who_was_never_asked() -> None:
    """A silence rests on the lease that asked."""
    spec = before(train_spec(lanes=1))
    state = moment.state(spec, status=JobStatus.RUNNING, placed=(PROVER,), tasks={TASK.task: TASK})
    draft = CourseDraft(replace(state, audits={AUDIT: OPEN}, draws=(DRAW,)), moment.world(*NODES))
    with pytest.raises(NotFound, match="no such lease"):
        hearing._Hearing(draft, TASK)._say_silent(OPEN, Role.AUDITOR, JUDGE)


def test_a_prover_alone_who_is_silent_is_unverified() -> None:
    """With nobody left to ask, its work counts for nothing and it loses nothing else."""
    question = asked(LeaseType.QUESTION, Role.PROVER, PROVER, LeaseState.EXPIRED)
    draft = heard([], [question], audit=replace(OPEN, auditor=None, ranked=()))
    assert kinds(draft) == [CloseAudit, SaySilent, Judge]
    assert [action.verdict for action in draft.actions if isinstance(action, Judge)] == [Verdict.UNVERIFIED]
    assert draft.convicted == frozenset()
