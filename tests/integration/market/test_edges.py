"""What nobody foresaw, at each edge of the market's loops: it is told in the log, once, and the loop goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import command_spec
from tests.integration.market.world import World

from stannary.market import clearing
from stannary.market.engine import aborting, applying, loop
from stannary.market.engine.loop import Engines
from stannary.market.exchange import Exchange
from stannary.wire.buyer import JobView


class Unforeseen(Exception):
    """No error of ours, nor of the machine's."""


def failing_once(work: Callable[..., Any]) -> Callable[..., Any]:
    """Return `work`, which fails the first time."""
    calls = 0

    def wrapped(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Unforeseen
        return work(*args, **more)

    return wrapped


def told(caplog: pytest.LogCaptureFixture, what: str) -> int:
    """Return how often the log tells of the unforeseen in these words, with its trace."""
    found = [item for item in caplog.records if what in item.getMessage() and item.exc_info]
    return sum(item.exc_info is not None and item.exc_info[0] is Unforeseen for item in found)


async def one_job(world: World) -> JobView:
    """Let a buyer have a job done."""
    for operator in ("north", "south"):
        await world.node(operator)
    ada = await world.buyer()
    job = (await ada.submit(command_spec())).id
    world.start(ada.broker(job))
    return await ada.finished(job)


@pytest.mark.parametrize(
    ("part", "work", "words"),
    [
        (lambda exchange, engines: engines, "_expire", "deadlines wait"),
        (lambda exchange, engines: engines, "_begin", "the queue waits"),
        (lambda exchange, engines: engines, "_step", "stands still"),
        (lambda exchange, engines: exchange.journal, "_append", "the log takes nothing"),
    ],
)
def test_a_loop_survives_what_nobody_foresaw(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, part: Callable[..., Any], work: str, words: str
) -> None:
    """Deadlines, queue, a job's steps and the log: one unforeseen failure is logged, and the job ends well."""

    async def scenario() -> JobView:
        async with worlds.inside(tmp_path, witness=False) as world:
            owner = part(*world.inside)
            setattr(owner, work, failing_once(getattr(owner, work)))
            return await one_job(world)

    with caplog.at_level(logging.ERROR, "stannary.market"):
        view = asyncio.run(scenario())
    assert (view.status, view.verdict) == ("succeeded", "verified")
    assert told(caplog, words) == 1


def test_an_end_that_fails_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job the market can neither step nor, at first, end is refunded all the same."""

    def never(*_: Any) -> Any:
        raise Unforeseen

    async def scenario() -> JobView:
        async with worlds.inside(tmp_path, witness=False) as world:
            monkeypatch.setattr(applying, "apply", never)
            monkeypatch.setattr(aborting, "abort", failing_once(aborting.abort))
            return await one_job(world)

    with caplog.at_level(logging.ERROR, "stannary.market"):
        view = asyncio.run(scenario())
    assert (view.reason, view.settlement) == ("market-fault", "refunded")
    assert view.refunded_usd_micros == view.escrow_usd_micros > 0
    assert told(caplog, "cannot be ended") == 1
    assert told(caplog, "stands still") == loop.MAX_FAULTS + 1


def test_the_keeper_of_blobs_survives_what_nobody_foresaw(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that cannot be cleared is logged, and the next hour's is cleared."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise asyncio.CancelledError

    async def clear(*_: Any) -> int:
        cleared.append(len(slept))
        return 0

    cleared: list[int] = []
    monkeypatch.setattr(clearing, "release", mock.AsyncMock())
    monkeypatch.setattr(clearing, "clear_readers", clear)
    monkeypatch.setattr(clearing, "clear", failing_once(clear))  # as a bug of ours would
    exchange = cast("Exchange", SimpleNamespace(clock=SimpleNamespace(sleep=sleep)))
    with caplog.at_level(logging.ERROR, "stannary.market"), pytest.raises(asyncio.CancelledError):
        asyncio.run(clearing.keep(exchange, cast("Engines", None)))
    assert told(caplog, "unclaimed blobs stay for now") == 1
    assert (cleared, slept) == ([1, 1, 2, 2], [clearing.INTERVAL_S] * 3)
