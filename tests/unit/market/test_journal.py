"""The journal: what of the outbox is logged at once, and what may be gathered first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import pytest
from tests.unit.store import world

from stannary.formats import digest
from stannary.formats.digest import Digest
from stannary.market.bell import Bell
from stannary.market.clock import SystemClock
from stannary.market.identity import Identity
from stannary.market.journal import Journal
from stannary.store import envelopes, jobs
from stannary.store.database import Store
from stannary.tlog.log import Log

ORDER, COMMITMENT = (str(digest.digest(text)) for text in (b"order", b"commitment"))


class FakeLog:
    """A log that gathers until it is asked to hurry, for ever if need be."""

    def __init__(self) -> None:
        self.leaves: list[str] = []
        self.num_flushes = 0
        self.gathered: list[tuple[Future[list[int]], list[int]]] = []

    def index_of(self, leaf: bytes) -> None:
        """Know no leaf."""

    def append_many(self, leaves: Sequence[bytes]) -> Future[list[int]]:
        """Gather leaves."""
        first, future = len(self.leaves), Future[list[int]]()
        self.leaves += [str(digest.from_raw(leaf)) for leaf in leaves]
        self.gathered.append((future, list(range(first, len(self.leaves)))))
        return future

    def flush(self) -> None:
        """Commit what was gathered."""
        self.num_flushes += 1
        self.commit()

    def commit(self) -> None:
        """Answer for what was gathered."""
        while self.gathered:
            future, places = self.gathered.pop()
            future.set_result(places)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """A store with one order in its outbox."""
    with Store.open(tmp_path / "market.db") as opened:
        opened.write(world.fund).result(30)
        opened.write(lambda c: jobs.submit(c, [world.submission(leaf=ORDER)])).result(30)
        yield opened


def journal(store: Store, log: FakeLog) -> Journal:
    """Return a journal that signs nothing."""
    clock = SystemClock()
    return Journal(cast("Identity", None), store, cast("Log", log), Bell(clock), clock)


async def until(log: FakeLog, num_leaves: int) -> None:
    """Wait until the log was given so many leaves."""
    async with asyncio.timeout(30):
        while len(log.leaves) < num_leaves:
            await asyncio.sleep(0.001)


def test_orders_alone_hurry_nobody(store: Store) -> None:
    """They are given to the log, which takes its time with them; then they have their place."""

    async def main() -> None:
        log = FakeLog()
        working = asyncio.create_task(journal(store, log).run())
        await until(log, 1)
        assert (log.leaves, log.num_flushes) == ([ORDER], 0)
        log.commit()
        async with asyncio.timeout(30):
            while await store.aread(envelopes.leaves_to_log):
                await asyncio.sleep(0.001)
        working.cancel()

    asyncio.run(main())


def test_whoever_waits_for_a_leaf_waits_for_no_order(store: Store) -> None:
    """A statement somebody waits for cuts the gathering of orders short."""

    async def main() -> None:
        log = FakeLog()
        keeper = journal(store, log)
        working = asyncio.create_task(keeper.run())
        await until(log, 1)
        kept = envelopes.Incoming(COMMITMENT, "commitment", b"{}", 0, world.JOB)
        await store.awrite(lambda c: envelopes.add(c, kept))
        async with asyncio.timeout(30):
            assert await keeper.logged(Digest(COMMITMENT)) == 1
        assert log.leaves == [ORDER, COMMITMENT]
        working.cancel()

    asyncio.run(main())


def test_statements_beside_orders_are_logged_at_once(store: Store) -> None:
    """Where one of a batch is no order, the log is asked to hurry, whether anybody waits or not."""

    async def main() -> None:
        kept = envelopes.Incoming(COMMITMENT, "commitment", b"{}", 0, world.JOB)
        await store.awrite(lambda c: envelopes.add(c, kept))
        log = FakeLog()
        async with asyncio.timeout(30):
            await journal(store, log).drain()
        assert (log.leaves, log.num_flushes) == ([ORDER, COMMITMENT], 1)

    asyncio.run(main())
