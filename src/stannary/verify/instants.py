"""Signed times: RFC 3339 UTC with whole seconds and `Z`, as predicates.py says, to POSIX seconds and back."""

from __future__ import annotations

import functools
import itertools
import re
from datetime import UTC, datetime

from stannary.errors import FormatError

_PATTERN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
KEPT_TIMES = 1024  # parsed ones: a credential's bounds are compared with each of its node's statements


@functools.lru_cache(maxsize=KEPT_TIMES)
def parse(text: str) -> int:
    """Return POSIX seconds.

    Raises:
        FormatError: another spelling, or no such day.
    """
    if _PATTERN.fullmatch(text) is None:
        raise FormatError("not a time", why=f"{text!r:.60}, expected YYYY-MM-DDTHH:MM:SSZ")
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError as err:
        raise FormatError("no such time", why=f"{text}: {err}") from err


def spell(seconds: int) -> str:
    """Return POSIX seconds as a signed time is spelled; a time beyond any calendar as its number."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"second {seconds} of POSIX time"


def span(seconds: int) -> str:
    """Return a length of time in its two largest units, such as `2 h 5 min`."""
    for (size, name), (smaller, below) in itertools.pairwise(_UNITS):
        if seconds >= size:
            rest = seconds % size // smaller
            return f"{seconds // size} {name}" + (f" {rest} {below}" if rest else "")
    return f"{seconds} s"
