"""The market's only sense of time: injected, so that a whole market runs under a virtual clock.

Rules:
1. `now` is what is signed and stored. It never runs back (tlog/rising.py): not when somebody sets the machine's clock,
   and not over a restart, since its last time is kept in the market's directory. What the log was cosigned at is a
   floor too (http/server.py lifts it).
2. What is waited for is measured by what really passed, here: a clock that is set forth, or a machine that slept, must
   make nobody late. What lives in memory (presence, progress, polls, a job that stands still) counts `steady`. What
   is stored (leases, reveals, tasks, blobs) counts `now` without its leaps: jobs/course/state.py World, `ago_ms`.
3. Dates stay dates: credentials, join tokens and sessions end when `now` says so, however it came there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Protocol

from stannary import files
from stannary.errors import EnvironmentProblem, FormatError
from stannary.formats import bounds, instants
from stannary.rules import clocks
from stannary.tlog.rising import CATCH_UP, Leap, Rising
from stannary.wire import errors as wire_errors

CLOCK_FILE = "clock"  # in the market's directory
KEEP_S = 5.0  # a kill loses so much of the floor; checkpoints made meanwhile bear their own time

log = logging.getLogger("stannary.market")


class Clock(Protocol):
    """Now, and waiting."""

    def now(self) -> float:
        """Return seconds since 1970 UTC."""
        ...

    def steady(self) -> float:
        """Return seconds since some moment, which nobody can set."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return `seconds` later."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Return seconds since 1970 UTC."""
        return time.time()

    def steady(self) -> float:
        """Return seconds that passed while this machine was awake."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return `seconds` later."""
        await asyncio.sleep(seconds)


class RisingClock:
    """Another clock, made to rise only; `keep` writes its time down."""

    def __init__(self, clock: Clock, file: Path) -> None:
        self._clock = clock
        self._file = file
        self._rising = Rising(clock.now, _kept(file), clock.steady)

    def now(self) -> float:
        """Return seconds since 1970 UTC, never less than before."""
        return self._rising.now()

    def steady(self) -> float:
        """Return seconds since some moment, by the clock behind."""
        return self._clock.steady()

    @property
    def leaps(self) -> tuple[Leap, ...]:
        """Return the stretches of `now` that never passed, of this run."""
        return self._rising.leaps

    def ago_ms(self, seconds: float) -> int:
        """Return the moment since which so many seconds have really passed, in milliseconds since 1970; 0 at least."""
        now_s = self.now()
        then_s, leaps = now_s - seconds, self.leaps
        for leap in reversed(leaps):  # each one crossed on the way back takes us further back
            if leap.at_s + leap.length_s > then_s:
                then_s -= leap.length_s
        return int(max(then_s, 0.0) * 1000)

    async def sleep(self, seconds: float) -> None:
        """Return `seconds` later, by the clock behind."""
        await self._clock.sleep(seconds)

    def lift(self, floor_s: float) -> None:
        """Begin no earlier than a time that was signed before."""
        self._rising.lift(floor_s)
        if self._rising.lead_s > clocks.CLOCK_SKEW_S:
            log.warning(
                "the market's time is %.0f s ahead of this machine's clock: it never runs back, and waits",
                self._rising.lead_s,
            )

    async def keep(self) -> None:
        """Write the time down every KEEP_S, for ever."""
        while True:
            try:
                await asyncio.to_thread(files.replace, self._file, f"{self.now():.3f}\n".encode())
            except EnvironmentProblem as err:
                log.warning("the market's time is not kept: %s", err)
            await self.sleep(KEEP_S)


def _kept(file: Path) -> float:
    """Return the time kept at a market's last run; what is no time is no floor."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return 0.0
    return float(text) if bounds.DECIMAL.fits(text) else 0.0


def check_signed_now(signed_at: str, now: float) -> None:
    """Refuse what was not signed now: a join, an order.

    Raises:
        FormatError: naming the seconds between the two clocks.
    """
    off_s = instants.parse(signed_at) - int(now)
    if abs(off_s) > clocks.CLOCK_SKEW_S:
        raise _off(signed_at, now, off_s, f"at most {clocks.CLOCK_SKEW_S} s apart")


def check_signed_since(signed_at: str, now: float) -> None:
    """Refuse a time of finished work that a verifier would refute (rules/clocks.py rule 1).

    Raises:
        FormatError: naming the seconds between the two clocks.
    """
    off_s = clocks.off_s(instants.parse(signed_at), earliest=int(now), latest=int(now))
    if off_s:
        allowed = f"at most {clocks.CLOCK_SKEW_S} s ahead, {clocks.MAX_LAG_S:,} s behind"
        raise _off(signed_at, now, off_s, allowed)


def _off(signed_at: str, now: float, off_s: int, allowed: str) -> FormatError:
    return FormatError(
        f"your clock is {instants.words(off_s)} the market's",
        why=f"signed at {signed_at}, received at {instants.spell(now)}; {allowed}",
        hint="set this machine's clock: timedatectl set-ntp true",
        detail=wire_errors.CLOCK,
    )


def most_passed_ms(since_ms: int, until_ms: int) -> int:
    """Return the most that may have passed between two moments, where the market's time was catching up."""
    return int((until_ms - since_ms) / (1 - CATCH_UP))


def now_ms(clock: Clock) -> int:
    """Return milliseconds since 1970 UTC, as the store keeps them."""
    return int(clock.now() * 1000)
