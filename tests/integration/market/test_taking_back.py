"""What an operator takes back is gone at once, and what has expired goes by itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import FakeBuyer, command_spec
from tests.integration.market.fake_node import FakeNode
from tests.integration.market.world import Process, World

from stannary import errors
from stannary.market import forgetting
from stannary.market.topics import account_topic, node_topic
from stannary.store import nodes, schema
from stannary.wire import admin, message, routes
from stannary.wire import node as node_wire


async def waits_for(world: World, topic: str) -> None:
    """Return when somebody waits for a topic; no time passes meanwhile."""
    exchange, _ = world.inside
    while topic not in exchange.bell._waiting:
        await asyncio.sleep(0)


async def tokens_of(world: World, account: str = "") -> list[admin.ApiTokenView]:
    """List API tokens, as their operator."""
    path = f"{routes.ADMIN_API_TOKENS}?account={account}" if account else routes.ADMIN_API_TOKENS
    return message.read(admin.ApiTokenList, (await world.admin("GET", path)).content).tokens


async def nodes_of(world: World) -> list[admin.NodeView]:
    """List nodes, as their operator."""
    return message.read(admin.NodeList, (await world.admin("GET", routes.ADMIN_NODES)).content).nodes


def test_a_revoked_token_is_refused_at_once(tmp_path: Path) -> None:
    """The token is refused in the next request and in the poll that waits; the account's other token goes on."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south"):
                await world.node(operator, run=False)
            ada = await world.buyer()
            other = await world.buyer()  # a second token of the same account
            job = (await ada.submit(command_spec())).id
            (theirs,) = [item.id for item in await tokens_of(world, "ada") if item.last_used_at is not None]
            polls = [
                asyncio.create_task(who.call("GET", f"{routes.job(routes.JOB_EVENTS, job)}?after=1000&wait=20"))
                for who in (ada, other)
            ]
            await waits_for(world, account_topic("ada"))
            began = world.clock.now()
            gone = await world.admin("POST", routes.api_token(routes.ADMIN_API_TOKEN_REVOKE, theirs))
            assert message.read(admin.ApiTokenView, gone.content).account == "ada"
            with pytest.raises(errors.AuthError):
                await polls[0]
            assert world.clock.now() - began < 1
            with pytest.raises(errors.AuthError):
                await ada.call("GET", routes.OFFERS)
            assert (await other.call("GET", routes.job(routes.JOB, job))).status_code == 200
            assert (await polls[1]).status_code == 200
            with pytest.raises(errors.ConflictError):
                await world.admin("POST", routes.api_token(routes.ADMIN_API_TOKEN_REVOKE, theirs))
            with pytest.raises(errors.NotFound):
                await world.admin("POST", routes.api_token(routes.ADMIN_API_TOKEN_REVOKE, "0" * 16))

    asyncio.run(scenario())


def test_what_was_read_before_a_revocation_is_not_remembered(tmp_path: Path) -> None:
    """A token that is looked up while it is being revoked does not come into the memory of the market after it."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            exchange, _ = world.inside
            ada = await world.buyer()
            (theirs,) = await tokens_of(world)
            aread = exchange.store.aread

            async def slow(look: Any) -> Any:
                found = await aread(look)
                exchange.store.aread = aread
                await world.admin("POST", routes.api_token(routes.ADMIN_API_TOKEN_REVOKE, theirs.id))
                return found

            exchange.store.aread = slow
            await ada.call("GET", routes.OFFERS)  # began before
            with pytest.raises(errors.AuthError):
                await ada.call("GET", routes.OFFERS)

    asyncio.run(scenario())


def test_a_revoked_node_waits_no_longer(tmp_path: Path) -> None:
    """A node that waits for work when it is revoked is told so then, not when its wait is over."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            made = await world.node("north", run=False)
            waiting = asyncio.create_task(made.call(routes.LEASE_NEXT, node_wire.NextLease(wait_s=20.0)))
            await waits_for(world, node_topic(made.id))
            began = world.clock.now()
            await world.admin("POST", routes.node(routes.ADMIN_NODE_REVOKE, made.id))
            with pytest.raises(errors.AuthError):
                await waiting
            assert world.clock.now() - began < 1

    asyncio.run(scenario())


