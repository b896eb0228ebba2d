"""The queue keeper: jobs begin in order of arrival, as there is room, and nobody is held up by what fits nowhere."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.integration.market.fake_buyer import command_spec, train_spec
from tests.unit.market import moment

from stannary.errors import LimitExceeded
from stannary.formats.jobspec import JobSpec
from stannary.jobs.course.state import Timing, World
from stannary.market.bell import Bell
from stannary.market.engine import loop as loops
from stannary.market.engine import queueing
from stannary.market.engine.loop import BACKLOG, MIN_BACKLOG, Engines


class Book:
    """Offers that hold every job but those of `too_many` lanes."""

    def __init__(self) -> None:
        self.too_many = 10**6
        self.fails: list[Exception] = []

    def fits(self, wanted: Any) -> bool:
        """Tell whether there is room, or fail as often as told."""
        if self.fails:
            raise self.fails.pop()
        return wanted.num_nodes < self.too_many


class Now:
    """A clock that is set; its sleepers wait for ever."""

    def __init__(self) -> None:
        self.at = moment.NOW_MS / 1000

    def now(self) -> float:
        """Return the moment set."""
        return self.at

    steady = now
    leaps = ()

    async def sleep(self, seconds: float) -> None:
        """Wait until cancelled."""
        await asyncio.Event().wait()


class Standing:
    """What the queue asks of the mover: the moment set, and how many tasks wait."""

    def __init__(self, clock: Now) -> None:
        self.clock, self.resumed_at_ms = clock, 0
        self.ready = SimpleNamespace(num_waiting=0)

    def world(self, job: str) -> World:
        """Return the moment set."""
        return moment.world(now_ms=int(self.clock.at * 1000), resumed_at_ms=self.resumed_at_ms)


class Hall(Engines):
    """Engines whose jobs only begin: what a begun job does is others' to test."""

    def __init__(self) -> None:
        self.clock, self.book, self.num_live = Now(), Book(), 0
        self.begun: list[str] = []
        exchange = SimpleNamespace(
            clock=self.clock,
            bell=Bell(self.clock),
            offers=self.book,
            roster=SimpleNamespace(num_live=lambda _: self.num_live),
            settings=SimpleNamespace(timing=Timing()),
        )
        exchange.now_ms = moment.NOW_MS  # when all jobs of these tests are queued
        super().__init__(cast("Any", exchange))
        self.mover = cast("Any", Standing(self.clock))

    def _spawn(self, job: str) -> None:
        self.begun.append(job)
        self._loops[job] = cast("Any", None)
        self._unplanned[job] = self.orders[job].shape.num_lanes

    def order(self, job: str, spec: JobSpec | None = None, buyer: str = "buyer") -> None:
        """Queue a job."""
        self.add(job, replace(moment.order(spec), buyer=buyer))


def begin(hall: Hall) -> list[str]:
    """Look at the queue once; return what began."""
    asyncio.run(hall._begin())
    return hall.begun


def test_jobs_begin_in_order_of_arrival() -> None:
    """What came first begins first."""
    hall = Hall()
    for name in ("j-c", "j-a", "j-b"):
        hall.order(name)
    assert begin(hall) == ["j-c", "j-a", "j-b"]


def test_a_job_that_fits_nowhere_holds_nobody_up() -> None:
    """A job no offer holds waits, those behind it do not; after placing_s of listening its turn comes all the same."""
    hall = Hall()
    hall.book.too_many = 3
    hall.order("j-wide", train_spec(lanes=3))
    hall.order("j-small")
    assert begin(hall) == ["j-small"]
    hall.clock.at += Timing().placing_s
    assert begin(hall) == ["j-small"]
    hall.clock.at += 1
    assert begin(hall) == ["j-small", "j-wide"]


def test_a_downtime_is_no_patience_lost() -> None:
    """A job queued before a long absence of the market waits its whole patience after it."""
    hall = Hall()
    hall.book.too_many = 1
    hall.order("j-old")
    hall.clock.at += 100 * Timing().placing_s
    hall.mover.resumed_at_ms = int(hall.clock.at * 1000)
    assert begin(hall) == []
    hall.clock.at += Timing().placing_s + 1
    assert begin(hall) == ["j-old"]


