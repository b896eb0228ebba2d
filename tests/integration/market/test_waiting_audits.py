"""A market whose auditors have a long piece of another job in hand: audits wait for them, nobody replaces them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import TRUST, FakeBuyer, command_spec
from tests.integration.market.fake_node import FakeNode
from tests.integration.market.test_market_jobs import case_of, check
from tests.integration.market.world import World

from stannary.formats import jobspec
from stannary.formats.jobspec import JobSpec, Resources, Verification
from stannary.formats.predicates import Absence, Assurance, Role
from stannary.verify.case import Case
from stannary.verify.report import Report
from stannary.wire import node

LONG = "long"
TIMING = replace(worlds.QUICK, answer_floor_s=60.0, audit_wait_s=2.0)


@dataclass
class BusyNode(FakeNode):
    """Honest; a piece of the long job stays in its hands until it is let go."""

    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def work(self, lease: node.Lease) -> None:
        """Take its time."""
        if await self.command_line(lease.job) == LONG:
            await self.let_go.wait()
        await super().work(lease)


def short() -> JobSpec:
    """Return a job of one second, of which every unit is recomputed."""
    trust = replace(TRUST, verify=Verification.RERUN_COMPARE, assurance=Assurance.FULL)
    resources = Resources(cpus=1, memory_bytes=2**28, disk_bytes=2**28, wall_s=1)
    return command_spec(trust=trust, resources=resources, rules=jobspec.RULES)


async def keep_busy(world: World, *operators: str) -> list[BusyNode]:
    """Have a node of each operator at a piece of a long job."""
    made = [await world.node(operator, BusyNode) for operator in operators]
    ada = await world.buyer()
    trust = replace(TRUST, verify=Verification.NONE)
    await ada.submit(command_spec(num_nodes=len(operators), run=LONG, trust=trust))
    while not all(item.served for item in made):
        await world.clock.sleep(0.1)
    return [item for item in made if isinstance(item, BusyNode)]


async def seen_waiting(world: World, bob: FakeBuyer, job: str) -> str:
    """Return what a job is said to wait for, once it waits for an auditor's room."""
    while True:
        for item in (await bob.view(job)).waits or ():
            if item.stage == "offered":
                return item.waits_for
        await world.clock.sleep(0.1)


def auditors(case: Case) -> list[str]:
    """Return who audited."""
    return [item.predicate.node for item in case.answers.values() if item.predicate.role is Role.AUDITOR]


def test_an_audit_waits_for_the_piece_in_hand(tmp_path: Path) -> None:
    """The buyer sees for whom and since when; the audit comes next, nobody was silent, and all of it was heard."""

    async def scenario() -> tuple[Report, Case, str, list[str]]:
        timing = replace(TIMING, audit_wait_s=600.0)
        async with worlds.inside(tmp_path, timing, witness=False) as world:
            busy = await keep_busy(world, "north", "south")
            await world.node("east")
            bob = await world.buyer("bob")
            job = (await bob.submit(short())).id
            world.start(bob.broker(job))
            waits_for = await seen_waiting(world, bob, job)
            for item in busy:
                item.let_go.set()
            await bob.finished(job)
            data = await bob.receipt(job)
            return check(world, data), case_of(data), waits_for, [item.id for item in busy]

    report, case, waits_for, busy = asyncio.run(scenario())
    assert [item for item in report.findings if item.severity != "notice"] == []
    assert "busy since" in waits_for
    assert any(f"auditor {name}" in waits_for for name in busy)
    assert case.silences == {}
    assert len(auditors(case)) == 1
    assert set(auditors(case)) <= set(busy)


def test_what_nobody_has_room_for_is_paid_and_bears_no_word(tmp_path: Path) -> None:
    """The wait is bounded, the receipt proves it, and its reader is told how much was not audited."""

    async def scenario() -> tuple[Report, Case]:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            await keep_busy(world, "north", "south")
            await world.node("east")
            bob = await world.buyer("bob")
            job = (await bob.submit(short())).id
            world.start(bob.broker(job))
            await bob.finished(job)
            data = await bob.receipt(job)
            return check(world, data), case_of(data)

    report, case = asyncio.run(scenario())
    assert {item.predicate.reason for item in case.silences.values()} == {Absence.NOT_TAKEN}
    assert auditors(case) == []
    assert [item.id for item in report.findings if item.severity == "policy"] == ["receipt.unverified"]
    assert not [item for item in report.findings if item.severity == "refuted"]
    assert report.claims is not None
    assert "1 more was drawn and not audited" in report.claims.recomputation()
    receipt = report.claims.receipt
    assert (receipt.soundness.drawn, receipt.soundness.unheard) == (1, 1)
    assert [line.usd_micros > 0 for line in receipt.settlement if line.reason == "work"] == [True]


def test_work_and_audits_come_in_turn(tmp_path: Path) -> None:
    """A node with both waiting gets neither twice in a row: audits starve nobody, and nobody starves them."""

    async def scenario() -> list[str]:
        timing = replace(TIMING, audit_wait_s=600.0)
        async with worlds.inside(tmp_path, timing, witness=False) as world:
            (judge,) = await keep_busy(world, "north")
            prover = await world.node("east", BusyNode)
            assert isinstance(prover, BusyNode)
            bob = await world.buyer("bob")
            jobs = [(await bob.submit(short())).id for _ in range(3)]
            for job in jobs:
                world.start(bob.broker(job))
            while len({task for task in prover.served if task.startswith("work")}) < len(jobs):
                await world.clock.sleep(0.1)
            for job in jobs:
                await seen_waiting(world, bob, job)
            trust = replace(TRUST, verify=Verification.NONE)
            await (await world.buyer("cai")).submit(command_spec(num_nodes=2, run=LONG, trust=trust))
            while len({task for task in prover.served if task.startswith("work")}) == len(jobs):
                await world.clock.sleep(0.1)
            before = len(judge.served)
            judge.let_go.set()
            while not any(line.startswith("work") for line in judge.served[before:]):
                await world.clock.sleep(0.1)
            prover.let_go.set()  # until then it cannot take the judge's lane
            for job in jobs:
                await bob.finished(job)
            return [line.split()[0] for line in judge.served[before:] if line.split()[0] in ("work", "audit")]

    served = asyncio.run(scenario())
    assert served.count("audit") == 3
    assert served[:2] == ["audit", "work"]
