"""Texts that people write (job files, lists of packages): bytes to text, and where in it something stands.

Rule: a text is UTF-8 without byte order mark; what is not is refused with line and column.
"""

from __future__ import annotations

from dataclasses import dataclass

from stannary.errors import SpecError

_MARKS = {b"\xef\xbb\xbf": "UTF-8", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True, slots=True)
class Position:
    """A line and column, counted from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


def behind(before: str) -> Position:
    """Return the position right behind a text."""
    return Position(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


def decode(data: bytes, what: str) -> str:
    """Return the text of `what` (`the job file`).

    Raises:
        SpecError: it breaks the rule.
    """
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            raise SpecError(
                f"{what} begins with a byte order mark",
                why=f"{Position(1, 1)}: it is {encoding} as Windows programs write it",
                hint="save it as UTF-8 without byte order mark",
            )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as err:
        position = behind(data[: err.start].decode("utf-8"))
        raise SpecError(
            f"{what} is not UTF-8", why=f"{position}: byte {data[err.start]:#04x}", hint="save it as UTF-8"
        ) from err
