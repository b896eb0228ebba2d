"""Engine classes on a real market: two who declare one of their own draw no job by a price, and find nobody right.

What they would do with a job is junk, and each calls the other's the same: the word `verified` would stand on it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.integration.market import toy_work
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import command_spec
from tests.integration.market.fake_node import ENGINE_CLASS, FakeNode, Opening
from tests.integration.market.world import World

from stannary import errors
from stannary.formats import digest
from stannary.formats.ids import NodeId
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Assignment, Role
from stannary.wire import node

THEIRS = "cpu-fp32-toy1.0-111111111111"
JUNK = {"out.txt": b"junk"}


@dataclass
class Junk(FakeNode):
    """Computes nothing, and finds that a friend computed it right."""

    async def results(self, lease: node.Lease, assignment: Assignment) -> dict[str, bytes]:
        """Hand in junk."""
        return dict(JUNK)

    async def opening(self, lease: node.Lease, assignment: Assignment, role: Role) -> Opening:
        """Find junk."""
        right = await super().opening(lease, assignment, role)
        return replace(right, root=toy_work.root(JUNK, right.ended), outputs=toy_work.listed(JUNK))


async def peopled(world: World, liars: int, honest: int) -> None:
    """Let liars join a class of their own at a tenth of the price, and honest operators theirs."""
    for at in range(liars):
        await world.node(f"liar{at}", Junk, engine_class=THEIRS, ask_usd_micros_per_hour=10_000)
    for at in range(honest):
        await world.node(f"honest{at}")


def of_class(name: str) -> JobSpec:
    """Return a job that names a class."""
    spec = command_spec()
    return replace(spec, resources=replace(spec.resources, engine_class=name))


async def worked(world: World, spec: JobSpec) -> set[str]:
    """Run a job to its good end; return what its outputs are by digest."""
    ada = world.buyers[0] if world.buyers else await world.buyer()
    job = (await ada.submit(spec)).id
    world.start(ada.broker(job))
    view = await ada.finished(job)
    assert (view.status, view.verdict) == ("succeeded", "verified"), view.message
    return {item.digest for item in await ada.outputs(job)}


def served(world: World, engine_class: str) -> bool:
    """Tell whether a node of a class was asked for anything."""
    return any(item.served for item in world.nodes if item.engine_class == engine_class)


def test_two_in_a_class_of_their_own_get_nothing_by_a_price(tmp_path: Path) -> None:
    """Three honest operators at ten times the price get the job, and what is verified is what they computed.

    Fails where classes are compared by price: the job ends `verified`, and what it brings is junk.
    """

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            await peopled(world, 2, 3)
            found = await worked(world, command_spec())
            assert digest.digest(JUNK["out.txt"]) not in found
            assert not served(world, THEIRS)
            quote = await world.buyers[0].quote(command_spec())
            said = {item.node: item.reason for item in quote.rejected}
            liar = NodeId(world.nodes[0].id)
            assert said[liar] == "engine class: another class has 3 operators, this one 2"

    asyncio.run(scenario())


def test_a_buyer_names_the_class_he_trusts_though_another_has_more(tmp_path: Path) -> None:
    """A market's operator may be deceived by four; a buyer who knows an honest class is served there, or told."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            await peopled(world, 4, 3)
            found = await worked(world, of_class(ENGINE_CLASS))
            assert digest.digest(JUNK["out.txt"]) not in found
            assert not served(world, THEIRS)
            with pytest.raises(errors.NoCapacity) as told:
                await world.buyers[0].submit(of_class("cpu-nobodys"))
            assert "cpu-nobodys is asked for" in told.value.why

    asyncio.run(scenario())
