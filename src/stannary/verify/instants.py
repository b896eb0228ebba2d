"""Signed times: RFC 3339 UTC with whole seconds and `Z`, as predicates.py says, to POSIX seconds."""

from __future__ import annotations

import functools
import re
from datetime import datetime

from stannary.errors import FormatError

_PATTERN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
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
