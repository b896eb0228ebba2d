"""An open job whose order this market no longer reads: refunded at the start; every other job goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import FakeBuyer, train_spec

from stannary.errors import SpecError
from stannary.market.engine import loading


def test_one_unreadable_order_keeps_no_market_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that was tightened between two releases ends the job it hits, and gives the buyer's money back."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south", "east"):
                await world.node(operator, run=False)
            ada = await world.buyer()
            bad, good = (await ada.submit(train_spec())).id, (await ada.submit(train_spec(rounds=3))).id
        honest = loading.order_of

        def stricter(row: Any, envelope: bytes) -> Any:
            if row.job == bad:
                raise SpecError("outputs names a file that is none", why="a rule of today")
            return honest(row, envelope)

        monkeypatch.setattr(loading, "order_of", stricter)
        async with worlds.inside(tmp_path, witness=False) as world:
            again = FakeBuyer(world.url, ada.token, transport=world.transport, clock=world.clock)
            world.buyers.append(again)
            ended = await again.view(bad)
            assert (ended.status, ended.reason, ended.settlement) == ("failed", "market-fault", "refunded")
            assert ended.refunded_usd_micros == ended.escrow_usd_micros > 0
            assert (await again.view(good)).status not in {"failed", "cancelled"}

    asyncio.run(scenario())
