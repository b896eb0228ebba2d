"""A buyer stops his job: what a node has in hand is paid to the second of the stop, and nothing it says afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import before, command_spec, taken_before, train_spec
from tests.integration.market.fake_node import FakeNode
from tests.integration.market.test_market_jobs import case_of, check

from stannary.cli import costs
from stannary.errors import StannaryError
from stannary.formats import digest, instants, jobspec
from stannary.verify.case import Case
from stannary.verify.report import Report
from stannary.wire import message, node, routes
from stannary.wire.buyer import JobView, Outputs

HELD_S = 5.0
HALF = b"half\n"
SAID_AT = "2026-01-01T00:00:00Z"


class Busy(FakeNode):
    """Takes work, says after a while what it measured, and never ends."""

    has_read = False
    told_late: StannaryError | None = None

    async def work(self, lease: node.Lease) -> None:
        """Measure, be stopped, and say that it was more."""
        await self.clock.sleep(HELD_S)
        await self.read_meter(lease)
        self.has_read = True
        while self.told_late is None:
            await self.clock.sleep(0.2)
            try:
                await self.read_meter(lease)
            except StannaryError as err:
                self.told_late = err


@pytest.mark.parametrize("rules", [jobspec.RULES, None])
def test_what_is_in_hand_at_the_stop_is_paid_by_the_reading_before(tmp_path: Path, rules: int | None) -> None:
    """Under rules 3; a job of rules 2 is refunded whole, as it always was."""

    async def scenario() -> tuple[JobView, Report, Case, Busy]:
        async with worlds.inside(tmp_path, witness=False) as world:
            busy = await world.node("north", Busy)
            for operator in ("south", "east"):
                await world.node(operator, ask_usd_micros_per_hour=400_000)
            ada = await world.buyer()
            with contextlib.nullcontext() if rules else taken_before():
                job = (await ada.submit(command_spec() if rules else before(command_spec()))).id
            world.start(ada.broker(job))
            assert isinstance(busy, Busy)
            while not busy.has_read:
                await world.clock.sleep(0.1)
            await ada.call("POST", routes.job(routes.JOB_CANCEL, job))
            view = await ada.finished(job)
            receipt = (await ada.call("GET", routes.job(routes.JOB_RECEIPT, job))).content
            return view, check(world, receipt), case_of(receipt), busy

    view, report, case, busy = asyncio.run(scenario())
    assert view.status == "cancelled"
    assert not [item for item in report.findings if item.severity == "refuted"], report.findings
    if rules is None:
        assert (view.paid_usd_micros, case.stopped) == (0, ())
        return
    (stopped,) = case.stopped
    assert (stopped.predicate.node, report.claims is not None) == (busy.id, True)
    reading = next(item.predicate for item in case.readings if item.leaf == stopped.predicate.reading)
    ask = case.ask_at(busy.id, stopped.index)
    assert report.claims is not None
    shown = next(item for item in costs.by_node(report.claims) if item.node == busy.id)
    assert shown.work_usd_micros == view.paid_usd_micros
    since_s = instants.parse(stopped.predicate.stopped_at) - instants.parse(reading.read_at)
    most_ms = reading.spent.compute_ms + 1000 * (min(max(since_s, 0), 6) + 1)
    assert view.paid_usd_micros == -(-most_ms * 1000 * ask // 3_600_000_000) > 0


@dataclass
class Leaving(FakeNode):
    """Takes work, hears in a beat that it was stopped, and leaves what there is, and more than it may."""

    lease: node.Lease | None = None
    said: node.HeartbeatAnswer | None = None

    async def work(self, lease: node.Lease) -> None:
        """Hold it."""
        self.lease = lease
        while self.said is None or not self.said.drop:
            await self.clock.sleep(0.2)
            beat = node.Heartbeat(state=node.NodeState.BUSY, leases=[lease.lease_id], version="fake")
            self.said = message.read(node.HeartbeatAnswer, (await self.call(routes.HEARTBEAT, beat)).content)

    async def leave(self, *outputs: tuple[str, bytes], size_bytes: int | None = None) -> StannaryError | None:
        """Leave outputs with the market; return its refusal."""
        assert self.lease is not None
        stored = [
            node.StoredOutput(
                name=name, digest=digest.digest(data), size_bytes=len(data) if size_bytes is None else size_bytes
            )
            for name, data in outputs
        ]
        try:
            await self.call(routes.lease(routes.LEASE_PARTIAL, self.lease.lease_id), node.Partial(outputs=stored))
        except StannaryError as err:
            return err
        return None


def test_what_was_left_at_the_stop_is_the_buyers_as_partial(tmp_path: Path) -> None:
    """From who held the work, once, stored and within the job's disk; the receipt is silent about it.

    Catches: taking it before a stop, from another node, twice, unstored, too large, under one name twice.
    """

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            busy = await world.node("north", Leaving)
            for operator in ("south", "east"):
                await world.node(operator, ask_usd_micros_per_hour=400_000)
            stranger = await world.node("west", Leaving, ask_usd_micros_per_hour=480_000)
            ada = await world.buyer()
            job = (await ada.submit(command_spec(outputs=("out.txt",)))).id
            world.start(ada.broker(job))
            assert isinstance(busy, Leaving) and isinstance(stranger, Leaving)
            while busy.lease is None:
                await world.clock.sleep(0.1)
            await busy.put_blob(HALF)
            stranger.lease = busy.lease
            assert await busy.leave(("out.txt", HALF)), "nobody has stopped it"
            await ada.call("POST", routes.job(routes.JOB_CANCEL, job))
            await ada.finished(job)
            while busy.said is None or not busy.said.drop:
                await world.clock.sleep(0.1)
            assert busy.said.stopped == busy.said.drop == [busy.lease.lease_id]
            assert await stranger.leave(("out.txt", HALF))
            assert await busy.leave(("out.txt", b"never stored"))
            assert await busy.leave(("out.txt", HALF), size_bytes=2**40)
            assert await busy.leave(("out.txt", HALF), ("out.txt", HALF))
            assert await busy.leave(("../out.txt", HALF))
            assert await busy.leave(("out.txt", HALF)) is None
            assert await busy.leave(("out.txt", HALF)), "it is there already"
            log = node.LogUpload(first_seq=0, lines=[node.LogUploadLine(at=SAID_AT, stream="stdout", text="bye")])
            await busy.call(routes.lease(routes.LEASE_LOGS, busy.lease.lease_id), log)
            listed = message.read(Outputs, (await ada.call("GET", routes.job(routes.JOB_OUTPUTS, job))).content)
            assert [(item.name, item.partial) for item in listed.outputs] == [("out.txt", True)]
            assert (await ada.call("GET", routes.blob(digest.digest(HALF)))).content == HALF
            receipt = (await ada.call("GET", routes.job(routes.JOB_RECEIPT, job))).content
            report = check(world, receipt)
            assert not [item for item in report.findings if item.severity == "refuted"], report.findings
            assert case_of(receipt).contributions == {}

    asyncio.run(scenario())


class Cut(FakeNode):
    """Its clock ends every program."""

    async def ended(self, lease: node.Lease) -> str | None:
        """Say so."""
        return "wall-limit"


def test_what_a_limit_cut_is_listed_as_partial(tmp_path: Path) -> None:
    """At once, while it is pending, and when the job has ended: handed in, compared with nothing, `sampled` at most."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south"):
                await world.node(operator, Cut)
            ada = await world.buyer()
            job = (await ada.submit(command_spec())).id

            async def listed() -> set[bool]:
                path = routes.job(routes.JOB_OUTPUTS, job)
                found = message.read(Outputs, (await ada.call("GET", path)).content)
                return {item.partial for item in found.outputs}

            while not await listed():
                await world.clock.sleep(0.2)
            view = message.read(JobView, (await ada.call("GET", routes.job(routes.JOB, job))).content)
            assert (await listed(), view.finished_at) == ({True}, None)
            world.start(ada.broker(job))
            view = await ada.finished(job)
            assert (view.status, view.verdict, await listed()) == ("succeeded", "sampled", {True})

    asyncio.run(scenario())


def test_the_weights_before_the_last_round_are_partial(tmp_path: Path) -> None:
    """A training job that is stopped leaves those of its last merge, said to be that; one that ends has its model."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south", "east"):
                await world.node(operator)
            ada = await world.buyer()

            async def listed(job: str) -> list[bool]:
                path = routes.job(routes.JOB_OUTPUTS, job)
                found = message.read(Outputs, (await ada.call("GET", path)).content)
                return [item.partial for item in found.outputs]

            whole, job = [(await ada.submit(train_spec(rounds=rounds))).id for rounds in (1, 50)]
            for each in (whole, job):
                world.start(ada.broker(each))
            await ada.finished(whole)
            while not await listed(job):
                await world.clock.sleep(0.5)
            await ada.call("POST", routes.job(routes.JOB_CANCEL, job))
            view = await ada.finished(job)
            assert (view.status, await listed(job), await listed(whole)) == ("cancelled", [True], [False])

    asyncio.run(scenario())
