"""Canaries on a real market: ordered of a suspended node at once, paid from insurance, and what they come to."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.integration.market import toy_work
from tests.integration.market import world as worlds
from tests.integration.market.fake_node import FakeNode, Opening
from tests.integration.market.test_standing import blind
from tests.integration.market.world import World
from tests.second_verifier import canary as second
from tests.second_verifier.canary import GivenCanary

from stannary.formats import commitments, digest, dsse, record, statement
from stannary.formats.predicates import Assignment, Canary, CanaryOutcome, Job, Role
from stannary.jobs import canary, standing
from stannary.jobs.canary import CanaryRow
from stannary.jobs.standing import StandingChange
from stannary.market.engine import ordering, replaying
from stannary.rules import canary as rule
from stannary.rules.reasons import Reason
from stannary.settle.ledger import INSURANCE, WORLD, transfer
from stannary.store import canaries, envelopes, ledger
from stannary.store.database import Store
from stannary.store.schema import standing_changes
from stannary.verify.canary import CanaryPapers, faults
from stannary.verify.recomputation import Found, Outcome, ReplayPlan
from stannary.wire import admin, message, node, routes

TIMING = replace(worlds.QUICK, answer_floor_s=60.0, sweep_s=1.0, lost_s=12.0, suspect_s=8.0)
HOLD_S = 60.0  # in place of ten minutes
INSURED = 1_000_000


@dataclass
class Beating(FakeNode):
    """Takes what the market says of its standing with each beat, and may ask for another canary."""

    word: str = ""
    wants: bool = False

    async def beat(self, state: node.NodeState = node.NodeState.IDLE) -> float:
        """Send one heartbeat."""
        said = node.Heartbeat(state=state, leases=[], version="fake", wants_canary=self.wants)
        answer = message.read(node.HeartbeatAnswer, (await self.call(routes.HEARTBEAT, said)).content)
        self.word = (answer.canary or "") if answer.suspended else "good"
        if answer.canary == "asked" or not answer.suspended:
            self.wants = False
        return 3.0


@dataclass
class Broken(Beating):
    """Computes wrongly until it is mended; another machine's error each time."""

    is_mended: bool = False

    async def opening(self, lease: node.Lease, assignment: Assignment, role: Role) -> Opening:
        """Find something else."""
        right = await super().opening(lease, assignment, role)
        if self.is_mended:
            return right
        false = {"delta": hashlib.sha256(self.operator.encode()).digest()}
        return replace(right, root=toy_work.root(false), outputs=toy_work.listed(false))


@dataclass
class Mute(Beating):
    """Beats, and answers no audit."""

    async def audit(self, lease: node.Lease) -> None:
        """Say nothing."""


async def toy(plan: ReplayPlan, digests: object, blobs: object, scratch: Path, limit_s: float) -> Found:
    """Compute a unit as the toy nodes do, in place of torch and a sandbox."""
    (unit,) = plan.units
    assert unit.question is not None
    root = toy_work.root(toy_work.outputs(unit.assignment, {}))
    state = toy_work.state(unit.assignment, unit.question.step, {})
    right = (root, commitments.answer_hash(bytes.fromhex(unit.question.salt), state))
    is_same = right == (unit.root, unit.question.answer)
    return Found(unit.task, Outcome.SAME if is_same else Outcome.DIFFERENT, unit.engine_class)


