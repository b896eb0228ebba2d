"""The clock that never runs back: steps are absorbed, deadlines go on, the floor holds over a restart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stannary.tlog.rising import CATCH_UP, Rising


class Hand:
    """A machine's clock that anybody may set."""

    def __init__(self, now_s: float = 1_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@given(st.lists(st.floats(-100_000, 100_000)))
def test_time_never_falls(steps: list[float]) -> None:
    """Whatever is done to the machine's clock, the time said is never less than the one before, nor behind it."""
    hand = Hand()
    clock = Rising(hand)
    last_s = clock.now()
    for step_s in steps:
        hand.now_s += step_s
        now_s = clock.now()
        assert now_s >= last_s
        assert now_s >= hand.now_s - 1e-6
        last_s = now_s


def test_a_step_back_is_given_up_slowly() -> None:
    """After a step of an hour back deadlines go on, stretched by a ninth at most, until both clocks agree again."""
    hand, steady = Hand(), Hand(0.0)
    clock = Rising(hand, 0.0, steady)
    before_s = clock.now()
    hand.now_s -= 3600
    assert clock.now() == before_s
    hand.now_s, steady.now_s = hand.now_s + 600, steady.now_s + 600
    assert clock.now() == before_s + 600 * (1 - CATCH_UP)
    hand.now_s += 1800  # half-way back: it leads still, and makes no leap
    assert clock.now() == before_s + 600 * (1 - CATCH_UP)
    hand.now_s, steady.now_s = hand.now_s + 18_000, steady.now_s + 18_000
    assert clock.now() == hand.now_s
    assert clock.lead_s == 0


def test_without_a_steady_clock_a_leap_is_a_step() -> None:
    """Where nothing steady stands beside, looks further apart than any pause count as a step while it leads."""
    hand = Hand()
    clock = Rising(hand)
    before_s = clock.now()
    hand.now_s -= 3600
    clock.now()
    hand.now_s += 1800
    assert before_s < clock.now() < before_s + 60


def test_a_step_forward_is_followed_at_once() -> None:
    """A machine that slept does not live in the past."""
    hand = Hand()
    clock = Rising(hand)
    hand.now_s += 3600
    assert clock.now() == hand.now_s


def test_it_begins_no_earlier_than_its_floor() -> None:
    """After a restart under a clock that was set back, time goes on from what was said before."""
    hand = Hand()
    clock = Rising(hand, floor_s=hand.now_s + 100)
    assert clock.now() == hand.now_s + 100
    clock.lift(hand.now_s + 50)
    assert clock.now() == hand.now_s + 100
    clock.lift(hand.now_s + 200)
    assert clock.now() == hand.now_s + 200
