"""Canaries of suspended nodes, decided: when one is due, what one is waiting for, when time restores a node. Pure.

Rules (what a canary is, and what it comes to: rules/canary.py):
1. A suspended node gets one at once: as soon as it is connected, takes work, has nothing in hand, and is of an engine
   class that can run the recipe. What it has in hand it finishes first. `MAX_OPEN` are out at a time, who was
   suspended first is served first.
2. Another follows where the node asks for it, and by itself where it was lost or handed it back: a minute after the
   first, and each time after twice as long, up to an hour. A node that fails costs the market its time, and no more.
3. Time restores only whom nobody has looked at (jobs/standing.py rule 3): of whose canaries none was failed or left
   unanswered. What nobody could compare, had no turn in time or could not be asked at all (`COMMANDS` classes have no
   library to train with), is no look. The ten minutes count while the node is connected and has room for a canary.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from stannary.formats.canonical import Json
from stannary.formats.predicates import CanaryOutcome
from stannary.jobs import standing
from stannary.rules.reasons import Reason
from stannary.rules.systems import COMMANDS

ANSWER_S = 180.0  # its answer, and then that of others: with the market's own time ten minutes hold all of it
COMPUTE_S = 120.0
MAX_OPEN = 16
AGAIN_MS = 60_000
MAX_DOUBLINGS = 6
AWAY = frozenset({Reason.NODE_LOST.value, Reason.RELEASED.value})  # it did not answer, for it was not there


class CanaryWord(StrEnum):
    """How a suspended node's canary stands, as its provider is told."""

    NONE = ""
    WAITING = "waiting"  # for the node to be there and have room, or for its turn
    ASKED = "asked"
    FAILED = "failed"
    UNANSWERED = "unanswered"
    UNCHECKED = "unchecked"
    IMPOSSIBLE = "impossible"  # it cannot run the recipe: time restores it


@dataclass(frozen=True, slots=True)
class CanaryRow:
    """One canary."""

    job: str
    task: str
    node: str
    nonce: str  # hex; a secret until it is decided
    asked_at_ms: int
    outcome: CanaryOutcome | None = None
    reason: str | None = None
    statement: str | None = None  # leaf
    lines: list[dict[str, Json]] | None = None
    decided_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SuspendedNode:
    """A suspended node, and what was asked of it since."""

    node: str
    since_ms: int
    canaries: tuple[CanaryRow, ...]  # oldest first
    has_room: bool  # it holds no piece of anything else


def can_run(engine_class: str) -> bool:
    """Tell whether nodes of a class have what the recipe needs."""
    return not engine_class.startswith(COMMANDS)


def is_due(held: SuspendedNode, now_ms: int, *, is_wanted: bool) -> bool:
    """Tell whether another canary is to be asked of a node that is there and has room (rules 1 and 2)."""
    if not held.canaries:
        return True
    last = held.canaries[-1]
    if last.decided_at_ms is None:
        return False
    rest_ms = AGAIN_MS << min(len(held.canaries) - 1, MAX_DOUBLINGS)
    is_away = last.outcome is CanaryOutcome.UNANSWERED and last.reason in AWAY
    return (is_wanted or is_away) and now_ms >= last.decided_at_ms + rest_ms


def is_looked_at(held: SuspendedNode) -> bool:
    """Tell whether time does not restore a node any more (rule 3)."""
    return any(item.outcome in (CanaryOutcome.FAILED, CanaryOutcome.UNANSWERED) for item in held.canaries)


def is_over(held: SuspendedNode, ready_since_ms: int, now_ms: int) -> bool:
    """Tell whether time restores a node that has been there, with room, since then (rule 3)."""
    return not is_looked_at(held) and now_ms >= max(held.since_ms, ready_since_ms) + standing.HOLD_MS


def word(held: SuspendedNode, engine_class: str) -> CanaryWord:
    """Return how a node's canary stands."""
    if not can_run(engine_class):
        return CanaryWord.IMPOSSIBLE
    if not held.canaries:
        return CanaryWord.WAITING
    outcome = held.canaries[-1].outcome
    if outcome is None:
        return CanaryWord.ASKED
    return CanaryWord(outcome.value) if outcome is not CanaryOutcome.PASSED else CanaryWord.NONE
