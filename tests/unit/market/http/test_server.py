"""A market with a large database serves while its pages are checked, and ends if one is damaged."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from stannary.errors import EnvironmentProblem
from stannary.market.http import server

DAMAGED = EnvironmentProblem("the market's database is not the one that was", why="its pages are damaged")


class Serving:
    """A server that serves until it is told to end, and a store whose check of pages is under way."""

    def __init__(self) -> None:
        self.checked: Future[None] = Future()
        self.checked.set_running_or_notify_cancel()
        self.server: Any = SimpleNamespace(should_exit=False)
        self.store: Any = SimpleNamespace(check_pages=lambda: self.checked)

    async def serve(self) -> None:
        """Serve as uvicorn does: its flag is looked at now and then."""
        while not self.server.should_exit:
            await asyncio.sleep(0)

    def begin(self) -> asyncio.Task[None]:
        """Begin to serve."""
        return asyncio.create_task(server._while_sound(self.store, self.server, asyncio.create_task(self.serve())))


def test_a_damaged_page_ends_the_market(caplog: pytest.LogCaptureFixture) -> None:
    """The operator reads in the log that the check began and what it found; the process ends with that error."""

    async def scenario() -> bool:
        market = Serving()
        running = market.begin()
        await asyncio.sleep(0)
        assert not running.done()
        market.checked.set_exception(DAMAGED)
        with pytest.raises(EnvironmentProblem, match="not the one that was"):
            await running
        return bool(market.server.should_exit)

    with caplog.at_level(logging.WARNING, "stannary.market"):
        assert asyncio.run(scenario())
    begun, ended = caplog.records
    assert "checked while the market serves" in begun.getMessage()
    assert ended.levelno == logging.CRITICAL
    assert "pages are damaged" in ended.getMessage()


@pytest.mark.parametrize("is_checked", [True, False])
def test_a_sound_market_serves_until_it_is_stopped(is_checked: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Whole pages end nothing, and a stop waits for no check."""

    async def scenario() -> None:
        market = Serving()
        running = market.begin()
        if is_checked:
            market.checked.set_result(None)
            while "are whole" not in caplog.text:
                await asyncio.sleep(0)
            assert not running.done()
        market.server.should_exit = True
        await running

    with caplog.at_level(logging.WARNING, "stannary.market"):
        asyncio.run(asyncio.wait_for(scenario(), 30))
    assert ("are whole" in caplog.text) == is_checked
