"""The bell: no news between a look and a wait is missed, and forgetting only wakes too often."""

from __future__ import annotations

import asyncio

import pytest

from stannary.market import bell as bells
from stannary.market.bell import Bell


class Clock:
    """A clock whose sleepers wait until they are let go."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    def now(self) -> float:
        return 0.0

    def steady(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await self.over.wait()


def test_news_after_the_mark_is_not_missed() -> None:
    """What rang between mark and wait is returned at once; what rang before the mark is not news."""

    async def scenario() -> None:
        bell = Bell(Clock())
        bell.ring("job:a")
        mark = bell.mark()
        assert not await bell.wait(mark, 0, "job:a")
        bell.ring("job:a")
        assert await bell.wait(mark, 60, "job:b", "job:a")

    asyncio.run(scenario())


def test_a_ring_wakes_all_who_wait_for_it_and_nobody_else() -> None:
    """Both waiters of a topic wake; the waiter of another sleeps to its timeout."""

    async def scenario() -> None:
        clock = Clock()
        bell = Bell(clock)
        waits = [asyncio.create_task(bell.wait(bell.mark(), 60, topic)) for topic in ("a", "a", "b")]
        await asyncio.sleep(0)
        bell.ring("a")
        assert await waits[0] and await waits[1]
        assert not waits[2].done()
        clock.over.set()
        assert await waits[2] is False

    asyncio.run(scenario())


def test_forgotten_topics_wake_too_often_never_too_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """When there are too many quiet topics, a waiter on a forgotten one with an old mark wakes."""
    monkeypatch.setattr(bells, "MAX_QUIET_TOPICS", 10)

    async def scenario() -> None:
        bell = Bell(Clock())
        mark = bell.mark()
        for number in range(30):
            bell.ring(f"t{number}")
        assert await bell.wait(mark, 60, "t0")
        assert not await bell.wait(bell.mark(), 0, "t0", "t29")

    asyncio.run(scenario())