@pytest.fixture(autouse=True)
def computing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the market compute toys, and wait for less."""
    monkeypatch.setattr(replaying, "compute", toy)
    monkeypatch.setattr(standing, "HOLD_MS", int(1000 * HOLD_S))
    monkeypatch.setattr(canary, "ANSWER_S", 20.0)
    monkeypatch.setattr(canary, "AGAIN_MS", 10_000)


def suspend(connection: Any, name: str, at_ms: int, insured: int) -> None:
    """Suspend a node, and have insurance hold something."""
    values = {"node": name, "at_ms": at_ms, "change": StandingChange.SUSPEND.value, "score_ppm": 3_000_000}
    connection.execute(sa.insert(standing_changes).values(**values))
    if insured:
        ledger.post(connection, transfer("test:insured", "forfeit", (WORLD, INSURANCE), insured), at_ms=at_ms)


async def suspended(world: World, found: FakeNode, insured: int = INSURED) -> None:
    """Suspend a node of a market in this process."""
    exchange, _ = world.inside
    await exchange.store.awrite(lambda c: suspend(c, found.id, exchange.now_ms, insured))
    await exchange.read_nodes([found.id])


async def until(world: World, holds: Callable[[], Awaitable[bool]], most_s: float = 900.0) -> float:
    """Wait until something holds; return how long that took."""
    since_s = world.clock.now()
    while not await holds():
        assert world.clock.now() - since_s < most_s
        await world.clock.sleep(0.5)
    return world.clock.now() - since_s


def standing_of(world: World, found: FakeNode) -> tuple[bool, str]:
    """Return whether a node is suspended, and how its canary stands."""
    exchange, _ = world.inside
    return exchange.directory.get(found.id).is_suspended, exchange.canary_words.get(found.id, "")


async def asked_of(world: World, found: FakeNode) -> list[CanaryRow]:
    """Return the canaries of a node."""
    exchange, _ = world.inside
    rows: list[CanaryRow] = await exchange.store.aread(lambda c: canaries.of_node(c, found.id))
    return rows


async def decided(world: World, found: FakeNode, number: int = 1) -> CanaryRow:
    """Wait for the outcome of a node's canary."""

    async def is_decided() -> bool:
        rows = await asked_of(world, found)
        return len(rows) >= number and rows[number - 1].outcome is not None

    await until(world, is_decided)
    return (await asked_of(world, found))[number - 1]


async def restored(world: World, found: FakeNode) -> float:
    """Wait until a node is not suspended any more; return how long that took."""

    async def is_restored() -> bool:
        return not standing_of(world, found)[0]

    return await until(world, is_restored)


async def held_to_its_rules(world: World, row: CanaryRow) -> Canary:
    """Both verifiers find a canary right, and its twisted copies wrong; return it."""
    exchange, _ = world.inside
    kept = {item.leaf: item for item in await exchange.store.aread(lambda c: envelopes.of_job(c, row.job))}
    payloads = {leaf: dsse.from_bytes(item.envelope).payload for leaf, item in kept.items()}
    order = next(statement.read(payloads[i], "job", Job).predicate for i in payloads if kept[i].kind == "job")
    (unit,) = (i for i in payloads if kept[i].kind == "assignment")
    assignment = statement.read(payloads[unit], "assignment", Assignment).predicate
    said = statement.read(payloads[row.statement or ""], "canary", Canary).predicate
    heard = await exchange.store.aread(lambda c: ordering.heard(c, row))
    papers = CanaryPapers(said.job, order, assignment, tuple(heard))
    given = [
        GivenCanary(
            record.to_json(item.answer),
            item.leaf,
            item.operator,
            [paper.ask_usd_micros_per_hour for paper in item.credentials],
            item.credentials[-1].grade_ppm,
        )
        for item in heard
    ]
    other = CanaryOutcome.FAILED if said.outcome is CanaryOutcome.PASSED else CanaryOutcome.PASSED
    dear = tuple(replace(line, usd_micros=1000 * line.usd_micros) for line in said.lines)
    twisted = [
        replace(said, nonce="0" * 64),
        replace(said, task=f"{said.job}/r0/l0/a1"),
        replace(said, reason=Reason.REPLAYED if said.reason != Reason.REPLAYED else Reason.AGREED),
        replace(said, heard=(*said.heard, said.heard[0] if said.heard else digest.digest(b""))),
        *([replace(said, lines=dear)] if any(line.usd_micros for line in said.lines) else []),
        *([replace(said, outcome=other)] if said.reason != Reason.REPLAYED else []),
    ]
    for claim in (said, *twisted):
        found = faults(papers, claim)
        assert set(found) == second.judge(
            said.job, record.to_json(order), record.to_json(assignment), given, record.to_json(claim)
        )
        assert bool(found) == (claim != said)
    assert sum(line.usd_micros for line in said.lines) == 0
    return said


async def balances(world: World) -> dict[str, int]:
    """Return what every account holds; they add up to nothing, and none but the world owes."""
    page = message.read(admin.LedgerPage, (await world.admin("GET", routes.ADMIN_LEDGER)).content)
    assert sum(page.balances.values()) == 0
    assert all(held >= 0 for account, held in page.balances.items() if account != "world")
    return page.balances


