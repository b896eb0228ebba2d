"""The market's only sense of time: injected, so that a whole market runs under a virtual clock."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Now, and waiting."""

    def now(self) -> float:
        """Return seconds since 1970 UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return `seconds` later."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Return seconds since 1970 UTC."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Return `seconds` later."""
        await asyncio.sleep(seconds)


def now_ms(clock: Clock) -> int:
    """Return milliseconds since 1970 UTC, as the store keeps them."""
    return int(clock.now() * 1000)
