"""When a suspended node is asked a canary, and when time restores it instead."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stannary.formats.predicates import CanaryOutcome
from stannary.jobs import canary, standing
from stannary.jobs.canary import AGAIN_MS, CanaryRow, CanaryWord, SuspendedNode
from stannary.rules.reasons import Reason

NOW = 1_000_000
ASKED = CanaryRow("j-1", "j-1/r0/l0/a0", "n-1", "00" * 32, NOW)
HELD = SuspendedNode("n-1", NOW, (), has_room=True)


def after(*outcomes: CanaryOutcome, reason: str = Reason.REPLAYED) -> SuspendedNode:
    """Return a node whose canaries came to this."""
    rows = tuple(
        replace(ASKED, job=f"j-{at}", outcome=outcome, reason=reason, decided_at_ms=NOW)
        for at, outcome in enumerate(outcomes)
    )
    return replace(HELD, canaries=rows)


def test_the_first_is_due_at_once_and_one_at_a_time() -> None:
    """Asked for or not."""
    assert canary.is_due(HELD, NOW, is_wanted=False)
    assert not canary.is_due(replace(HELD, canaries=(ASKED,)), NOW + standing.WINDOW_MS, is_wanted=True)


def test_who_failed_gets_another_when_it_asks_and_ever_more_seldom() -> None:
    """A minute later, then two, at most about an hour: it costs the market its time."""
    for number in range(1, 12):
        held = after(*[CanaryOutcome.FAILED] * number)
        rest_ms = AGAIN_MS * min(2 ** (number - 1), 64)
        assert not canary.is_due(held, NOW + rest_ms - 1, is_wanted=True)
        assert canary.is_due(held, NOW + rest_ms, is_wanted=True)
        assert not canary.is_due(held, NOW + 100 * rest_ms, is_wanted=False)


@pytest.mark.parametrize(("reason", "again"), [(Reason.NODE_LOST, True), (Reason.RELEASED, True), ("deadline", False)])
def test_who_was_not_there_is_asked_again_unasked(reason: str, again: bool) -> None:
    """Who was there and did not answer has to ask."""
    held = after(CanaryOutcome.UNANSWERED, reason=reason)
    assert canary.is_due(held, NOW + AGAIN_MS, is_wanted=False) is again


@pytest.mark.parametrize("outcome", [CanaryOutcome.FAILED, CanaryOutcome.UNANSWERED])
def test_time_restores_nobody_who_was_looked_at(outcome: CanaryOutcome) -> None:
    """Nor whoever took one and went away, however often it comes and goes."""
    held = replace(HELD, canaries=(replace(ASKED, outcome=outcome, reason=Reason.NODE_LOST),))
    assert not canary.is_over(held, NOW, NOW + standing.WINDOW_MS)


def test_time_restores_whom_nobody_could_look_at() -> None:
    """Ten minutes of its being there, not of the calendar; so does one that was asked too late to be judged by then."""
    for held in (HELD, after(CanaryOutcome.UNCHECKED), replace(HELD, canaries=(ASKED,))):
        assert not canary.is_over(held, NOW, NOW + standing.HOLD_MS - 1)
        assert canary.is_over(held, NOW, NOW + standing.HOLD_MS)
        assert not canary.is_over(held, NOW + 5, NOW + standing.HOLD_MS)


def test_an_answer_the_market_and_others_fit_into_ten_minutes() -> None:
    """Whatever each of them takes of the time it has, half a minute is left for the log and the sweeps."""
    assert 1000 * (2 * canary.ANSWER_S + canary.COMPUTE_S + 30) <= standing.HOLD_MS


def test_each_way_it_can_stand_has_a_word() -> None:
    """Its provider reads it."""
    words = [canary.word(after(outcome), "cpu-fp32") for outcome in CanaryOutcome]
    assert words == [CanaryWord.NONE, CanaryWord.FAILED, CanaryWord.UNANSWERED, CanaryWord.UNCHECKED]
    assert canary.word(HELD, "cpu-fp32") is CanaryWord.WAITING
    assert canary.word(replace(HELD, canaries=(ASKED,)), "cpu-fp32") is CanaryWord.ASKED
    assert canary.word(HELD, "cpu-commands-t0.000000000000.r0123") is CanaryWord.IMPOSSIBLE
