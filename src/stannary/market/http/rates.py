"""How much each party may ask for: a bucket a token's owner, one an address for strangers.

Rules:
- A request costs one unit, and one more for each UNIT_BYTES of a large body: what is dear to read is soon paid for.
- A bucket holds BURST_S seconds of its rate. A token's owner who finds it empty is told to come back (429), before
  anything is read.
- Strangers of one address wait their turn instead (`turn`): refused, whoever shares an attacker's address (a NAT, this
  machine) would be refused with him. A connection asks one thing at a time, so nobody waits for long.
- A large body is parsed in a thread, one at a time (LARGE_BYTES): the loop that moves money never waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from stannary.errors import ServiceError
from stannary.wire import errors as wire_errors

PARTY_RATE = 4_000.0  # units a second: above what one client can send (docs/performance.md)
STRANGER_RATE = 200.0  # a mirror that reads the log's tiles is below it
BURST_S = 10.0
UNIT_BYTES = 1024
FREE_BYTES = 64 * 1024  # of a body: an order of usual size costs as little as any request
LARGE_BYTES = 256 * 1024
MAX_BUCKETS = 50_000


@dataclass(slots=True)
class _Queue:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # wakes who waits in the order of arrival
    num_users: int = 0  # with the last of them it is forgotten


class Rates:
    """The buckets of one market."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._queues: dict[str, _Queue] = {}
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name -> units left, when
        self.large = asyncio.Lock()

    def charge(self, name: str, units: float, rate: float) -> None:
        """Take units out of a bucket.

        Raises:
            ServiceError: it is empty (detail `rate`); nothing was taken.
        """
        if self._take(name, units, rate) <= 0:
            raise ServiceError(
                "too many requests", why=f"more than {rate:,.0f} units a second", hint="send it again in a few seconds",
                detail=wire_errors.RATE,
            )  # fmt: skip

    async def turn(self, name: str, rate: float, is_waiting: Callable[[], bool]) -> None:
        """Take one unit out of a bucket, when those who came before have theirs; who went away meanwhile takes none."""
        queue = self._queues.setdefault(name, _Queue())
        queue.num_users += 1
        try:
            async with queue.lock:
                while is_waiting() and self._take(name, 1, rate) <= 0:
                    await self._sleep(1 / rate)
        finally:
            queue.num_users -= 1
            if not queue.num_users:
                del self._queues[name]

    def _take(self, name: str, units: float, rate: float) -> float:
        """Take units out of a bucket if it is not empty; return what it held."""
        now, burst = self._clock(), rate * BURST_S
        left, at = self._left.pop(name, (burst, now))
        left = min(burst, left + (now - at) * rate)
        # what is left may be overdrawn once: a body larger than a burst is possible, not often
        self._left[name] = (left if left <= 0 else left - units, now)
        if len(self._left) > MAX_BUCKETS:
            self._left.popitem(last=False)
        return left


def body_units(size_bytes: int) -> float:
    """Return what a body costs beside its request."""
    return max(0, size_bytes - FREE_BYTES) / UNIT_BYTES