async def kept(world: World) -> dict[str, int]:
    """Count the rows of what expires."""
    exchange, _ = world.inside
    tables = (schema.sessions, schema.challenges, schema.join_tokens)
    counts = [sa.select(sa.func.count()).select_from(table) for table in tables]
    found = await exchange.store.aread(lambda c: [c.execute(count).scalar_one() for count in counts])
    return {"remembered": len(exchange.sessions), **{t.name: n for t, n in zip(tables, found, strict=True)}}


def test_what_has_expired_goes(tmp_path: Path) -> None:
    """Sessions, answered challenges and join tokens go when they are of no use, by a worker of their own."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, replace(worlds.QUICK, sweep_s=10.0), witness=False) as world:
            await world.node("north", run=False)
            await world.join_token("south")
            assert await kept(world) == {"remembered": 1, "sessions": 1, "challenges": 1, "join_tokens": 2}
            await world.clock.sleep(2 * forgetting.INTERVAL_S)
            assert await kept(world) == {"remembered": 1, "sessions": 1, "challenges": 0, "join_tokens": 1}
            await world.clock.sleep(3600.0)
            assert await kept(world) == {"remembered": 0, "sessions": 0, "challenges": 0, "join_tokens": 0}

    asyncio.run(scenario())


def test_what_expired_while_the_market_was_down_goes_at_its_start(tmp_path: Path) -> None:
    """It needs no quiet minute: what is of no use is deleted at once, also where no deadline can be looked at."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            made = await world.node("north", run=False)
            exchange, _ = world.inside
            spent = {"now_ms": exchange.now_ms, "expires_at_ms": exchange.now_ms}
            await exchange.store.awrite(lambda c: nodes.spend_challenge(c, "old", made.id, **spent))
            assert (await kept(world))["challenges"] == 2
        async with worlds.inside(tmp_path, witness=False) as world:
            exchange, engines = world.inside
            engines._expire = never
            await world.clock.sleep(1.0)
            assert (await kept(world))["challenges"] == 1
            await world.clock.sleep(2 * forgetting.INTERVAL_S)
            assert (await kept(world))["challenges"] == 0

    asyncio.run(scenario())


async def never() -> None:
    """Fail as deadlines do while a disk is full."""
    raise errors.EnvironmentProblem("the disk is full")


