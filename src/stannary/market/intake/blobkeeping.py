"""Room for blobs nobody claims: bounded for each party while they wait to be used.

Rules:
- Each party's unclaimed blobs are bounded in bytes and in number, those on their way included: side by side they
  would each see the same room left.
- What is being uploaded is not cleared away, and what is about to be cleared away takes no upload (clearing.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from stannary.errors import LimitExceeded, ServiceError
from stannary.formats.digest import Digest
from stannary.market.clock import RisingClock
from stannary.store import blobs
from stannary.store.database import Store
from stannary.wire import errors as wire_errors
from stannary.wire import limits

DAY_S = 86_400.0
NODE_GRACE_S = DAY_S
BUYER_GRACE_S = 7 * DAY_S
FRESH_S = 60.0  # how long what a party has used is taken from memory


@dataclass(slots=True)
class _Used:
    """What a party has stored that nothing claims."""

    num_bytes: int
    num_blobs: int
    read_at: float  # on the steady clock


class Blobkeeping:
    """What is being uploaded, what is about to go, and what each party may still store."""

    def __init__(self, store: Store, clock: RisingClock) -> None:
        self._store = store
        self._clock = clock
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
    async def room(self, owner: str, quota: tuple[int, int], announced: int | None) -> AsyncIterator[int]:
        """Hold room for one upload while it lasts; give its bytes. Claims of stored blobs make room at once.

        Args:
            owner: `node:<id>` or `buyer:<id>`.
            quota: bytes and number of blobs that may wait unclaimed.
            announced: how long the upload says it is; where it does not, MAX_UNANNOUNCED_BYTES or what is left is held.

        Raises:
            LimitExceeded: no more blobs, or none so large (detail `quota`).
        """
        used = await self._look(owner, quota)
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

    async def _look(self, owner: str, quota: tuple[int, int]) -> _Used:
        used = self._used.get(owner)
        steady_s = self._clock.steady()
        if used is None or steady_s - used.read_at > FRESH_S or self._is_near(used, quota):
            since_ms = self._clock.ago_ms(NODE_GRACE_S if owner.startswith("node:") else BUYER_GRACE_S)
            before = -1
            while before != self._num_stored[owner]:  # what was stored while the store was read may be missing in it
                before = self._num_stored[owner]
                found = await self._store.aread(lambda c: blobs.unclaimed(c, owner, since_ms=since_ms))
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


def _over(what: str, why: str) -> LimitExceeded:
    hint = "use what is stored (a contribution, a job), or wait until it is cleared away"
    return LimitExceeded(what, why=why, hint=hint, detail=wire_errors.QUOTA)
