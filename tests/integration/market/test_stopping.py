"""A buyer stops his job: what a node has in hand is paid by its last reading before, and nothing it says afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import before, command_spec, taken_before
from tests.integration.market.fake_node import FakeNode
from tests.integration.market.test_market_jobs import case_of, check

from stannary.cli import costs
from stannary.errors import StannaryError
from stannary.formats import jobspec
from stannary.verify.case import Case
from stannary.verify.report import Report
from stannary.wire import node, routes
from stannary.wire.buyer import JobView

HELD_S = 5.0


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
    assert view.paid_usd_micros == -(-reading.spent.compute_ms * 1000 * ask // 3_600_000_000) > 0
