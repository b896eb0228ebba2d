"""Whole jobs through the public protocol: honest and dishonest nodes, receipts that verify."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import FakeBuyer, command_spec
from tests.integration.market.world import World

from stannary.formats.jobspec import JobSpec
from stannary.verify import receipt as verifier
from stannary.verify.report import Report
from stannary.verify.trust import TrustStore, pin
from stannary.wire import buyer as wire


def check(world: World, data: bytes) -> Report:
    """Verify a receipt with the market's key pinned."""
    trust = TrustStore(()).with_market(pin(world.vkey, world.witness_vkeys))
    return verifier.verify_receipt(data, trust, int(time.time()))


async def settled(world: World, buyer: FakeBuyer, spec: JobSpec) -> tuple[wire.JobView, Report]:
    """Run a job to its end; return it and what its receipt proves."""
    job = (await buyer.submit(spec)).id
    world.start(buyer.broker(job))
    view = await buyer.finished(job)
    return view, check(world, await buyer.receipt(job))


def test_command_job(tmp_path: Path) -> None:
    """A command job runs, is recomputed by another operator, is paid, and its receipt verifies."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path) as world:
            for operator in ("north", "south"):
                await world.node(operator)
            buyer = await world.buyer()
            view, report = await settled(world, buyer, command_spec())
            assert (view.status, view.verdict) == ("succeeded", "verified"), view
            assert not report.findings or all(item.severity == "notice" for item in report.findings), report.findings

    asyncio.run(scenario())
