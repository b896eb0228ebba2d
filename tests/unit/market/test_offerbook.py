"""The offer book: answers from memory that are never older than it says, and never from a read that failed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from tests.integration.market.fake_buyer import command_spec
from tests.unit.place.test_match import NEED, offers

from stannary.errors import NoCapacity
from stannary.formats.jobspec import Verification
from stannary.market import terms
from stannary.market.offerbook import FRESH_S, MAX_ANSWERS, OfferBook
from stannary.market.presence import Roster
from stannary.market.settings import Timing
from stannary.place import match
from stannary.place.offers import Offer
from stannary.rules.price import AUDITS_IN_ESCROW
from stannary.store.database import Store


class Shelf:
    """A store that holds offers, counts its reads, and can be made to wait or to fail."""

    def __init__(self, *standing: Offer) -> None:
        self.standing = list(standing)
        self.reads = 0
        self.gate: asyncio.Event | None = None
        self.fails: Exception | None = None

    async def aread(self, query: Callable[[Any], Any]) -> list[Offer]:
        """Return what stands, when the gate is open."""
        self.reads += 1
        standing = list(self.standing)
        if self.gate is not None:
            await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        return standing


class Moment:
    """A clock that is set."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        """Return the moment set."""
        return self.at

    def steady(self) -> float:
        """Return the same."""
        return self.at

    async def sleep(self, seconds: float) -> None:
        """Never needed."""
        raise AssertionError


class Booth:
    """A book, and all it looks at."""

    def __init__(self, *rows: tuple[str, str, str, int]) -> None:
        self.shelf, self.clock = Shelf(*offers(*rows)), Moment()
        self.roster = Roster(Timing())
        for offer in self.shelf.standing:
            self.roster.beat(offer.node, "idle", self.clock.at)
        self.book = OfferBook(cast("Store", self.shelf), self.roster, self.clock)


TWO = (("n-1", "ann", "x", 5), ("n-2", "bob", "x", 6))


def test_offers_are_read_once_while_they_are_fresh() -> None:
    """Within FRESH_S nothing is read again; after it, or after `forget`, the nodes are."""

    async def scenario() -> None:
        booth = Booth(*TWO)
        for _ in range(3):
            await booth.book.refresh()
        assert booth.shelf.reads == 1
        booth.clock.at += FRESH_S
        await booth.book.refresh()
        assert booth.shelf.reads == 2
        booth.book.forget()
        await booth.book.refresh()
        assert booth.shelf.reads == 3
        booth.clock.at -= 3600.0  # a clock stepped back must not make old offers fresh for an hour
        await booth.book.refresh()
        assert booth.shelf.reads == 4

    asyncio.run(scenario())


def test_a_node_forgotten_during_a_read_is_read_again() -> None:
    """A node that joins while the nodes are being read is in the answer after the next question."""

    async def scenario() -> None:
        booth = Booth(("n-1", "ann", "x", 5))
        booth.shelf.gate = asyncio.Event()
        reading = asyncio.create_task(booth.book.refresh())
        await asyncio.sleep(0)
        booth.shelf.standing = offers(*TWO)
        booth.roster.beat("n-2", "idle", booth.clock.at)
        booth.book.forget()
        booth.shelf.gate.set()
        await reading
        assert not booth.book.fits(NEED)
        await booth.book.refresh()
        assert booth.shelf.reads == 2
        assert booth.book.fits(NEED)

    asyncio.run(scenario())


def test_who_asks_during_a_read_waits_for_it() -> None:
    """Two questions at once cost one read, and neither is answered from before it."""

    async def scenario() -> None:
        booth = Booth(*TWO)
        booth.shelf.gate = asyncio.Event()
        asked = [asyncio.create_task(booth.book.refresh()) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in asked)
        booth.shelf.gate.set()
        await asyncio.gather(*asked)
        assert booth.shelf.reads == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
def test_what_was_not_read_does_not_pass_for_fresh(how: str) -> None:
    """After a read that failed, or whose asker gave up, the next question reads again at once."""

    async def scenario() -> None:
        booth = Booth(*TWO)
        if how == "fails":
            booth.shelf.fails = OSError("disk")
            with pytest.raises(OSError, match="disk"):
                await booth.book.refresh()
            booth.shelf.fails = None
        else:
            booth.shelf.gate = asyncio.Event()
            asked = asyncio.create_task(booth.book.refresh())
            await asyncio.sleep(0)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            booth.shelf.gate = None
        await booth.book.refresh()
        assert booth.shelf.reads == 2
        assert booth.book.fits(NEED)

    asyncio.run(scenario())


def test_presence_is_looked_at_without_a_read() -> None:
    """A node that falls silent or drains leaves the answers at the next question, though the nodes are not read."""

    async def scenario() -> None:
        booth = Booth(*TWO)
        await booth.book.refresh()
        assert booth.book.fits(NEED)
        booth.roster.beat("n-2", "draining", booth.clock.at)
        await booth.book.refresh()
        assert not booth.book.fits(NEED)
        booth.roster.beat("n-2", "idle", booth.clock.at)
        await booth.book.refresh()
        assert booth.book.fits(NEED)
        booth.roster.sweep(booth.clock.at + 200.0)
        booth.clock.at += FRESH_S / 2
        await booth.book.refresh()
        assert booth.shelf.reads == 1

    asyncio.run(scenario())


def test_equal_questions_are_answered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer, also the one that there is no place, is kept until offers change; the memory of them is bounded."""
    asked: list[object] = []
    real = match.match

    def counted(found: list[Offer], wanted: Any) -> match.Match:
        asked.append(wanted)
        return real(found, wanted)

    monkeypatch.setattr(match, "match", counted)

    async def scenario() -> None:
        booth = Booth(*TWO)
        await booth.book.refresh()
        impossible = replace(NEED, cpus=1_000)
        for _ in range(3):
            assert booth.book.fits(NEED)
            assert not booth.book.fits(impossible)
        assert len(asked) == 2
        for number in range(MAX_ANSWERS):
            booth.book.fits(replace(NEED, memory_bytes=number))
        assert len(booth.book._answers) <= MAX_ANSWERS

    asyncio.run(scenario())


def test_an_estimate_is_the_worst_case_of_the_match() -> None:
    """The escrow of a quote is all work at the dearest chosen ask, twice audited; an empty book has no capacity."""

    async def scenario() -> None:
        booth = Booth(*TWO)
        listed = [replace(item, terms=str(terms.DIGEST)) for item in booth.shelf.standing]  # type: ignore[arg-type]  # a digest is a str
        booth.shelf.standing = listed
        made = await booth.book.estimate(command_spec())
        assert [offer.node for offer in made.match.chosen] == ["n-1"]
        assert made.worst.audit_usd_micros == AUDITS_IN_ESCROW * made.worst.work_usd_micros
        unverified = await booth.book.estimate(command_spec(verify=Verification.NONE))
        assert unverified.worst.audit_usd_micros == 0
        with pytest.raises(NoCapacity):
            await Booth().book.estimate(command_spec())

    asyncio.run(scenario())
