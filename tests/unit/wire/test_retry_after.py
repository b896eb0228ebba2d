"""Retry-After in both of its forms."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.wire.retry_after import retry_after_s

NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0), ("120", 120), (" 7 ", 7), ("Mon, 30 Nov 2026 12:01:30 GMT", 90), ("Mon, 30 Nov 2026 11:00:00 GMT", 0),
        ("Monday, 30-Nov-26 12:00:05 GMT", 5), ("Mon Nov 30 12:00:09 2026", 9), ("Mon, 30 Nov 2026 13:00:00 +0100", 0),
        ("", 0), (None, 0), ("soon", 0), ("-5", 0), ("1.5", 0), ("1e3", 0), ("٣", 0), ("9" * 40, 0),
        ("Mon, 99 Nov 2026 12:00:00 GMT", 0), ("Mon, 30 Nov 99999 12:00:00 GMT", 0),
    ],
)  # fmt: skip
def test_seconds_and_dates_are_read(text, expected):
    """Whole seconds and the three date forms of HTTP say how long; what does not read asks for nothing."""
    assert retry_after_s(text, NOW) == expected


@given(st.text(max_size=40))
def test_any_text_gives_a_number(text):
    """Whatever a server writes, the wait is a number of seconds that is not negative."""
    assert 0 <= retry_after_s(text, NOW) <= timedelta.max.total_seconds()
