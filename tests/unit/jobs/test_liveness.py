"""Liveness: a pure function of silence."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stannary.jobs.liveness import (
    HEARTBEAT_S,
    LOST_S,
    SUSPECT_S,
    Liveness,
    liveness,
    next_change_s,
    next_heartbeat_s,
)

ORDER = [Liveness.ALIVE, Liveness.SUSPECT, Liveness.LOST]


def test_the_three_states_begin_where_they_are_said_to() -> None:
    """A node is suspect from 35 s of silence and lost from 120 s."""
    silences = {0.0: "alive", 34.9: "alive", 35.0: "suspect", 119.9: "suspect", 120.0: "lost", 1e6: "lost"}
    assert {silence: liveness(100.0, 100.0 + silence).value for silence in silences} == silences


@given(st.floats(0, 1e4), st.floats(0, 1e4))
def test_silence_only_makes_worse(first: float, second: float) -> None:
    """A longer silence never makes a node more alive."""
    short, long = sorted((first, second))
    assert ORDER.index(liveness(0, short)) <= ORDER.index(liveness(0, long))


@given(st.floats(0, 1, exclude_max=True))
def test_heartbeats_come_within_a_fifth_of_ten_seconds(fraction: float) -> None:
    """The pause between heartbeats is 10 s +-20 %: two may be lost before anybody is suspected."""
    pause = next_heartbeat_s(fraction)
    assert 0.8 * HEARTBEAT_S <= pause <= 1.2 * HEARTBEAT_S
    assert 2 * pause < SUSPECT_S


@given(st.floats(0, 1e4), st.floats(0, 200))
def test_the_next_change_is_when_the_state_changes(heard: float, silence: float) -> None:
    """Nothing changes before the time named, and something does just after it."""
    now = heard + silence
    then = next_change_s(heard, now)
    if then is None:
        assert now - heard >= LOST_S
        assert liveness(heard, now) is Liveness.LOST
    else:
        assert then > now - 1e-6
        assert liveness(heard, then + 1e-6) is not liveness(heard, now)


def test_a_clock_stepped_back_accuses_nobody() -> None:
    """A negative silence is life."""
    assert liveness(100.0, 10.0) is Liveness.ALIVE
