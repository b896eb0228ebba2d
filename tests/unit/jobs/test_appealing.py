"""Hearings of appeals: offered to three at a time, nobody opens before all are in, a silent one makes room."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stannary.formats.ids import LeaseType
from stannary.formats.predicates import Role
from stannary.jobs import appealing
from stannary.jobs.appealing import AskedHearer, HearingStep
from stannary.jobs.course.state import AnswerRow, AuditOutcome, AuditRow, LeaseRow
from stannary.jobs.states import LeaseState

RANKED = ("n1", "n2", "n3", "n4")


def step(asked: list[AskedHearer], *, out: tuple[str, ...] = (), is_late: bool = False) -> HearingStep:
    """Return the next step of a hearing by these four."""
    return appealing.step(RANKED, asked, out=out, is_late=is_late)


def lease(node: str, kind: LeaseType = LeaseType.AUDIT, state: LeaseState = LeaseState.GRANTED) -> LeaseRow:
    """Return a lease of a hearer."""
    return LeaseRow(f"{kind}-{node}", kind, "j", "j/r0/l0/a0", f"q-{node}", node, 1, state, "asked", {}, 0, 10, None)


def offered(node: str, outcome: AuditOutcome = AuditOutcome.OPEN) -> AskedHearer:
    """Return one who has no room yet."""
    audit = AuditRow(f"q-{node}", "j", "j/r0/l0/a0", 1000, 0, False, "s", 1, node, (node,), 0, 0, outcome, 0, None)
    return AskedHearer(audit)


def taken(node: str, state: LeaseState = LeaseState.GRANTED) -> AskedHearer:
    """Return one who took it and has said nothing yet."""
    return replace(offered(node), lease=lease(node, state=state))


def committed(node: str, *, is_open: bool = False) -> AskedHearer:
    """Return one who has committed to an answer, and perhaps opened it."""
    leaf = "leaf" if is_open else None
    given = AnswerRow(f"q-{node}", Role.AUDITOR, node, "c", "l", 0, leaf, leaf, leaf, None, None)
    return replace(taken(node, LeaseState.COMPLETED), given=given)


def test_the_first_three_in_rank_are_offered_it() -> None:
    """Three, no more, in the order of the draw; who is lost is passed over."""
    assert step([]) == HearingStep(offer=("n1", "n2", "n3"))
    assert step([], out=("n2",)) == HearingStep(offer=("n1", "n3", "n4"))
    assert step([offered("n1"), offered("n2"), taken("n3")]) == HearingStep()


def test_who_is_busy_is_waited_for_until_the_window_is_over() -> None:
    """Nobody takes its place: whoever keeps it busy would choose who hears. It is not silent."""
    listed = [offered("n1"), committed("n2"), committed("n3")]
    assert step(listed) == HearingStep()
    assert step(listed, is_late=True) == HearingStep(close=(("q-n1", AuditOutcome.UNTAKEN),))
    closed = [offered("n1", AuditOutcome.UNTAKEN), *listed[1:]]
    assert step(closed, is_late=True) == HearingStep(open=("n2", "n3"))


def test_who_has_taken_it_keeps_its_time() -> None:
    """The window is over: its lease goes on all the same."""
    assert step([taken("n1"), committed("n2"), committed("n3")], is_late=True) == HearingStep()


@pytest.mark.parametrize(
    ("gone", "out", "outcome"),
    [
        (taken("n2", LeaseState.EXPIRED), (), AuditOutcome.SILENT),
        (taken("n2", LeaseState.RELEASED), (), AuditOutcome.SILENT),
        (offered("n2"), ("n2",), AuditOutcome.DROPPED),
    ],
)
def test_whoever_gives_up_makes_room_for_the_next(
    gone: AskedHearer, out: tuple[str, ...], outcome: AuditOutcome
) -> None:
    """Silent or lost: it counts for nobody, and its audit is closed first."""
    listed = [taken("n1"), gone, offered("n3")]
    assert step(listed, out=out) == HearingStep(close=(("q-n2", outcome),))
    closed = [listed[0], replace(gone, audit=replace(gone.audit, outcome=outcome)), listed[2]]
    assert step(closed, out=out) == HearingStep(offer=("n4",))


def test_nobody_opens_while_another_may_still_commit() -> None:
    """Else the last could copy what the first has found; one who has room only later may commit, too."""
    for third in (taken("n3"), offered("n3")):
        assert step([committed("n1"), committed("n2"), third]) == HearingStep()
    assert step([committed(node) for node in RANKED[:3]]) == HearingStep(open=("n1", "n2", "n3"))


def test_it_is_over_when_nothing_is_awaited_any_more() -> None:
    """Opened, or let the time for that pass: what is there decides."""
    opened = [committed(node, is_open=True) for node in ("n1", "n2")]
    waits = replace(committed("n3"), opening=lease("n3", LeaseType.REVEAL))
    assert step([*opened, waits]) == HearingStep()
    silent = replace(waits, opening=lease("n3", LeaseType.REVEAL, LeaseState.EXPIRED))
    assert step([*opened, silent]) == HearingStep(is_over=True)
    gone = [offered(node, AuditOutcome.UNTAKEN) for node in RANKED]
    assert step(gone, is_late=True) == HearingStep(is_over=True)
