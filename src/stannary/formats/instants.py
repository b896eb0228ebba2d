"""Times as they are spelled in every message and statement.

Rules (docs/receipt.md R1.7):
1. A time is RFC 3339 in UTC with whole seconds and `Z`; digits are ASCII, the year has four of them.
2. Inside a process times are seconds since 1970; this module is the only place where they become text and back.
"""

from __future__ import annotations

import functools
import itertools
import re
from datetime import UTC, datetime

from stannary.errors import FormatError

EARLIEST_S, LATEST_S = -62_135_596_800, 253_402_300_799  # 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z
PATTERN = "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"
KEPT_TIMES = 1024  # parsed ones: a credential's bounds are compared with each of its node's statements

_PATTERN = re.compile(PATTERN)
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


@functools.lru_cache(maxsize=KEPT_TIMES)
def parse(text: str) -> int:
    """Return POSIX seconds.

    Raises:
        FormatError: another spelling (fractions, offsets, leap seconds), or no such day.
    """
    if _PATTERN.fullmatch(text) is None:
        raise FormatError("not a time", why=f"{text!r:.60}, expected YYYY-MM-DDThh:mm:ssZ")
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError as err:
        raise FormatError("not a time", why=f"{text!r:.60}: {err}") from err


def spell(seconds: float) -> str:
    """Return the spelling of a time, rounded down to whole seconds; what no calendar holds becomes its end."""
    moment = datetime.fromtimestamp(min(max(int(seconds), EARLIEST_S), LATEST_S), UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")  # strftime leaves out a year's leading zeros


def span(seconds: int) -> str:
    """Return a length of time in its two largest units, such as `2 h 5 min`."""
    for (size, name), (smaller, below) in itertools.pairwise(_UNITS):
        if seconds >= size:
            rest = seconds % size // smaller
            return f"{seconds // size} {name}" + (f" {rest} {below}" if rest else "")
    return f"{seconds} s"


def words(seconds: float) -> str:
    """Say how far a clock is off another: `412 s ahead of`, `3,600 s behind`."""
    return f"{abs(int(seconds)):,} s {'ahead of' if seconds > 0 else 'behind'}"