def test_a_tokens_last_use_outlives_a_restart(tmp_path: Path) -> None:
    """Who has not used a token for long is seen also after the market was stopped."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            ada = await world.buyer()
            await world.buyer("bob")
            await ada.call("GET", routes.OFFERS)
            used_at = {item.account: item.last_used_at for item in await tokens_of(world)}
            assert used_at["ada"] is not None
            await world.clock.sleep(2 * forgetting.INTERVAL_S)
        async with worlds.inside(tmp_path, witness=False) as world:
            assert {item.account: item.last_used_at for item in await tokens_of(world)} == used_at
            assert used_at["bob"] is None

    asyncio.run(scenario())


def run(*words: str) -> Any:
    """Run one command of the operator's; return its JSON."""
    command = [sys.executable, "-P", "-m", "stannary", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_an_operator_lists_and_revokes_tokens(tmp_path: Path) -> None:
    """`market token ls` names tokens by ids that open nothing, `revoke` ends one, also on a connection that is held."""
    market = Process(tmp_path)
    world = market.start()
    where = ("--dir", str(tmp_path))
    try:
        secret = run("market", "token", *where, "--name", "ada")["token"]
        (listed,) = run("market", "token", "ls", *where, "--name", "ada")["tokens"]
        assert (listed["account"], listed["revoked_at"], listed["last_used_at"]) == ("ada", None, None)
        assert listed["id"] not in secret

        async def scenario() -> tuple[int, str]:
            ada = FakeBuyer(world.url, secret)
            try:
                await ada.call("GET", routes.OFFERS)
                revoked = await asyncio.to_thread(run, "market", "token", "revoke", *where, listed["id"])
                assert revoked["revoked_at"] is not None
                refused = await ada.client.get(routes.OFFERS, headers=ada.headers)
                return refused.status_code, refused.headers.get("connection", "")
            finally:
                await ada.client.aclose()

        assert asyncio.run(scenario()) == (401, "close")
        (listed,) = run("market", "token", "ls", *where)["tokens"]
        assert listed["revoked_at"] is not None
        assert listed["last_used_at"] is not None
        ledger = run("market", "ledger", *where, "--last", "1")
        assert ledger["balances"] == {"world": -100_000_000, "buyer:ada.available": 100_000_000}
        assert [item["reason"] for item in ledger["entries"]] == ["deposit"]
        misplaced = run("market", "token", *where, "ls")
        assert "market token ls --dir" in misplaced["error"]["hint"]
    finally:
        market.stop()


def test_a_drained_node_gets_no_new_work(tmp_path: Path) -> None:
    """A drained node keeps its session and gets nothing new, whatever it says, also after a new join or a restart."""

    async def drain(world: World, node: str, *, draining: bool) -> None:
        path = routes.node(routes.ADMIN_NODE_DRAIN, node)
        await world.admin("POST", path, admin.DrainRequest(draining=draining))

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            made = await world.node("north", run=False, ask_usd_micros_per_hour=1)  # the cheaper: the job's own
            await world.node("south", run=False)
            await (await world.buyer()).submit(command_spec())
            lease = await made.next_lease()
            assert lease is not None
            await drain(world, made.id, draining=True)
            await made.call(routes.lease(routes.LEASE_RELEASE, lease.lease_id))
            await made.beat()  # idle, it says
            assert await made.next_lease() is None
            await made.join(await world.join_token("north"))
            assert await made.next_lease() is None
        async with worlds.inside(tmp_path, witness=False) as world:
            again = FakeNode(world.url, "north", transport=world.transport, clock=world.clock, key=made.key)
            again.market = made.market
            world.nodes.append(again)
            await again.open_session()
            (seen,) = [item for item in await nodes_of(world) if item.node == made.id]
            assert seen.draining
            assert await again.next_lease() is None
            await drain(world, made.id, draining=False)
            assert await again.next_lease() is not None
            with pytest.raises(errors.NotFound):
                await drain(world, "n-0", draining=True)

    asyncio.run(scenario())


def test_an_operator_rules_his_nodes(tmp_path: Path) -> None:
    """`market node ls` shows nodes, `drain` and `revoke` say so; nothing is revoked unasked."""
    market = Process(tmp_path)
    world = market.start()
    where = ("--dir", str(tmp_path))
    try:

        async def join() -> str:
            made = await world.node("north", run=False)
            await made.client.aclose()
            return made.id

        name = asyncio.run(join())
        shown = [run("market", "node", "ls", *where)["nodes"][0]]
        assert run("market", "node", "drain", *where, name) == {"node": name, "draining": True}
        shown += run("market", "node", "ls", *where)["nodes"]
        assert run("market", "node", "revoke", *where, name)["error"]["code"] == "E-CONFIRM"
        run("market", "node", "revoke", *where, name, "--yes")
        shown += run("market", "node", "ls", *where)["nodes"]
        assert [(item["operator"], item["draining"], item["revoked"]) for item in shown] == [
            ("north", False, False),
            ("north", True, False),
            ("north", True, True),
        ]
        assert run("market", "node", "drain", *where, "../x")["error"]["code"] == "E-NOT-FOUND"
    finally:
        market.stop()
