"""Which nodes' power is being measured, and when whose is due next; in memory (market/intake/grading.py)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from stannary.errors import ConflictError

AGAIN_S = 60.0  # an answer may be lost on the way; behind that a test begins anew
LEAST, MOST = 0.5, 1.5  # of the mean: when the next test comes nobody can know
_NONCE_BYTES = 32


@dataclass(frozen=True, slots=True)
class _Given:
    nonce: str
    at_s: float


@dataclass(slots=True)
class Gradings:
    """Tests under way, and when the next of each node is due, by a clock that nobody can set."""

    every_s: float  # mean time between two tests of a node; 0: none at all
    draw: Callable[[float, float], float] = field(default_factory=lambda: secrets.SystemRandom().uniform)
    _given: dict[str, _Given] = field(default_factory=dict)
    _due_s: dict[str, float] = field(default_factory=dict)

    def is_due(self, node: str, now_s: float, *, is_graded: bool) -> bool:
        """Tell whether a node is to be measured: it never was, its time has come, or a test is under way."""
        if self.every_s <= 0:
            return False
        if not is_graded or node in self._given:
            return True
        if node not in self._due_s:  # measured before this market's start
            self._due_s[node] = now_s + self.draw(0, MOST) * self.every_s
        return now_s >= self._due_s[node]

    def give(self, node: str, now_s: float) -> str:
        """Return the nonce of a node's test: the one it was given lately, or a new one, from now on."""
        known = self._given.get(node)
        if known is None or now_s - known.at_s >= AGAIN_S:
            known = self._given[node] = _Given(secrets.token_hex(_NONCE_BYTES), now_s)
        return known.nonce

    def take(self, node: str, nonce: str, now_s: float) -> int:
        """End a node's test; return how long it took, in milliseconds.

        Raises:
            ConflictError: no such test is under way.
        """
        known = self._given.get(node)
        if known is None or known.nonce != nonce:
            raise ConflictError("no such test of this node is under way", why=f"{nonce:.16}", hint="ask for another")
        del self._given[node]
        return max(int(1000 * (now_s - known.at_s)), 1)

    def done(self, node: str, now_s: float) -> None:
        """Draw when a node that was measured is to be measured again."""
        self._due_s[node] = now_s + self.draw(LEAST, MOST) * self.every_s
