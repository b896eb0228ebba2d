"""When nodes' power is measured: nobody can know, nobody can put it off for gain, and each test serves once."""

from __future__ import annotations

import pytest

from stannary.errors import ConflictError
from stannary.market.gradings import AGAIN_S, LEAST, MOST, Gradings

HOUR_S = 3600.0


def late(low: float, high: float) -> float:
    """Draw the latest."""
    return high


def early(low: float, high: float) -> float:
    """Draw the earliest."""
    return low


def test_a_node_nobody_measured_is_due_and_stays_so() -> None:
    """Who refuses stays without work, however often he asks."""
    made = Gradings(HOUR_S)
    assert all(made.is_due("n", at, is_graded=False) for at in (0.0, 1e6))
    made.give("n", 0.0)
    assert made.is_due("n", 1e9, is_graded=True)


def test_a_market_that_measures_nobody_asks_nobody() -> None:
    """Each of its nodes counts as one SCU."""
    assert not Gradings(0.0).is_due("n", 1e9, is_graded=False)


def test_the_next_test_is_drawn_anew() -> None:
    """From half to one and a half times the mean behind the last."""
    for draw, share in ((early, LEAST), (late, MOST)):
        made = Gradings(HOUR_S, draw)
        made.take("n", made.give("n", 0.0), 5.0)
        made.done("n", 5.0)
        due_s = 5.0 + share * HOUR_S
        assert not made.is_due("n", due_s - 1, is_graded=True)
        assert made.is_due("n", due_s, is_graded=True)


def test_who_was_measured_before_a_restart_is_measured_again_some_time() -> None:
    """The market forgets when the next was due, not that one is."""
    made = Gradings(HOUR_S, late)
    assert not made.is_due("n", 0.0, is_graded=True)
    assert not made.is_due("n", 0.9 * HOUR_S, is_graded=True)
    assert made.is_due("n", MOST * HOUR_S, is_graded=True)


def test_asking_again_does_not_set_the_clock_back() -> None:
    """The same nonce and the same start for a minute; a test that was lost for longer begins anew."""
    made = Gradings(HOUR_S)
    nonce = made.give("n", 0.0)
    assert made.give("n", 30.0) == nonce
    fresh = made.give("n", AGAIN_S)
    assert fresh != nonce
    with pytest.raises(ConflictError):
        made.take("n", nonce, AGAIN_S + 1)
    assert made.take("n", fresh, AGAIN_S + 4.5) == 4500


def test_a_test_serves_once_and_its_own_node() -> None:
    """A better answer later, or another node's, is to no question."""
    made = Gradings(HOUR_S)
    nonce = made.give("n", 0.0)
    with pytest.raises(ConflictError):
        made.take("m", nonce, 1.0)
    assert made.take("n", nonce, 0.0) == 1  # no time is none
    with pytest.raises(ConflictError):
        made.take("n", nonce, 2.0)