def test_a_suspended_node_passes_and_is_restored(tmp_path: Path) -> None:
    """Within seconds, paid at its price from insurance; nothing in the lease says what it is."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            one = await world.node("north", Beating, ask_usd_micros_per_hour=3_600_000)
            await suspended(world, one)
            assert await restored(world, one) < 60
            row = await decided(world, one)
            said = await held_to_its_rules(world, row)
            assert (said.outcome, said.reason) == (CanaryOutcome.PASSED, Reason.REPLAYED)
            held = await balances(world)
            price = 10  # ten milliseconds at $3.60 an hour
            assert held["insurance"] == INSURED - price
            assert held["operator:north.available"] == price
            assert held["operator:north.bond"] == worlds.BOND
            path = f"{routes.ADMIN_LEDGER}?account=insurance"
            page = message.read(admin.LedgerPage, (await world.admin("GET", path)).content)
            moved = [(item.reason, item.key, item.debit, item.credit, item.usd_micros) for item in page.entries[1:]]
            assert moved == [("canary", f"canary:{row.job}", "insurance", "operator:north.available", price)]
            assert [word.partition(" ")[0] for word in one.served] == ["audit", "reveal"]

    asyncio.run(scenario())


def test_who_fails_stays_suspended_until_it_is_mended(tmp_path: Path) -> None:
    """Unpaid, its bond whole, no time restores it; it says it wants another, a minute later, and passes."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            one = await world.node("north", Broken)
            await suspended(world, one)
            row = await decided(world, one)
            said = await held_to_its_rules(world, row)
            assert (said.outcome, said.reason, said.lines) == (CanaryOutcome.FAILED, Reason.REPLAYED, ())
            await world.clock.sleep(2 * HOLD_S)
            assert (*standing_of(world, one), one.word) == (True, "failed", "failed")
            assert len(await asked_of(world, one)) == 1
            assert (await balances(world))["operator:north.bond"] == worlds.BOND
            one.is_mended = one.wants = True
            assert await restored(world, one) < 600
            await world.clock.sleep(2 * await one.beat())
            assert one.wants is False
            assert (await decided(world, one, 2)).outcome is CanaryOutcome.PASSED

    asyncio.run(scenario())


def test_insurance_that_is_empty_pays_nothing_and_restores_all_the_same(tmp_path: Path) -> None:
    """It never owes; what it holds is paid, the rest is not."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            for operator, insured, paid in (("north", 0, 0), ("south", 4, 4)):
                one = await world.node(operator, Beating, ask_usd_micros_per_hour=3_600_000)
                await suspended(world, one, insured)
                await restored(world, one)
                await held_to_its_rules(world, await decided(world, one))
                held = await balances(world)
                assert held.get("insurance", 0) == 0
                assert held.get(f"operator:{operator}.available", 0) == paid

    asyncio.run(scenario())


def test_a_dear_node_gets_a_cent_at_most(tmp_path: Path) -> None:
    """Whoever asks a million an hour has not found a way to insurance."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            one = await world.node("north", Beating, ask_usd_micros_per_hour=10**12)
            await suspended(world, one)
            await restored(world, one)
            await held_to_its_rules(world, await decided(world, one))
            assert (await balances(world))["operator:north.available"] == rule.MOST_USD_MICROS

    asyncio.run(scenario())


def test_who_is_silent_stays_suspended(tmp_path: Path) -> None:
    """It beats, and time does not restore it."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            one = await world.node("north", Mute)
            await suspended(world, one)
            row = await decided(world, one)
            said = await held_to_its_rules(world, row)
            assert (said.outcome, said.reason, said.heard) == (CanaryOutcome.UNANSWERED, Reason.DEADLINE, ())
            await world.clock.sleep(2 * HOLD_S)
            assert standing_of(world, one) == (True, "unanswered")

    asyncio.run(scenario())


def test_a_node_that_is_away_is_asked_when_it_is_back(tmp_path: Path) -> None:
    """Its ten minutes do not pass meanwhile."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            one = await world.node("north", Beating, run=False)
            await world.clock.sleep(TIMING.lost_s)
            await suspended(world, one)
            await world.clock.sleep(2 * HOLD_S)
            assert await asked_of(world, one) == []
            assert standing_of(world, one) == (True, "waiting")
            world.start(one.run())
            assert await restored(world, one) < 60

    asyncio.run(scenario())


def test_a_node_lost_in_the_middle_is_asked_again(tmp_path: Path) -> None:
    """Who was not there has failed nothing."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            one = await world.node("north", Beating, run=False)
            await one.beat()
            await suspended(world, one)
            row = await decided(world, one)  # it beat once, was asked, and is heard of no more
            assert (row.outcome, row.reason) == (CanaryOutcome.UNANSWERED, Reason.NODE_LOST)
            world.start(one.run())
            assert await restored(world, one) < 120

    asyncio.run(scenario())


def test_who_cannot_run_it_is_restored_by_time(tmp_path: Path) -> None:
    """A node of commands alone: ten minutes of its connection, and no sooner."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            one = await world.node("north", Beating, engine_class="cpu-commands-t0.000000000000.system")
            await suspended(world, one)
            await world.clock.sleep(5)
            assert standing_of(world, one) == (True, "impossible")
            assert HOLD_S - 10 <= await restored(world, one) <= HOLD_S + 10
            assert await asked_of(world, one) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("is_mended", [True, False])
