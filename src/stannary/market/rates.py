"""How much each party may ask for: a bucket a token's owner, one an address for strangers.

Rules:
- A request costs one unit, and one more for each UNIT_BYTES of a large body: what is dear to read is soon paid for.
- A bucket holds BURST_S seconds of its rate. Who finds it empty is told to come back (429), before anything is read.
- A large body is parsed in a thread, one at a time (LARGE_BYTES): the loop that moves money never waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from stannary.errors import ServiceError
from stannary.wire import errors as wire_errors

PARTY_RATE = 4_000.0  # units a second: above what one client can send (docs/performance.md)
STRANGER_RATE = 200.0  # a mirror that reads the log's tiles is below it
BURST_S = 10.0
UNIT_BYTES = 1024
FREE_BYTES = 64 * 1024  # of a body: an order of usual size costs as little as any request
LARGE_BYTES = 256 * 1024
MAX_BUCKETS = 50_000


class Rates:
    """The buckets of one market."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name -> units left, when
        self.large = asyncio.Lock()

    def charge(self, name: str, units: float, rate: float) -> None:
        """Take units out of a bucket.

        Raises:
            ServiceError: it is empty (detail `rate`); nothing was taken.
        """
        now, burst = self._clock(), rate * BURST_S
        left, at = self._left.pop(name, (burst, now))
        left = min(burst, left + (now - at) * rate)
        is_empty = left <= 0  # what is left may be overdrawn once: a body larger than a burst is possible, not often
        self._left[name] = (left if is_empty else left - units, now)
        if len(self._left) > MAX_BUCKETS:
            self._left.popitem(last=False)
        if is_empty:
            raise ServiceError(
                "too many requests", why=f"more than {rate:,.0f} units a second", hint="send it again in a few seconds",
                detail=wire_errors.RATE,
            )  # fmt: skip


def body_units(size_bytes: int) -> float:
    """Return what a body costs beside its request."""
    return max(0, size_bytes - FREE_BYTES) / UNIT_BYTES
