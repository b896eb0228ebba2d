"""The root file system of a market: published by its operator, fetched by anybody, named in every new job."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests import roots
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import command_spec
from tests.integration.market.fake_node import ENGINE_CLASS
from tests.integration.market.world import World

from stannary import errors
from stannary.formats import digest, jobspec
from stannary.formats.predicates import Assurance
from stannary.market.http import server
from stannary.market.intake.blobkeeping import BUYER_GRACE_S
from stannary.rules.systems import root_name
from stannary.store import blobs
from stannary.wire import errors as wire_errors
from stannary.wire import routes
from stannary.wire.market import MarketInfo

OLD, NEW = roots.small(), roots.small({"usr/share/news": b"more"})


async def send(world: World, method: str, path: str, data: bytes = b"", **headers: str) -> httpx2.Response:
    """Ask as nobody in particular, or as the headers say."""
    async with httpx2.AsyncClient(base_url=world.url, transport=world.transport, timeout=60.0) as client:
        answer = await client.request(method, path, content=data, headers=headers)
    if answer.status_code >= 400:
        raise wire_errors.from_body(answer.status_code, answer.content)
    return answer


async def publish(world: World, data: bytes) -> None:
    """Publish a root as the market's operator."""
    token = f"Bearer {world.admin_token}"
    await send(world, "PUT", routes.admin_root(roots.named(data)), data, Authorization=token)


async def info(world: World) -> MarketInfo:
    """Ask what the market says of itself."""
    return MarketInfo.model_validate_json((await send(world, "GET", routes.MARKET)).content)


def spec(root: digest.Digest | None, **changes: Any) -> jobspec.JobSpec:
    """Return a command under rules 3 that names a root."""
    made = command_spec(**changes)
    trust = replace(made.trust, assurance=Assurance.FULL, audit_ppm=1_000_000)
    return replace(made, trust=trust, rules=jobspec.RULES, root=root)


def test_the_last_published_root_is_in_force_and_every_one_is_anybodys(tmp_path: Path) -> None:
    """The market says digest and size; strangers fetch it, in parts too, and nothing else; it outlives a restart."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            assert (await info(world)).root is None
            await publish(world, OLD)
            await publish(world, NEW)
            said = await info(world)
            assert (said.root, said.root_bytes) == (roots.named(NEW), len(NEW))
            for data in (OLD, NEW):
                assert (await send(world, "GET", routes.blob(roots.named(data)))).content == data
            part = await send(world, "GET", routes.blob(roots.named(NEW)), Range="bytes=100-")
            assert (part.status_code, part.content) == (206, NEW[100:])
            await (await world.buyer()).put_blob(b"a buyer's own")
            with pytest.raises(errors.AuthError):
                await send(world, "GET", routes.blob(digest.digest(b"a buyer's own")))
        async with server.opened(world.inside[0].settings) as (exchange, _):
            assert exchange.info().root == roots.named(NEW)
            old_ms = exchange.now_ms + round(BUYER_GRACE_S * 2000)
            going = await exchange.store.aread(
                lambda c: blobs.collectable(c, node_before_ms=old_ms, buyer_before_ms=old_ms)
            )
            assert not {roots.named(OLD), roots.named(NEW)} & set(going)
            await publish_again(exchange)

    async def publish_again(exchange: Any) -> None:
        await exchange.store.awrite(lambda c: blobs.publish_root(c, roots.named(OLD)))
        await exchange.read_root()
        assert exchange.info().root == roots.named(OLD)

    asyncio.run(scenario())


def test_only_the_operator_publishes_and_only_what_the_digest_names(tmp_path: Path) -> None:
    """A buyer's token publishes nothing, nor do other bytes than the digest's."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            ada = await world.buyer()
            with pytest.raises(errors.AuthError):
                await send(world, "PUT", routes.admin_root(roots.named(OLD)), OLD, Authorization=f"Bearer {ada.token}")
            token = f"Bearer {world.admin_token}"
            with pytest.raises(errors.FormatError):
                await send(world, "PUT", routes.admin_root(roots.named(OLD)), NEW, Authorization=token)
            assert (await info(world)).root is None

    asyncio.run(scenario())


def test_a_job_runs_in_the_root_in_force_or_not_at_all(tmp_path: Path) -> None:
    """Under rules 3 another root than the market's is refused, none included; only nodes of it get the work."""
    named = roots.named(NEW)

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            ada = await world.buyer()
            for operator in ("ann", "bob", "cyd"):
                await world.node(operator, engine_class=f"{ENGINE_CLASS}.{root_name(named)}")
            await world.node("dan", engine_class=ENGINE_CLASS, ask_usd_micros_per_hour=1)
            with pytest.raises(errors.ConflictError, match="another root"):
                await ada.submit(spec(named))
            await publish(world, NEW)
            for other in (None, roots.named(OLD)):
                with pytest.raises(errors.ConflictError, match="another root") as told:
                    await ada.submit(spec(other))
                assert named in told.value.why
            job = (await ada.submit(spec(named))).id
            world.start(ada.broker(job))
            assert (await ada.finished(job)).status == "succeeded"
            assert not world.nodes[3].served
            quote = await ada.quote(spec(named))
            (reason,) = [item.reason for item in quote.rejected if item.node == world.nodes[3].id]
            assert root_name(named) in reason

    asyncio.run(scenario())
