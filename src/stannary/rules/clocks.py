"""How far clocks may lie apart: what a verifier refutes of a signed time, the market refuses at its door.

Rules (docs/receipt.md R12.12, R12.13):
1. A node's time is its own word. It is held between two moments of the log: at most CLOCK_SKEW_S after the later one,
   at most MAX_LAG_S before the earlier one.
2. A credential is good for work from MAX_LAG_S before it was issued (that it was logged before the work is shown by
   the log, not by clocks) until CLOCK_SKEW_S after its end.
"""

from __future__ import annotations

CLOCK_SKEW_S = 300  # between a node's clock and a witness's; both are asked to run NTP
MAX_LAG_S = 24 * 3600  # between the work's end and the log: a node that was cut off hands in late, not years late


def off_s(at: int, *, earliest: int | None, latest: int | None) -> int:
    """Return how many seconds a node's time is off the log's: above 0 ahead, below 0 behind, 0 if it fits (rule 1).

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
    """Return whether a credential was good for work at a time (rule 2)."""
    return issued_at - MAX_LAG_S <= at <= expires_at + CLOCK_SKEW_S
