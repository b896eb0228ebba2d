"""Clocks: how far a signed time may be off, to the second."""

from __future__ import annotations

import pytest

from stannary.rules.clocks import CLOCK_SKEW_S, MAX_LAG_S, is_within, off_s

EARLIEST, LATEST = 1_000_000, 1_000_600


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (LATEST + CLOCK_SKEW_S, 0),
        (LATEST + CLOCK_SKEW_S + 1, CLOCK_SKEW_S + 1),
        (EARLIEST - MAX_LAG_S, 0),
        (EARLIEST - MAX_LAG_S - 1, -MAX_LAG_S - 1),
    ],
)
def test_a_nodes_time_lies_between_two_moments_of_the_log(at: int, expected: int) -> None:
    """Both ends are still inside; beyond one, the seconds to its moment are said."""
    assert off_s(at, earliest=EARLIEST, latest=LATEST) == expected
    assert off_s(at, earliest=None, latest=None) == 0


def test_a_credential_is_good_a_little_beyond_both_ends() -> None:
    """A node that was cut off hands in late; its clock may be a little fast."""
    assert is_within(EARLIEST - MAX_LAG_S, EARLIEST, LATEST)
    assert not is_within(EARLIEST - MAX_LAG_S - 1, EARLIEST, LATEST)
    assert is_within(LATEST + CLOCK_SKEW_S, EARLIEST, LATEST)
    assert not is_within(LATEST + CLOCK_SKEW_S + 1, EARLIEST, LATEST)
