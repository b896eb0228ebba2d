"""RFC 3339 times as they are spelled in every message and statement: UTC, whole seconds, `Z`.

Times inside a process are floats (seconds since the epoch, from an injected clock); this module is
the only place where they become text and back.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from stannary.errors import FormatError

_PATTERN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def spell(seconds: float) -> str:
    """Return the spelling of a time, rounded down to whole seconds."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(text: str) -> int:
    """Return seconds since the epoch.

    Raises:
        FormatError: any other spelling, fractions and offsets included.
    """
    if _PATTERN.fullmatch(text) is None:
        raise FormatError("not a time", why=f"{text!r:.60}, expected YYYY-MM-DDThh:mm:ssZ")
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError as err:
        raise FormatError("not a time", why=f"{text!r:.60}: {err}") from err