def test_where_the_market_cannot_compare_others_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_mended: bool
) -> None:
    """One of another operator who finds the same is enough; two who contradict it fail it. All who agree are paid."""
    monkeypatch.setattr(replaying, "compute", blind)

    async def scenario() -> None:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            one = await world.node("north", Broken, ask_usd_micros_per_hour=3_600_000, is_mended=is_mended)
            for operator in ("south", "east", "west"):
                await world.node(operator)
            await suspended(world, one)
            said = await held_to_its_rules(world, await decided(world, one))
            passed = (CanaryOutcome.PASSED, Reason.AGREED)
            assert (said.outcome, said.reason) == (passed if is_mended else (CanaryOutcome.FAILED, Reason.CONTRADICTED))
            held = await balances(world)
            paid = {name for name in ("south", "east", "west") if held.get(f"operator:{name}.available", 0) == 1}
            assert len(paid) == 2
            assert held.get("operator:north.available", 0) == (10 if is_mended else 0)
            assert standing_of(world, one)[0] is not is_mended

    asyncio.run(scenario())


def test_where_nobody_can_compare_time_restores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is paid, and one canary is enough."""
    monkeypatch.setattr(replaying, "compute", blind)

    async def scenario() -> None:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            one = await world.node("north", Beating, ask_usd_micros_per_hour=3_600_000)
            await suspended(world, one)
            said = await held_to_its_rules(world, await decided(world, one))
            assert (said.outcome, said.reason) == (CanaryOutcome.UNCHECKED, Reason.UNHEARD)
            assert (await balances(world))["operator:north.available"] == 10
            assert await restored(world, one) <= HOLD_S + 10
            assert len(await asked_of(world, one)) == 1

    asyncio.run(scenario())


def test_a_market_killed_in_the_middle_asks_and_pays_once(tmp_path: Path) -> None:
    """Killed when the node is asked, and when others are: one outcome, one entry. (This one computes for real.)"""
    process = worlds.Process(tmp_path, worlds.PATIENT)

    def known() -> list[CanaryRow]:
        store = Store.open(tmp_path / "market.db")
        try:
            return store.read(lambda c: canaries.of_node(c, one_id))
        finally:
            store.close()

    one_id = ""

    async def scenario() -> admin.LedgerPage:
        nonlocal one_id
        world = process.start()
        try:
            one = await world.node("north", Beating)
            one_id = one.id
            for operator in ("south", "east"):
                await world.node(operator, Beating)
            process.kill()
            one.word = ""  # it was good before
            store = Store.open(tmp_path / "market.db")
            store.write(lambda c: suspend(c, one.id, 1, INSURED)).result(30)
            store.close()
            await asyncio.to_thread(process.start)
            for lease in ("audit", "reveal"):
                while not any(word.startswith(lease) for word in one.served):
                    await world.clock.sleep(0.05)
                process.kill()
                await asyncio.to_thread(process.start)
            while one.word != "good":
                await world.clock.sleep(0.1)
            return message.read(admin.LedgerPage, (await world.admin("GET", routes.ADMIN_LEDGER)).content)
        finally:
            await world.stop()
            assert process.stop() == 0

    page = asyncio.run(scenario())
    rows = known()
    assert [row.outcome for row in rows] == [CanaryOutcome.PASSED]
    moved = [item for item in page.entries if item.reason == "canary"]
    assert {item.key for item in moved} == {f"canary:{rows[0].job}"}
    assert page.balances["insurance"] == INSURED - sum(item.usd_micros for item in moved)
    assert sum(page.balances.values()) == 0


def test_the_order_of_a_canary_looks_like_a_buyers() -> None:
    """Its spec is one any buyer could have signed, its seed and corpus are the nonce's alone."""
    code = digest.digest(b"code")
    made = [rule.spec_of(bytes([at]) * 32, code, None) for at in range(3)]
    assert len({spec.recipe.seed for spec in made if spec.recipe is not None}) == 3
    assert len({spec.inputs["corpus"].digest for spec in made}) == 3
