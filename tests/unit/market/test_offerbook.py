"""The offer book: answers from memory that are never older than it says, and never from a read that failed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from tests.integration.market.fake_buyer import command_spec
from tests.unit.place.test_match import NEED, offers

from stannary.errors import NoCapacity
from stannary.formats.jobspec import Verification
from stannary.jobs.course.state import Node
from stannary.market import terms
from stannary.market.directory import Directory
from stannary.market.offerbook import FRESH_S, MAX_ANSWERS, OfferBook
from stannary.market.presence import Roster
from stannary.market.settings import Timing
from stannary.place import match
from stannary.rules.price import worst_case


class Shelf:
    """A directory that holds offers and counts how often it is asked for them."""

    def __init__(self, *standing: Node) -> None:
        self.standing = list(standing)
        self.reads = self.version = 0

    def offers(self, now_ms: int) -> list[Node]:
        """Return what stands."""
        self.reads += 1
        return self.standing


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
        self.book = OfferBook(cast("Directory", self.shelf), self.roster, self.clock)


TWO = (("n-1", "ann", "x", 5), ("n-2", "bob", "x", 6))


def test_offers_are_made_once_while_they_are_fresh() -> None:
    """Within FRESH_S nothing is made again unless a node changed; after it, since credentials end, the offers are."""
    booth = Booth(*TWO)
    for _ in range(3):
        assert booth.book.fits(NEED)
    assert booth.shelf.reads == 1
    booth.clock.at += FRESH_S
    assert booth.book.fits(NEED)
    assert booth.shelf.reads == 2
    booth.shelf.standing, booth.shelf.version = offers(TWO[0]), 1  # one was revoked
    assert not booth.book.fits(NEED)
    assert booth.shelf.reads == 3
    booth.clock.at -= 3600.0  # a clock stepped back must not make old offers fresh for an hour
    assert not booth.book.fits(NEED)
    assert booth.shelf.reads == 4


def test_a_node_that_falls_silent_or_drains_is_offered_no_longer() -> None:
    """It leaves the answers at the next question, and comes back with its next sign of life."""
    booth = Booth(*TWO)
    assert booth.book.fits(NEED)
    booth.roster.beat("n-2", "draining", booth.clock.at)
    assert not booth.book.fits(NEED)
    booth.roster.beat("n-2", "idle", booth.clock.at)
    assert booth.book.fits(NEED)
    booth.clock.at += 200.0
    assert not booth.book.fits(NEED)


def test_equal_questions_are_answered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer, also the one that there is no place, is kept until offers change; the memory of them is bounded."""
    asked: list[object] = []
    real = match.match

    def counted(found: list[Node], wanted: Any, away: dict[str, str]) -> match.Match:
        asked.append(wanted)
        return real(found, wanted, away)

    monkeypatch.setattr(match, "match", counted)

    booth = Booth(*TWO)
    impossible = replace(NEED, cpus=1_000)
    for _ in range(3):
        assert booth.book.fits(NEED)
        assert not booth.book.fits(impossible)
    assert len(asked) == 2
    for number in range(MAX_ANSWERS):
        booth.book.fits(replace(NEED, memory_bytes=number))
    assert len(booth.book._answers) <= MAX_ANSWERS


def test_an_estimate_is_the_worst_case_of_the_match() -> None:
    """The escrow of a quote is the worst case at the dearest chosen ask; an empty book has no capacity."""

    booth = Booth(*TWO)
    booth.shelf.standing = [replace(item, terms=str(terms.DIGEST)) for item in booth.shelf.standing]
    made = booth.book.estimate(command_spec())
    assert [offer.node for offer in made.match.chosen] == ["n-1"]
    assert made.worst == worst_case(command_spec(), made.match.highest_ask_usd_micros_per_hour)
    unverified = booth.book.estimate(command_spec(verify=Verification.NONE))
    assert unverified.worst.audit_usd_micros == 0
    with pytest.raises(NoCapacity):
        Booth().book.estimate(command_spec())
