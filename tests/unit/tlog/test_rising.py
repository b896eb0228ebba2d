"""The clock that never runs back: steps are absorbed, deadlines go on, the floor holds over a restart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stannary.tlog.rising import CATCH_UP, LEAP_S, Leap, Rising, skipped_s


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
    clock = Rising(hand, 0.0, Hand(0.0))
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


def test_a_step_forward_is_followed_at_once_and_remembered() -> None:
    """A machine that slept does not live in the past, and who waits for something waits its sleep out."""
    hand, steady = Hand(), Hand(0.0)
    clock = Rising(hand, 0.0, steady)
    since_s = hand.now_s
    hand.now_s, steady.now_s = hand.now_s + 10, steady.now_s + 10
    clock.now()
    hand.now_s, steady.now_s = hand.now_s + 3605, steady.now_s + 5
    assert clock.now() == hand.now_s
    assert clock.leaps == (Leap(since_s + 15, 3600.0),)
    hand.now_s, steady.now_s = hand.now_s + 7, steady.now_s + 7
    assert skipped_s(clock.leaps, since_s, clock.now()) == 3600.0
    assert skipped_s(clock.leaps, since_s, since_s + 15) == 0.0  # over before the leap
    assert skipped_s(clock.leaps, since_s + 3615, clock.now()) == 0.0  # begun after it


def test_a_clock_that_is_slewed_does_not_leap() -> None:
    """What an NTP daemon does every few seconds is no step."""
    hand, steady = Hand(), Hand(0.0)
    clock = Rising(hand, 0.0, steady)
    for _ in range(1000):
        hand.now_s, steady.now_s = hand.now_s + 1.0005, steady.now_s + 1.0
        clock.now()
    assert clock.leaps == ()


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(-10_000, 10_000)), max_size=20))
def test_nobody_is_late_by_a_step(passed: list[tuple[float, float]]) -> None:
    """However a clock is set, what it says has passed is at most what passed, and at least CATCH_UP less."""
    hand, steady = Hand(), Hand(0.0)
    clock = Rising(hand, 0.0, steady)
    since_s = clock.now()
    for passed_s, step_s in passed:
        hand.now_s, steady.now_s = hand.now_s + passed_s + step_s, steady.now_s + passed_s
        clock.now()
    said_s = clock.now() - since_s - skipped_s(clock.leaps, since_s, clock.now())
    assert (1 - CATCH_UP) * steady.now_s - 1e-3 <= said_s <= steady.now_s + LEAP_S * len(passed)


def test_it_begins_no_earlier_than_its_floor() -> None:
    """After a restart under a clock that was set back, time goes on from what was said before."""
    hand = Hand()
    clock = Rising(hand, hand.now_s + 100, Hand(0.0))
    assert clock.now() == hand.now_s + 100
    clock.lift(hand.now_s + 50)
    assert clock.now() == hand.now_s + 100
    clock.lift(hand.now_s + 200)
    assert clock.now() == hand.now_s + 200
