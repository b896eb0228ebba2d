"""Retry-After: how long a busy server asks to be left alone (RFC 9110 section 10.2.3)."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_DIGITS = 6  # eleven days; longer is not meant


def retry_after_s(text: str | None, now: datetime) -> float:
    """Return the seconds that a field's value asks for, as a number or a date; 0 where it does not read."""
    stated = (text or "").strip()
    if stated.isascii() and stated.isdigit() and len(stated) <= MAX_DIGITS:
        return float(stated)
    try:
        moment = parsedate_to_datetime(stated)
    except (TypeError, ValueError, IndexError, OverflowError):
        return 0.0
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - now).total_seconds())
