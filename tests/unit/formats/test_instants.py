"""Instants: how long, how far off, how it is said."""

from __future__ import annotations

import pytest

from stannary.formats import instants


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (7500, "2 h 5 min"), (7200, "2 h"), (90_000, "1 d 1 h")],
)
def test_a_span_is_said_in_its_two_largest_units(seconds: int, said: str) -> None:
    """Nobody counts seconds of a day."""
    assert instants.span(seconds) == said


def test_a_clock_is_off_on_either_side_beyond_what_is_borne() -> None:
    """Ahead by more than clocks differ, or behind by more than a statement may wait: the distance is told."""
    ahead, behind = instants.CLOCK_SKEW_S, instants.MAX_LAG_S
    assert instants.off_s(1000 + ahead, earliest=None, latest=1000) == 0
    assert instants.off_s(1001 + ahead, earliest=None, latest=1000) == 1 + ahead
    assert instants.off_s(behind, earliest=2 * behind, latest=None) == 0
    assert instants.off_s(behind - 1, earliest=2 * behind, latest=None) == -behind - 1
    assert instants.off_s(5, earliest=None, latest=None) == 0
