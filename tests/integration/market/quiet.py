"""A clock that stands still while anything is under way, so that load makes nobody in a test late.

A market, its nodes and its buyers share one event loop here. What takes time on a loaded machine is the loop's own
work, and the threads that read, write and log for it. This clock moves on to the next sleeper only when all of that
rests: deadlines are then met or missed by what the parties do, never by how fast the machine does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from stannary.market.exchange import Exchange

SETTLED_TURNS = 3  # of the loop with nothing to do
LOOK_S = 0.0005  # how often the threads are looked at while they work: real time, which nobody's deadline counts


class QuietClock:
    """Seconds that pass only while nothing is under way (a `market.clock.Clock`)."""

    def __init__(self) -> None:
        self._now = float(int(time.time()))
        self.ahead_s = 0.0  # of what really passed: somebody set the machine's clock
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._under_way = 0

    def now(self) -> float:
        """Return seconds since 1970 UTC; at the start the machine's own."""
        return self._now + self.ahead_s

    def steady(self) -> float:
        """Return the same: nobody sets this clock."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Return `seconds` later, by this clock."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + max(seconds, 0.0), next(self._order), waiter))
        await waiter

    @asynccontextmanager
    async def ticking(self) -> AsyncIterator[None]:
        """Let time pass inside the block, while this loop's threads rest."""
        loop: Any = asyncio.get_running_loop()
        loop.run_in_executor = self._counted(loop.run_in_executor)
        ticker = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticker
            del loop.run_in_executor

    def watch(self, exchange: Exchange) -> None:
        """Stand still while a market's store writes and its log is written."""
        store, journal = exchange.store, exchange.journal
        store.awrite = self._counted(store.awrite)  # type: ignore[method-assign]  # looked on from outside
        store.awrite_bulk = self._counted(store.awrite_bulk)  # type: ignore[method-assign]  # as above
        journal._take = self._counted(journal._take)  # type: ignore[method-assign]  # as above

    def _counted(self, start: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        """Return `start`, under way until whoever awaits it has been woken."""

        async def count(*args: Any, **more: Any) -> Any:
            self._under_way += 1
            try:
                return await start(*args, **more)
            finally:
                self._under_way -= 1

        return count

    async def _tick(self) -> None:
        while True:
            await self._rest()
            while self._sleepers and self._sleepers[0][2].done():  # gave up waiting: no reason to move on
                heapq.heappop(self._sleepers)
            if not self._sleepers:
                await asyncio.sleep(LOOK_S)
                continue
            self._now = max(self._now, self._sleepers[0][0])
            while self._sleepers and self._sleepers[0][0] <= self._now:
                waiter = heapq.heappop(self._sleepers)[2]
                if not waiter.done():
                    waiter.set_result(None)

    async def _rest(self) -> None:
        """Return when neither the loop nor a thread has anything to do."""
        loop: Any = asyncio.get_running_loop()
        turns = 0
        while turns < SETTLED_TURNS:
            await asyncio.sleep(0)
            if self._under_way:
                turns = 0
                await asyncio.sleep(LOOK_S)
            elif loop._ready:  # asyncio offers no other look at what is about to run
                turns = 0
            else:
                turns += 1
