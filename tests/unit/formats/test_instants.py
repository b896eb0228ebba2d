"""Instants: how long, and how it is said."""

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
