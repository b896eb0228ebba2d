"""Times as they are spelled in every message and statement, and how far two clocks may lie apart.

Rules (docs/receipt.md R1.7, R12.12, R12.13):
1. A time is RFC 3339 in UTC with whole seconds and `Z`; digits are ASCII, the year has four of them.
2. Inside a process times are seconds since 1970; this module is the only place where they become text and back.
3. A node's time is its own word. It is held between two moments of the log: at most CLOCK_SKEW_S after the later
   one, at most MAX_LAG_S before the earlier one. The market refuses at its door, with these very functions, what a
   verifier would refute later.
4. A credential is good for work from MAX_LAG_S before it was issued (that it was logged before the work is shown by
   the log, not by clocks) until CLOCK_SKEW_S after its end.
"""

from __future__ import annotations

import functools
import itertools
import re
from datetime import UTC, datetime

from stannary.errors import FormatError

CLOCK_SKEW_S = 300  # between a node's clock and a witness's; both are asked to run NTP
MAX_LAG_S = 24 * 3600  # between the work's end and the log: a node that was cut off hands in late, not years late
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


def off_s(at: int, *, earliest: int | None, latest: int | None) -> int:
    """Return how many seconds a node's time is off the log's: above 0 ahead, below 0 behind, 0 if it fits (rule 3).

    Args:
        at: what the node signed.
        earliest: a moment at which the statement was not yet in the log, None if none is known.
        latest: a moment at which it was, None if none is known.
    """
    if latest is not None and at > latest + CLOCK_SKEW_S:
        return at - latest
    if earliest is not None and at < earliest - MAX_LAG_S:
        return at - earliest
    return 0


def is_within(at: int, issued_at: int, expires_at: int) -> bool:
    """Return whether a credential was good for work at a time (rule 4)."""
    return issued_at - MAX_LAG_S <= at <= expires_at + CLOCK_SKEW_S


def words(seconds: float) -> str:
    """Say how far a clock is off another: `412 s ahead of`, `3,600 s behind`."""
    return f"{abs(int(seconds)):,} s {'ahead of' if seconds > 0 else 'behind'}"