@pytest.mark.parametrize("num_live", [0, 1, 5])
def test_no_more_begin_than_there_is_room_for(num_live: int) -> None:
    """Jobs begin until BACKLOG lanes wait for each live node; lanes planned and not yet planned count."""
    hall = Hall()
    hall.num_live = num_live
    room = max(MIN_BACKLOG, BACKLOG * num_live)
    hall.mover.ready.num_waiting = room - 3
    for number in range(room):
        hall.order(f"j-{number}", command_spec(num_nodes=2))
    assert len(begin(hall)) == 2  # 2 and 2 lanes: the second is the last that finds room
    assert len(begin(hall)) == 2  # their lanes count before they are planned
    hall._unplanned.clear()
    hall.mover.ready.num_waiting = room
    assert len(begin(hall)) == 2
    hall.mover.ready.num_waiting = 0
    assert len(begin(hall)) == 2 + room // 2


def test_no_more_are_moved_than_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """MAX_ACTIVE bounds the jobs under way, however small they are."""
    monkeypatch.setattr(queueing, "MAX_ACTIVE", 4)
    hall = Hall()
    for number in range(5):
        hall.order(f"j-{number}")
    assert len(begin(hall)) == 2


def test_the_keeper_outlives_a_failed_look() -> None:
    """Whatever one look at the queue ran into, the next ring begins what waits."""
    hall = Hall()
    hall.book.fails = [OSError("disk")]

    async def scenario() -> None:
        hall.order("j-a")
        keeping = asyncio.create_task(hall.keep_queue())
        while hall.book.fails:
            await asyncio.sleep(0)
        assert hall.begun == []
        while not hall.begun:  # a ring lost in the failure's turn is made again: rings carry nothing
            hall._exchange.bell.ring(loops.QUEUE)
            await asyncio.sleep(0)
        keeping.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 30))
    assert hall.begun == ["j-a"]


def test_who_comes_first_into_an_empty_queue_rings() -> None:
    """The first of a queue wakes the keeper; who comes behind others waits with them."""
    hall = Hall()
    mark = hall._exchange.bell.mark()
    hall.order("j-a")
    assert asyncio.run(hall._exchange.bell.wait(mark, 0, loops.QUEUE))
    mark = hall._exchange.bell.mark()
    hall.order("j-b")
    assert not asyncio.run(hall._exchange.bell.wait(mark, 0, loops.QUEUE))


def test_buyers_take_turns() -> None:
    """Who sent hundreds of jobs first does not hold up who sent one: buyers begin in turn, each in order of arrival."""
    hall = Hall()
    hall.num_live = 1
    for number in range(300):
        hall.order(f"j-eve-{number:03}", buyer="eve")
    hall.order("j-ada", buyer="ada")
    hall.order("j-bob", buyer="bob")
    first = begin(hall)[:4]
    assert first == ["j-eve-000", "j-ada", "j-bob", "j-eve-001"]


def test_one_buyer_never_holds_every_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many jobs one buyer has under way, half of the slots are free for others."""
    monkeypatch.setattr(queueing, "MAX_ACTIVE", 8)
    hall = Hall()
    hall.num_live = 100
    for number in range(20):
        hall.order(f"j-eve-{number}", buyer="eve")
    assert len(begin(hall)) == 4
    hall.order("j-ada", buyer="ada")
    assert begin(hall)[-1] == "j-ada"


def test_who_waits_for_his_own_buyer_holds_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs whose buyer reveals nothing make room for others, until he owes too many: then he begins no more."""
    monkeypatch.setattr(queueing, "MAX_ACTIVE", 8)
    monkeypatch.setattr(queueing, "MAX_OWED", 6)
    hall = Hall()
    hall.num_live = 100
    for number in range(20):
        hall.order(f"j-eve-{number}", buyer="eve")
    for _ in range(10):
        begin(hall)
        hall._owed.update(hall.begun)  # all that began has handed in, and waits for eve
    assert 6 <= len(hall.begun) <= 8
    hall.order("j-ada", buyer="ada")
    assert begin(hall)[-1] == "j-ada"
    before = len(hall.begun)
    hall._owed.clear()
    hall._loops = {"j-ada": cast("Any", None)}
    assert len(begin(hall)) > before


def test_an_account_has_so_many_open_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buyer with too many open jobs is refused before another of his is read; others are not."""
    monkeypatch.setattr(loops, "MAX_OPEN_OF_BUYER", 2)
    hall = Hall()
    for number in range(2):
        hall.check_room("eve")
        hall.order(f"j-{number}", buyer="eve")
    with pytest.raises(LimitExceeded, match="open jobs"):
        hall.check_room("eve")
    hall.check_room("ada")
    hall._let_go("j-0")
    hall.check_room("eve")
