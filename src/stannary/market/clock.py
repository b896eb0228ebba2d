"""The market's only sense of time: injected, so that a whole market runs under a virtual clock."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from stannary.errors import FormatError
from stannary.formats import instants
from stannary.wire import errors as wire_errors


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


def check_signed_now(signed_at: str, now: float) -> None:
    """Refuse what was not signed now: a join, an order.

    Raises:
        FormatError: naming the seconds between the two clocks.
    """
    off_s = instants.parse(signed_at) - int(now)
    if abs(off_s) > instants.CLOCK_SKEW_S:
        raise _off(signed_at, now, off_s, f"at most {instants.CLOCK_SKEW_S} s apart")


def check_signed_since(signed_at: str, now: float) -> None:
    """Refuse a time of finished work that a verifier would refute (formats/instants.py rule 3).

    Raises:
        FormatError: naming the seconds between the two clocks.
    """
    off_s = instants.off_s(instants.parse(signed_at), earliest=int(now), latest=int(now))
    if off_s:
        allowed = f"at most {instants.CLOCK_SKEW_S} s ahead, {instants.MAX_LAG_S:,} s behind"
        raise _off(signed_at, now, off_s, allowed)


def _off(signed_at: str, now: float, off_s: int, allowed: str) -> FormatError:
    return FormatError(
        f"your clock is {instants.words(off_s)} the market's",
        why=f"signed at {signed_at}, received at {instants.spell(now)}; {allowed}",
        hint="set this machine's clock: timedatectl set-ntp true",
        detail=wire_errors.CLOCK,
    )


def now_ms(clock: Clock) -> int:
    """Return milliseconds since 1970 UTC, as the store keeps them."""
    return int(clock.now() * 1000)
