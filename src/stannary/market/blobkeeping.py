"""Blobs nobody claims: bounded while they wait, deleted after a time of grace.

Rules:
- A blob is claimed by a job that is placed or was handed it, by an open job whose order names it, and by the job whose
  receipt it is. Claimed blobs are never deleted here.
- What a node stored and no contribution claims goes after a day, what a buyer stored for no job after a week. Stored
  again, its time begins anew.
- What is about to be deleted is doomed first: orders that name it are told that it is missing, uploads of it to come
  again; DOOM_S later, when everybody who looked before has ended, what is still unclaimed is deleted. What is being
  uploaded is not doomed.
- Each party's unclaimed blobs are bounded in bytes and in number, those on their way included: side by side they
  would each see the same room left.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.engine import Connection

from stannary.errors import LimitExceeded, ServiceError, StannaryError
from stannary.formats.digest import Digest
from stannary.market.engine.leasing import manifest_digests
from stannary.store import blobs
from stannary.wire import errors as wire_errors
from stannary.wire import limits

if TYPE_CHECKING:
    from stannary.market.engine.loop import Engines
    from stannary.market.exchange import Exchange

DAY_S = 86_400.0
NODE_GRACE_S = DAY_S
BUYER_GRACE_S = 7 * DAY_S
DOOM_S = 120.0  # longer than a submit lasts
INTERVAL_S = 3600.0
BATCH = 1000  # blobs of one look
FRESH_S = 60.0  # how long what a party has used is taken from memory

log = logging.getLogger("stannary.market")


@dataclass(slots=True)
class _Used:
    """What a party has stored that nothing claims."""

    num_bytes: int
    num_blobs: int
    read_at: float  # on the steady clock


class Blobkeeping:
    """What is being uploaded, what is about to go, and what each party may still store."""

    def __init__(self) -> None:
        self.uploading: Counter[str] = Counter()
        self._arriving: dict[str, list[int]] = {}  # by owner: what each upload under way may become
        self.doomed: frozenset[str] = frozenset()
        self._used: dict[str, _Used] = {}
        self._num_stored: Counter[str] = Counter()  # by owner, since the start

    def begin(self, name: Digest) -> None:
        """Note that a blob is being uploaded; `end` must follow.

        Raises:
            ServiceError: it is being deleted; it can be sent again in a moment.
        """
        if name in self.doomed:
            raise ServiceError("this blob is being cleared away", why=name, hint="send it again in two minutes")
        self.uploading[name] += 1

    def end(self, name: Digest) -> None:
        """Note the end of an upload, good or bad."""
        self.uploading[name] -= 1
        if self.uploading[name] <= 0:
            del self.uploading[name]

    @asynccontextmanager
    async def room(
        self, exchange: Exchange, owner: str, quota: tuple[int, int], announced: int | None
    ) -> AsyncIterator[int]:
        """Hold room for one upload while it lasts; give its bytes. Claims of stored blobs make room at once.

        Args:
            exchange: the market.
            owner: `node:<id>` or `buyer:<id>`.
            quota: bytes and number of blobs that may wait unclaimed.
            announced: how long the upload says it is; where it does not, MAX_UNANNOUNCED_BYTES or what is left is held.

        Raises:
            LimitExceeded: no more blobs, or none so large (detail `quota`).
        """
        used = await self._look(exchange, owner, quota)
        arriving = self._arriving.setdefault(owner, [])
        num_blobs, left_bytes = used.num_blobs + len(arriving), quota[0] - used.num_bytes - sum(arriving)
        if num_blobs >= quota[1]:
            raise _over(
                "too many blobs of this party wait for a use",
                f"{num_blobs:,} that no job claims, limit {quota[1]:,}",
            )
        held = min(left_bytes, limits.MAX_UNANNOUNCED_BYTES) if announced is None else announced
        if held > left_bytes or left_bytes < 0:
            raise _over(
                "the quota of stored bytes that no job claims is used up", f"{max(left_bytes, 0):,} bytes were left"
            )
        arriving.append(held)
        try:
            yield held
        finally:
            arriving.remove(held)
            if not arriving:
                self._arriving.pop(owner, None)

    async def _look(self, exchange: Exchange, owner: str, quota: tuple[int, int]) -> _Used:
        used = self._used.get(owner)
        steady_s = exchange.clock.steady()
        if used is None or steady_s - used.read_at > FRESH_S or self._is_near(used, quota):
            since_ms = exchange.clock.ago_ms(NODE_GRACE_S if owner.startswith("node:") else BUYER_GRACE_S)
            before = -1
            while before != self._num_stored[owner]:  # what was stored while the store was read may be missing in it
                before = self._num_stored[owner]
                found = await exchange.store.aread(lambda c: blobs.unclaimed(c, owner, since_ms=since_ms))
            used = self._used[owner] = _Used(*found, steady_s)
        return used

    def stored(self, owner: str, size_bytes: int) -> None:
        """Count what a party has just stored."""
        self._num_stored[owner] += 1
        used = self._used.get(owner)
        if used is not None:
            used.num_bytes += size_bytes
            used.num_blobs += 1

    @staticmethod
    def _is_near(used: _Used, quota: tuple[int, int]) -> bool:
        """Tell whether so little is left that what is remembered will not do."""
        return 2 * used.num_bytes > quota[0] or 2 * used.num_blobs > quota[1]

    async def keep(self, exchange: Exchange, engines: Engines) -> None:
        """Clear away for ever."""
        while True:
            try:
                while await self.clear(exchange, engines) == BATCH:
                    continue
            except StannaryError as err:
                log.warning("unclaimed blobs stay for now: %s", err)
            except Exception:  # a process edge: one batch that cannot go must not keep all later ones
                log.exception("unclaimed blobs stay for now")
            await exchange.clock.sleep(INTERVAL_S)

    async def clear(self, exchange: Exchange, engines: Engines) -> int:
        """Doom a batch of what nobody claims, wait, and delete what still is unclaimed; return how many were doomed."""
        grace = exchange.clock.ago_ms(NODE_GRACE_S), exchange.clock.ago_ms(BUYER_GRACE_S)

        def unclaimed(connection: Connection) -> list[str]:
            return blobs.collectable(connection, node_before_ms=grace[0], buyer_before_ms=grace[1])

        found = set(await exchange.store.aread(unclaimed)) - _named(engines)
        chosen = [name for name in sorted(found) if name not in self.uploading][:BATCH]
        if not chosen:
            return 0
        self.doomed = frozenset(chosen)
        try:
            exchange.buyer_blobs -= {pair for pair in exchange.buyer_blobs if pair[1] in self.doomed}
            await exchange.clock.sleep(DOOM_S)
            going = set(chosen) - _named(engines)
            gone = await exchange.store.awrite(lambda c: blobs.forget(c, sorted(going & set(unclaimed(c)))))
            for name in gone:
                exchange.blobs.remove(Digest(name))
        finally:
            self.doomed = frozenset()
        log.info("%d blobs nobody claims are cleared away", len(gone))
        return len(chosen)


def _over(what: str, why: str) -> LimitExceeded:
    hint = "use what is stored (a contribution, a job), or wait until it is cleared away"
    return LimitExceeded(what, why=why, hint=hint, detail=wire_errors.QUOTA)


def _named(engines: Engines) -> set[str]:
    return {name for frame in engines.frames.values() for name in manifest_digests(frame)}
