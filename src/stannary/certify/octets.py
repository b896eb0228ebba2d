"""Octets as evidence and people write them in text."""

from __future__ import annotations

from stannary.errors import FormatError


def unhex(text: object, what: str) -> bytes:
    """Read lower or upper case hex without separators."""
    try:
        if not isinstance(text, str) or not text.isascii() or not text.isalnum():
            raise FormatError(f"{what} is not hex", why=f"{text!r:.60}")
        return bytes.fromhex(text)
    except ValueError as err:
        raise FormatError(f"{what} is not hex", why=str(err)) from err
