"""An ask raised while a job is queued: what is held for the job is paid to those it was reckoned by."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import command_spec
from tests.integration.market.fake_node import FakeNode
from tests.integration.market.test_market_jobs import case_of, check

from stannary.wire import message, node, routes
from stannary.wire.buyer import JobView

CHEAP, DEAR = 100_000, 400_000  # the buyer's ceiling is 500,000
MANY = 30  # more jobs than two nodes have room for


class Busy(FakeNode):
    """Has its first piece in hand until it is told to go on."""

    goes_on: asyncio.Event

    async def work(self, lease: node.Lease) -> None:
        """Wait, and do it."""
        while not self.goes_on.is_set():
            await self.clock.sleep(0.5)
        await super().work(lease)


def test_who_comes_dearer_while_a_job_is_queued_has_no_part_in_it(tmp_path: Path) -> None:
    """Neither its work nor its audits, and the placement and the lists of candidates say why; all others are paid."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            Busy.goes_on = asyncio.Event()
            for name in ("north", "south"):
                await world.node(name, Busy, ask_usd_micros_per_hour=CHEAP)
            ada = await world.buyer()
            for at in range(MANY):
                job = (await ada.submit(command_spec(envs={"AT": str(at)}))).id
                world.start(ada.broker(job))
                await world.clock.sleep(1.0)
                view = message.read(JobView, (await ada.call("GET", routes.job(routes.JOB, job))).content)
                if view.status == "queued":  # there is no room for it
                    break
            assert view.status == "queued", "the test must try something"
            dear = await world.node("east", ask_usd_micros_per_hour=DEAR)
            await world.clock.sleep(5.0)
            Busy.goes_on.set()
            view = await ada.finished(job)
            assert (view.status, view.verdict) == ("succeeded", "verified"), view.message
            receipt = (await ada.call("GET", routes.job(routes.JOB_RECEIPT, job))).content
            report = check(world, receipt)
            assert not [item for item in report.findings if item.severity == "refuted"], report.findings
            case = case_of(receipt)
            (placed,) = (item.predicate for item in case.placements)
            assert {item.node: item.reason for item in placed.rejected}[dear.id].startswith("an hour of it costs $0.40")
            for listed in (item.predicate for item in case.candidates.values()):
                assert {item.node: item.reason for item in listed.left_out}[dear.id].startswith("an hour of it costs")
            assert dear.id not in {item.predicate.node for item in case.answers.values()}

    asyncio.run(scenario())
