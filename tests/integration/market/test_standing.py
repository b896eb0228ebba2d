"""Strikes of many buyers on a real market: a suspension, what a node gets meanwhile, and its end by itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import TRUST, FakeBuyer, command_spec
from tests.integration.market.fake_node import LyingNode
from tests.integration.market.world import World

from stannary.formats.jobspec import RULES, Verification
from stannary.formats.predicates import Assurance
from stannary.jobs import standing
from stannary.market.engine import replaying
from stannary.verify.recomputation import Found, Outcome, ReplayPlan
from stannary.wire import admin, message, routes

SPEC = command_spec(rules=RULES, trust=replace(TRUST, verify=Verification.RERUN_COMPARE, assurance=Assurance.FULL))


async def blind(plan: ReplayPlan, digests: object, blobs: object, scratch: Path, limit_s: float) -> Found:
    """Be a market of another engine class than its nodes': it cannot say whether a canary is right."""
    return Found(plan.units[0].task, Outcome.UNCHECKED, "other")


async def seen(world: World, node: str) -> admin.NodeView:
    """Return a node as the market's operator sees it."""
    found = message.read(admin.NodeList, (await world.admin("GET", routes.ADMIN_NODES)).content)
    return next(item for item in found.nodes if item.node == node)


async def done(world: World, buyer: FakeBuyer) -> Any:
    """Have a job done; return it as it ended, and what happened."""
    job = (await buyer.submit(SPEC)).id
    world.start(buyer.broker(job))
    view = await buyer.finished(job)
    return view, await buyer.events(job)


def test_three_buyers_suspend_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two do not, nor one who paid nobody yet; suspended it is not placed, and it comes back by itself."""
    monkeypatch.setattr(standing, "SHARE_USD_MICROS", 1)
    monkeypatch.setattr(standing, "OTHERS", 2)
    monkeypatch.setattr(standing, "HOLD_MS", 40_000)
    monkeypatch.setattr(replaying, "compute", blind)

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south", "east", "west"):
                await world.node(operator)
            fox = await world.node("fox", LyingNode, ask_usd_micros_per_hour=1)
            buyers = [await world.buyer(name) for name in ("ada", "bob", "cid")]
            for buyer in buyers:
                view, happened = await done(world, buyer)
                assert view.status == "succeeded"
                assert [item.node for item in happened if item.type == "node.struck"] == [fox.id]
                assert not (await seen(world, fox.id)).suspended
            before = await seen(world, fox.id)
            assert (before.struck_by, before.voices_ppm) == (3, 3_000_000)  # each job is paid by now
            _, happened = await done(world, buyers[0])
            assert [item.node for item in happened if item.type == "node.suspended"] == [fox.id]
            assert (await seen(world, fox.id)).suspended
            since_s = world.clock.now()
            view, happened = await done(world, buyers[1])
            assert view.status == "succeeded"
            assert [item.node for item in happened if item.type in ("lease.granted", "node.struck")].count(fox.id) == 0
            while (await seen(world, fox.id)).suspended:
                assert world.clock.now() - since_s < 120
                await world.clock.sleep(1)
            restored = await seen(world, fox.id)
            assert (restored.struck_by, restored.voices_ppm) == (0, 0)

    asyncio.run(scenario())
