"""Insurance on a whole market: its movements are listed by what they were for, and no request takes from it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.integration.market import world as worlds
from tests.integration.market.test_canaries import INSURED, Beating, decided, suspended, toy
from tests.integration.market.world import World

from stannary.errors import StannaryError
from stannary.market.engine import replaying
from stannary.market.http import routes_admin
from stannary.wire import admin, message, routes

NAMES = ("insurance", "market", "market.fees", "world", "operator", "buyer:insurance")


async def listed(world: World) -> admin.LedgerPage:
    """Return insurance's movements as the market's operator sees them."""
    path = f"{routes.ADMIN_LEDGER}?account=insurance"
    return message.read(admin.LedgerPage, (await world.admin("GET", path)).content)


def into(page: admin.LedgerPage) -> int:
    """Return what the movements listed come to; each is one of insurance's."""
    assert all("insurance" in (item.debit, item.credit) for item in page.entries)
    return sum(item.usd_micros if item.credit == "insurance" else -item.usd_micros for item in page.entries)


def test_every_movement_is_listed_by_what_it_was_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forfeit comes in, a canary goes out; the list adds up to what insurance holds."""
    monkeypatch.setattr(replaying, "compute", toy)

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            one = await world.node("north", Beating, ask_usd_micros_per_hour=3_600_000)
            await suspended(world, one)
            await decided(world, one)
            page = await listed(world)
            assert [item.reason for item in page.entries] == ["forfeit", "canary"]
            assert into(page) == page.balances["insurance"] < INSURED

    asyncio.run(scenario())


async def everything(world: World) -> admin.LedgerPage:
    """Return the whole ledger."""
    return message.read(admin.LedgerPage, (await world.admin("GET", routes.ADMIN_LEDGER)).content)


def test_no_request_of_the_markets_operator_takes_from_insurance(tmp_path: Path) -> None:
    """Every route he has, with names that look like accounts and amounts below nothing: it holds what it held."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            one = await world.node("north", Beating, run=False)
            await suspended(world, one)
            held = (await everything(world)).balances["insurance"]
            exchange, _ = world.inside
            paths = {(way, route.path) for route in routes_admin.router(exchange).routes for way in route.methods}
            assert {path for _, path in paths} >= {routes.ADMIN_API_TOKENS, routes.ADMIN_JOIN_TOKENS}
            for name in NAMES:
                for usd_micros in (-held, 0, held):
                    bodies: list[dict[str, Any]] = [
                        {"name": name, "deposit_usd_micros": usd_micros, "key": f"{name}{usd_micros}"},
                        {"operator": name, "bond_usd_micros": usd_micros, "uses": 1},
                        {"account": name, "usd_micros": usd_micros},
                        {"draining": True},
                    ]
                    for way, path in sorted(paths - {("POST", routes.ADMIN_BACKUP)}):
                        for body in bodies if way in ("POST", "PUT") else [{}]:
                            await tried(world, way, path.replace("{node}", "n-0").replace("{token}", name), body)
            assert (await everything(world)).balances["insurance"] == held

    asyncio.run(scenario())


class Raw(message.Message):
    """Any body at all."""

    text: str

    def to_bytes(self) -> bytes:
        """Return it as it is."""
        return self.text.encode()


async def tried(world: World, way: str, path: str, body: dict[str, Any]) -> None:
    """Send a request; how it is answered does not matter."""

    with contextlib.suppress(StannaryError):
        await world.admin(way, path, Raw(text=json.dumps(body)) if way in ("POST", "PUT") else None)
