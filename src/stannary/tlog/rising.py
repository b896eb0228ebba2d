"""A clock that never runs back, whatever is done to the machine's.

Rules:
1. What it has said once it never falls below: a log whose times fall refutes honest receipts (verify/receipt.py).
2. After a step back of the machine's clock it goes on by what really passed, CATCH_UP of it left out, until the
   machine's clock has caught up: deadlines are stretched a little, and ten times the step later both agree again. A
   step forward is followed at once: a machine that slept must not live in the past.
3. It begins no earlier than its floor: what was said before a restart (who keeps it: market/clock.py, the witness).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

CATCH_UP = 0.1
MAX_PASSED_S = 60.0  # between two looks at a clock that nothing steady stands beside: more is a step


class Rising:
    """Seconds since 1970 UTC, from another clock; safe to use from several threads."""

    def __init__(
        self, read_s: Callable[[], float], floor_s: float = 0.0, steady_s: Callable[[], float] | None = None
    ) -> None:
        """Begin.

        Args:
            read_s: the machine's clock, which may be set.
            floor_s: what was said before.
            steady_s: a clock of the same machine that nobody can set, if there is one.
        """
        self._read_s = read_s
        self._steady_s = steady_s
        self._lock = threading.Lock()
        self._wall_s = read_s()
        self._since_s = steady_s() if steady_s is not None else 0.0
        self._last_s = max(floor_s, self._wall_s)

    @property
    def lead_s(self) -> float:
        """Return how far it was ahead of the machine's clock when last asked."""
        return max(0.0, self._last_s - self._wall_s)

    def now(self) -> float:
        """Return the time, never less than before."""
        with self._lock:
            wall_s = self._read_s()
            passed_s = self._passed_s(wall_s)
            going_on_s = self._last_s + passed_s * (1 - CATCH_UP)
            self._wall_s, self._last_s = wall_s, max(wall_s, going_on_s)
            return self._last_s

    def lift(self, floor_s: float) -> None:
        """Begin no earlier than `floor_s` from now on (rule 3)."""
        self.now()
        with self._lock:
            self._last_s = max(self._last_s, floor_s)

    def _passed_s(self, wall_s: float) -> float:
        if self._steady_s is None:
            return min(max(0.0, wall_s - self._wall_s), MAX_PASSED_S)
        before_s, self._since_s = self._since_s, self._steady_s()
        return max(0.0, self._since_s - before_s)


def since_boot_s() -> float:
    """Return seconds since this machine was started, its sleep included: nobody can set it."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))  # macOS has no other
