"""Wake-ups: who waits for news of a topic is called the moment it rings.

Rules:
- A waiter takes a `mark` *before* it looks at the state, and waits for anything rung after that mark:
  news between the look and the wait is never missed.
- A ring carries nothing. Whoever wakes looks at the state again, so lost or doubled rings are harmless
  (level-triggered): after a crash everybody simply looks once.
- One event loop only; threads hand their rings to it.
"""

from __future__ import annotations

import asyncio

from stannary.market.clock import Clock

MAX_QUIET_TOPICS = 100_000  # marks of topics nobody waits for; older ones are forgotten, which only wakes too often


class Bell:
    """All topics of one market (topics.py)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._count = 0
        self._floor = 0
        self._rung: dict[str, int] = {}
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    def mark(self) -> int:
        """Return the moment to wait from."""
        return self._count

    def ring(self, *topics: str) -> None:
        """Wake everybody who waits for one of `topics`."""
        for topic in topics:
            self._count += 1
            self._rung.pop(topic, None)
            self._rung[topic] = self._count
            for waiter in self._waiting.pop(topic, ()):
                if not waiter.done():
                    waiter.set_result(None)
        if len(self._rung) > MAX_QUIET_TOPICS:
            self._forget()

    async def wait(self, mark: int, timeout_s: float, *topics: str) -> bool:
        """Wait until one of `topics` rings after `mark`; False after `timeout_s`."""
        if any(self._rung.get(topic, self._floor) > mark for topic in topics):
            return True
        if timeout_s <= 0:
            return False
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sleeper = asyncio.ensure_future(self._clock.sleep(timeout_s))
        for topic in topics:
            self._waiting.setdefault(topic, set()).add(waiter)
        try:
            await asyncio.wait({waiter, sleeper}, return_when=asyncio.FIRST_COMPLETED)
            return waiter.done()
        finally:
            sleeper.cancel()
            waiter.cancel()
            for topic in topics:
                others = self._waiting.get(topic)
                if others is not None:
                    others.discard(waiter)
                    if not others:
                        del self._waiting[topic]

    def _forget(self) -> None:
        for topic in list(self._rung)[: MAX_QUIET_TOPICS // 2]:
            self._floor = max(self._floor, self._rung.pop(topic))
