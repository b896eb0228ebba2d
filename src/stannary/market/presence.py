"""Who is here: heartbeats in memory, and what silence makes of a node.

Rules:
- A beat costs no disk: only the transitions live -> suspect -> lost -> live are told to the caller.
- `left`: a node's last beat says that it was stopped. It counts as lost at once; its next beat brings it back.
- `suspect` (35 s): no new work. `lost` (120 s): its leases go to another node with the next epoch.
- After a restart whoever was here at the end counts as seen at the start: a market that was down must not punish
  nodes for its own silence. Whoever was gone before stays gone until its next beat: it would be drawn and waited for.
  Who was here is kept in a small file (`keep`), not in the database: it is a hint, and beats cost no transaction.
- `now` is a clock that nobody can set: a market whose clock is set forth must not lose its nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from stannary import files
from stannary.jobs.course.state import Timing


class Presence(StrEnum):
    """What the market thinks of a node's line."""

    LIVE = "live"
    SUSPECT = "suspect"
    LOST = "lost"
    LEFT = "left"  # it said so itself when it was stopped


@dataclass(slots=True)
class _Seen:
    at: float
    state: str
    told: Presence


class Roster:
    """Last beats of all nodes."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._seen: dict[str, _Seen] = {}
        self._drained: set[str] = set()  # by the market's operator
        self._names: dict[str, str] = {}  # of nodes that were heard from, as they call themselves
        self.version = 0  # grows whenever a presence or state changes: what was derived from them is old then

    def beat(self, node: str, state: str, now: float) -> Presence | None:
        """Record a sign of life; return the presence it comes back from, if it was away."""
        known = self._seen.get(node)
        before = known.told if known is not None else None
        if known is None or known.state != state or before is not Presence.LIVE:
            self.version += 1
        self._seen[node] = _Seen(now, state, Presence.LIVE)
        return before if before is not Presence.LIVE else None

    def touch(self, node: str, now: float) -> None:
        """Record a sign of life that says nothing of the node's state (a poll)."""
        seen = self._seen.get(node)
        self.beat(node, seen.state if seen is not None else "idle", now)

    def drain(self, node: str, *, draining: bool = True) -> None:
        """Give a node no new work, or some again, whatever it says of itself."""
        self.version += 1
        (self._drained.add if draining else self._drained.discard)(node)

    def assume(self, node: str, now: float, *, was_here: bool = True) -> None:
        """Count `node` as seen now, or as lost, unless it was seen already (restart)."""
        if node not in self._seen:
            self.version += 1
            seen_at, told = (now, Presence.LIVE) if was_here else (now - self._timing.lost_s, Presence.LOST)
            self._seen[node] = _Seen(seen_at, "idle", told)

    def here(self, now: float) -> list[str]:
        """Return every node that is neither lost nor has left."""
        return [node for node in self._seen if self.presence(node, now) in (Presence.LIVE, Presence.SUSPECT)]

    def call(self, node: str, name: str) -> None:
        """Note what a node calls itself."""
        self._names[node] = name

    def name(self, node: str) -> str:
        """Return what the node last called itself, empty before its first beat since the start."""
        return self._names.get(node, "")

    def nodes(self) -> list[str]:
        """Return every node heard from since the start."""
        return list(self._seen)

    def presence(self, node: str, now: float) -> Presence:
        """Return what `node` is at `now`; a node never seen is lost."""
        seen = self._seen.get(node)
        if seen is not None and seen.state == Presence.LEFT:
            return Presence.LEFT
        if seen is None or now - seen.at >= self._timing.lost_s:
            return Presence.LOST
        return Presence.SUSPECT if now - seen.at >= self._timing.suspect_s else Presence.LIVE

    def num_live(self, now: float) -> int:
        """Return how many nodes may get new work: heard from lately, not draining."""
        return sum(self.presence(node, now) is Presence.LIVE and self.state(node) != "draining" for node in self._seen)

    def is_given_up(self, node: str, now: float) -> bool:
        """Tell whether a node that was here is lost or has left: its work goes to others."""
        return node in self._seen and self.presence(node, now) in (Presence.LOST, Presence.LEFT)

    def state(self, node: str) -> str:
        """Return what the node last said of itself (idle, busy, draining); draining if the operator said so."""
        if node in self._drained:
            return "draining"
        seen = self._seen.get(node)
        return seen.state if seen is not None else "idle"

    def not_ready(self, node: str, now: float) -> str:
        """Return why `node` takes no work at `now`: its presence, or that it drains; empty if it does."""
        presence = self.presence(node, now)
        if presence is not Presence.LIVE:
            return presence.value
        return "draining" if self.state(node) == "draining" else ""

    def silent_s(self, node: str, now: float) -> float | None:
        """Return how long ago the node was last heard."""
        seen = self._seen.get(node)
        return now - seen.at if seen is not None else None

    def sweep(self, now: float) -> list[tuple[str, Presence]]:
        """Return every node whose presence got worse since the last sweep."""
        changed = []
        for node, seen in self._seen.items():
            current = self.presence(node, now)
            if current is not seen.told:
                seen.told = current
                self.version += 1
                changed.append((node, current))
        return changed


def keep(path: Path, nodes: Iterable[str]) -> None:
    """Write down who is here."""
    files.replace(path, "".join(f"{node}\n" for node in sorted(nodes)).encode())


def kept(path: Path) -> frozenset[str] | None:
    """Return who was here when the market was last up; None where nobody wrote it down."""
    try:
        return frozenset(path.read_text("utf-8").split())
    except (OSError, UnicodeDecodeError):
        return None
