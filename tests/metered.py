"""A whole chain of meter readings, checked link by link as the market checks it."""

from __future__ import annotations

from collections.abc import Sequence

from stannary.formats.predicates import Reading, Spent
from stannary.settle.meter import NOTHING, check_next


def check_chain(readings: Sequence[Reading], *, elapsed_ms: int) -> Spent:
    """Return what the last reading says; nothing spent if there is none. Raises Refuted where a link does not hold."""
    last: Reading | None = None
    for reading in readings:
        check_next(last, reading, elapsed_ms=elapsed_ms)
        last = reading
    return NOTHING if last is None else last.spent
