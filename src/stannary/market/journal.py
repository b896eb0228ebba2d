"""Statements on their way into the log: kept in the store first, logged, then known by index.

Rules:
- What is to be logged is written to the store in the very transaction that rests on it (the outbox,
  store/envelopes.py). A market killed before logging finds it there and appends the same bytes; the
  log knows a leaf it has, so nothing is logged twice and nothing acknowledged is lost.
- One batch is under way at a time; what arrives meanwhile goes together in the next.
- Orders alone are gathered for the log's interval (tlog/log.py INTERVAL_S): no buyer waits for their place in the log,
  and a commit of few leaves costs as much as one of many. Anything else, and whoever waits for a leaf, ends that.
- A log that cannot be written stops nothing for good: the batch is tried again until it can.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from stannary.errors import StannaryError
from stannary.formats import digest, dsse, statement
from stannary.formats.digest import Digest
from stannary.market.bell import Bell
from stannary.market.clock import Clock, now_ms
from stannary.market.identity import Identity
from stannary.market.topics import OUTBOX, logged_topic
from stannary.store import envelopes
from stannary.store.database import Store
from stannary.tlog.log import Log

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MAX_BATCH = 4096
RETRY_S = 0.5
IDLE_S = 30.0

log = logging.getLogger("stannary.market")


def leaf_of(envelope: dsse.Envelope) -> Digest:
    """Return an envelope's log leaf, spelled as a digest."""
    return digest.from_raw(envelope.leaf())


class Journal:
    """Signs the market's statements and brings everybody's into the log."""

    def __init__(self, identity: Identity, store: Store, tlog: Log, bell: Bell, clock: Clock) -> None:
        self._identity = identity
        self._store = store
        self._log = tlog
        self._bell = bell
        self._clock = clock
        self._waiting: dict[str, list[asyncio.Future[int]]] = {}
        self._writing = asyncio.Lock()

    def sign(
        self, kind: str, predicate: DataclassInstance, subjects: tuple[statement.Subject, ...] = ()
    ) -> dsse.Envelope:
        """Sign a statement as the market."""
        return statement.sign(kind, predicate, subjects, self._identity.key)

    def incoming(self, envelope: dsse.Envelope, kind: str, job: str | None = None) -> envelopes.Incoming:
        """Return the store's record of an envelope that is to be logged."""
        return envelopes.Incoming(leaf_of(envelope), kind, envelope.to_bytes(), now_ms(self._clock), job)

    def wake(self) -> None:
        """Tell the journal that the outbox holds something (after the transaction that put it there)."""
        self._bell.ring(OUTBOX)

    async def logged(self, leaf: str) -> int:
        """Wait until `leaf` is in the log under a published checkpoint; return its index."""
        known = self._log.index_of(digest.raw(Digest(leaf)))
        if known is not None:
            return known
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(leaf, []).append(future)
        self.wake()
        self._log.flush()
        return await future

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Let nothing into the log inside the block (a backup); what is posted meanwhile waits."""
        async with self._writing:
            yield

    async def drain(self) -> None:
        """Log all the outbox holds now; used at the start, before anything rests on it."""
        while kept := await self._store.aread(lambda c: envelopes.leaves_to_log(c, limit=MAX_BATCH)):
            await self._take(kept)

    async def run(self) -> None:
        """Log what the outbox holds, for ever."""
        while True:
            mark = self._bell.mark()
            try:
                kept = await self._store.aread(lambda c: envelopes.leaves_to_log(c, limit=MAX_BATCH))
                if kept:
                    await self._take(kept)
                    continue
            except StannaryError as err:
                log.warning("the log takes nothing: %s", err)
            except Exception:  # a process edge: without this loop nothing anybody hands in would ever be acknowledged
                log.exception("the log takes nothing")
            else:
                await self._bell.wait(mark, IDLE_S, OUTBOX)
                continue
            await self._clock.sleep(RETRY_S)

    async def _take(self, kept: list[envelopes.Unlogged]) -> None:
        async with self._writing:
            await self._append(kept)

    async def _append(self, kept: list[envelopes.Unlogged]) -> None:
        appended = self._log.append_many([digest.raw(Digest(item.leaf)) for item in kept])
        if self._waiting or any(item.kind != "job" for item in kept):
            self._log.flush()
        places = await asyncio.wrap_future(appended)
        indexes = dict(zip((item.seq for item in kept), places, strict=True))
        await self._store.awrite(lambda c: envelopes.set_indexes(c, indexes))
        self._tell({item.leaf: place for item, place in zip(kept, places, strict=True)})
        self._bell.ring(*{logged_topic(item.job) for item in kept if item.job is not None})

    def _tell(self, indexes: Mapping[str, int]) -> None:
        for leaf, index in indexes.items():
            for future in self._waiting.pop(leaf, ()):
                if not future.done():
                    future.set_result(index)
