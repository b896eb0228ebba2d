"""Standing offers in memory, and what they answer: pricing a submit asks the store nothing.

Rules:
- The store's nodes are read again when `forget` says that one joined or went, and once in FRESH_S in
  any case: what a buyer is quoted may be that old. Placing reads them anew, in its own transaction.
- Presence comes from the roster at each change of it; equal requirements have one answer until then.
"""

from __future__ import annotations

import asyncio

from sqlalchemy.engine import Connection

from stannary.errors import NoCapacity
from stannary.formats.jobspec import JobSpec
from stannary.market.clock import Clock, now_ms
from stannary.market.engine import placing
from stannary.market.engine.frame import asked
from stannary.market.engine.placing import Estimate
from stannary.market.presence import Roster
from stannary.place import match
from stannary.place.offers import Offer
from stannary.rules.masks import Requirement
from stannary.store.database import Store

FRESH_S = 1.0
MAX_ANSWERS = 1024  # distinct requirements; buyers ask for a few


class OfferBook:
    """The offers of one market."""

    def __init__(self, store: Store, roster: Roster, clock: Clock) -> None:
        self._store = store
        self._roster = roster
        self._clock = clock
        self._reading = asyncio.Lock()
        self._asked = 0  # grows with `forget`
        self._read: tuple[float, int] | None = None  # when the nodes were read last, and what `_asked` was before
        self._standing: list[Offer] = []
        self._seen = -1  # version of the roster `_offers` was made for
        self._offers: list[Offer] = []
        self._answers: dict[Requirement, match.Match | NoCapacity] = {}

    def forget(self) -> None:
        """Read the nodes again at the next question (one joined, was revoked or drains)."""
        self._asked += 1

    async def estimate(self, spec: JobSpec) -> Estimate:
        """Match a spec and price its worst case.

        Raises:
            NoCapacity: no engine class can hold it.
        """
        await self.refresh()
        return placing.priced(self._matched(asked(spec)), spec)

    def fits(self, wanted: Requirement) -> bool:
        """Tell whether the offers of the last refresh hold a job of these masks."""
        try:
            self._matched(wanted)
        except NoCapacity:
            return False
        return True

    async def refresh(self) -> None:
        """Bring the offers up to date."""
        async with self._reading:  # who comes while the nodes are read must not be answered from before
            steady_s = self._clock.steady()
            if self._read is None or self._read[1] != self._asked or not 0 <= steady_s - self._read[0] < FRESH_S:
                asked = self._asked  # before the read: what is forgotten during it is read again

                def read(connection: Connection) -> list[Offer]:
                    return placing.standing_offers(connection, now_ms(self._clock), lambda _: "")

                self._standing = await self._store.aread(read)
                self._read, self._seen = (steady_s, asked), -1
            if self._seen != self._roster.version:
                self._seen = self._roster.version
                self._offers = [
                    placing.with_presence(item, self._roster.not_ready(item.node, steady_s)) for item in self._standing
                ]
                self._answers.clear()

    def _matched(self, wanted: Requirement) -> match.Match:
        known = self._answers.get(wanted)
        if known is None:
            if len(self._answers) >= MAX_ANSWERS:
                self._answers.clear()
            try:
                known = match.match(self._offers, wanted)
            except NoCapacity as err:
                known = err
            self._answers[wanted] = known
        if isinstance(known, NoCapacity):
            raise NoCapacity(known.what, why=known.why, hint=known.hint)
        return known
