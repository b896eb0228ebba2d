"""A clock that never runs back, whatever is done to the machine's.

Rules:
1. What it has said once it never falls below: a log whose times fall refutes honest receipts (verify/receipt.py).
2. After a step back of the machine's clock it goes on by what really passed, CATCH_UP of it left out, until the
   machine's clock has caught up: deadlines are stretched a little, and ten times the step later both agree again. A
   step forward is followed at once: a machine that slept must not live in the past.
3. It begins no earlier than its floor: what was said before a restart (who keeps it: market/clock.py, the witness).
4. How far it leapt ahead of what really passed is remembered: who waits for something waits it out (`skipped_s`).
   What really passes is told by a clock that nobody can set, and that stands while the machine sleeps.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

CATCH_UP = 0.1
LEAP_S = 1.0  # between two looks; less is a clock that is slewed
MAX_LEAPS = 256  # remembered, the latest: nothing that is waited for is older


@dataclass(frozen=True, slots=True)
class Leap:
    """A stretch of a rising clock's time that never passed."""

    at_s: float
    length_s: float


class Rising:
    """Seconds since 1970 UTC, from another clock; safe to use from several threads."""

    def __init__(
        self, read_s: Callable[[], float], floor_s: float = 0.0, steady_s: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin.

        Args:
            read_s: the machine's clock, which may be set.
            floor_s: what was said before.
            steady_s: a clock of the same machine that nobody can set.
        """
        self._read_s = read_s
        self._steady_s = steady_s
        self._lock = threading.Lock()
        self._wall_s = read_s()
        self._since_s = steady_s()
        self._last_s = max(floor_s, self._wall_s)
        self._leaps: deque[Leap] = deque(maxlen=MAX_LEAPS)

    @property
    def lead_s(self) -> float:
        """Return how far it was ahead of the machine's clock when last asked."""
        return max(0.0, self._last_s - self._wall_s)

    def now(self) -> float:
        """Return the time, never less than before."""
        with self._lock:
            self._wall_s, since_s = self._read_s(), self._since_s
            self._since_s = self._steady_s()
            passed_s = max(0.0, self._since_s - since_s)
            going_on_s = self._last_s + passed_s * (1 - CATCH_UP)
            self._rise_to(max(self._wall_s, going_on_s), passed_s)
            return self._last_s

    @property
    def leaps(self) -> tuple[Leap, ...]:
        """Return its leaps so far, in order (rule 4)."""
        with self._lock:
            return tuple(self._leaps)

    def lift(self, floor_s: float) -> None:
        """Begin no earlier than `floor_s` from now on (rule 3)."""
        self.now()
        with self._lock:
            self._rise_to(max(self._last_s, floor_s), 0.0)

    def _rise_to(self, time_s: float, passed_s: float) -> None:
        leap = Leap(self._last_s + passed_s, time_s - self._last_s - passed_s)
        if leap.length_s > LEAP_S:
            self._leaps.append(leap)
        self._last_s = time_s


def skipped_s(leaps: Iterable[Leap], since_s: float, until_s: float) -> float:
    """Return how much of the time between two moments of a rising clock never passed."""
    shares = (min(until_s, leap.at_s + leap.length_s) - max(since_s, leap.at_s) for leap in leaps)
    return sum(max(0.0, share) for share in shares)
