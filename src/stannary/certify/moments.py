"""Times in evidence and on the command line: RFC 3339 in UTC, whole seconds or finer."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from stannary.errors import FormatError

_PATTERN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")


def parse_moment(text: object) -> datetime:
    """Read an RFC 3339 time that ends in Z."""
    if not isinstance(text, str) or _PATTERN.fullmatch(text) is None:
        raise FormatError("not a UTC time", why=f"{text!r:.60}, expected YYYY-MM-DDThh:mm:ssZ")
    try:
        return datetime.fromisoformat(text)
    except ValueError as err:
        raise FormatError("not a UTC time", why=f"{text!r:.60}: {err}") from err


def format_moment(moment: datetime) -> str:
    """Write a time with whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
