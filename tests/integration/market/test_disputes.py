"""Disputed bonds on a whole market: heard by operators who had no part, or computed by the market; then money moves."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from tests.integration.market import toy_work
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import TRUST, FakeBuyer, command_spec, train_spec
from tests.integration.market.fake_node import FakeNode, LyingNode, Opening
from tests.integration.market.quiet import QuietClock
from tests.integration.market.test_market_jobs import case_of, check
from tests.integration.market.test_market_process import answered
from tests.integration.market.world import World
from tests.second_verifier import appeal as second
from tests.second_verifier.appeal import Given
from tests.second_verifier.evidence import Case as SecondCase
from tests.second_verifier.evidence import File, Findings, Pins
from tests.second_verifier.values import read_json

from stannary.errors import AuthError
from stannary.formats import digest, dsse, record, statement
from stannary.formats.digest import Digest
from stannary.formats.ids import NodeId, TaskId
from stannary.formats.jobspec import Auditors, JobSpec, Verification
from stannary.formats.predicates import (
    Answer,
    Appeal,
    Assignment,
    Credential,
    Receipt,
    Role,
    Ruling,
    RulingOutcome,
    SettlementLine,
    Verdict,
)
from stannary.jobs.appealing import DisputeRow
from stannary.jobs.states import DisputeStage
from stannary.market.engine import replaying, ruling
from stannary.market.engine.appealing import SCRATCH
from stannary.rules.reasons import Reason
from stannary.store import disputes, envelopes, ledger, nodes, schema
from stannary.verify.appealed import RulingReport, verify_ruling
from stannary.verify.case import Case
from stannary.verify.recomputation import Found, Outcome, Unit
from stannary.verify.report import Report
from stannary.verify.ruling import DisputedBond, Heard, Papers, faults
from stannary.verify.trust import TrustStore, pin
from stannary.wire import admin, message, node, routes

OUTSIDERS = ("xylem", "yarrow", "zinnia")
OTHERS = ("north", "south")
CEILING, DEAR = 150_000, 200_000  # of the buyer, and what an outsider asks: too dear to work or audit, not to hear
TIMING = replace(worlds.QUICK, answer_floor_s=60.0, appeal_s=60.0)


@dataclass
class Friend(FakeNode):
    """Works honestly, and as auditor tells, of a victim's work, the same lie as every other friend."""

    victim: str = ""

    async def opening(self, lease: node.Lease, assignment: Assignment, role: Role) -> Opening:
        """Accuse the victim alone: the first attempt at each unit is his."""
        honest = await super().opening(lease, assignment, role)
        if role is Role.PROVER or not assignment.task.endswith("r0/l0/a0"):
            return honest
        false = {"delta": hashlib.sha256(assignment.task.encode()).digest()}
        answer = hashlib.sha256(b"answer " + assignment.task.encode()).hexdigest()
        root = toy_work.root(false, honest.ended)
        return Opening(honest.blind, answer, root, toy_work.listed(false), role, honest.ended)


@dataclass
class BusyOutsider(FakeNode):
    """Honest, and without room until it is let go."""

    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def next_lease(self) -> node.Lease | None:
        """Ask for nothing while it is busy."""
        if self.let_go.is_set():
            return await super().next_lease()
        await self.clock.sleep(1.0)
        return None


@dataclass
class Ruled:
    """How a dispute ended."""

    row: DisputeRow
    ruling: Ruling
    papers: Papers
    case: Case
    report: Report
    receipt: Receipt
    data: bytes  # its file
    pins: Pins
    checked: RulingReport  # of its file, as its buyer gets it
    balances: dict[str, int]
    standing: dict[str, bool]  # operator -> whether its node may work
    words: list[str]  # of the events about the bond


def ours(exclude: Sequence[str] = (), ceiling: int = CEILING, rounds: int = 1, **more: Any) -> JobSpec:
    """Return a job in a recipe of this package, of which every unit is recomputed."""
    lists: dict[str, Any] = {"exclude_operators": tuple(exclude), "max_price_usd_micros_per_hour": ceiling, **more}
    return train_spec(rounds=rounds, lanes=1, is_ours=True, trust=replace(TRUST, **lists))


async def disputed(
    world: World,
    cls: type[FakeNode] = LyingNode,
    *,
    accused: str = "odd",
    others: type[FakeNode] = FakeNode,
    outsiders: Sequence[str] = OUTSIDERS,
    outsider: type[FakeNode] = FakeNode,
) -> tuple[FakeBuyer, str, FakeNode]:
    """Have one work and two others compute it again; return the buyer, his job, and whose bond will be disputed.

    Outsiders are too dear for the buyer: they hear the appeal.
    """
    made = await world.node(accused, cls, ask_usd_micros_per_hour=90_000)
    for operator in OTHERS:
        await world.node(operator, others)
    for operator in outsiders:
        await world.node(operator, outsider, ask_usd_micros_per_hour=DEAR)
    bob = await world.buyer("bob")
    job = (await bob.submit(ours())).id
    world.start(bob.broker(job))
    return bob, job, made


async def ruled(world: World, bob: FakeBuyer, job: str) -> Ruled:
    """Wait until the one dispute of an ended job is decided."""
    exchange, _ = world.inside
    await bob.finished(job)
    while True:
        (row,) = await exchange.store.aread(lambda c: disputes.of_job(c, job))
        if row.ruling is not None:
            break
        await world.clock.sleep(0.1)
    data = await bob.receipt(job)
    kept = {item.leaf: item for item in await exchange.store.aread(lambda c: envelopes.of_job(c, job))}

    def read(leaf: str, kind: str, cls: type) -> object:  # type: ignore[type-arg]
        return statement.read(dsse.from_bytes(kept[leaf].envelope).payload, kind, cls).predicate

    said = read(row.ruling, "ruling", Ruling)
    assert isinstance(said, Ruling)
    heard = []
    for leaf in said.heard:
        answer = read(leaf, "answer", Answer)
        assert isinstance(answer, Answer)
        held = await exchange.store.aread(lambda c, who=answer.node: nodes.credential_of(c, who))
        paper = statement.read(dsse.from_bytes(held.envelope).payload, "credential", Credential).predicate
        heard.append(Heard(answer, paper, leaf))
    report = check(world, data)
    assert report.claims is not None
    path = routes.node(routes.job(routes.JOB_RULING, job), row.node)
    file = (await bob.call("GET", path)).content
    trust = TrustStore(()).with_market(pin(world.vkey, world.witness_vkeys))
    checked = verify_ruling(file, trust, int(exchange.clock.now()))
    assert row.appeal is not None
    appeal = read(row.appeal, "appeal", Appeal)
    assert isinstance(appeal, Appeal)
    papers = Papers(appeal, Digest(row.appeal), tuple(heard))
    rows = await exchange.store.aread(nodes.all_nodes)
    standing = {item.operator: item.revoked_at_ms is None and item.convicted_at_ms is None for item in rows}
    balances = await exchange.store.aread(ledger.all_balances)
    words = [event.message for event in await bob.events(job) if event.type.startswith("bond.")]
    pins = Pins(world.vkey, world.witness_vkeys, ())
    receipt = report.claims.receipt
    return Ruled(
        row, said, papers, case_of(data), report, receipt, data, pins, checked, dict(balances), standing, words
    )


def second_opinion(got: Ruled, said: Ruling) -> set[str]:
    """What the second verifier finds of a ruling on the same papers."""
    file = File(read_json(got.data), [got.pins], 2**40, Findings(), has_floors=False)
    told = [
        Given(
            record.to_json(item.answer), item.credential.operator, item.credential.engine_class,
            item.credential.ask_usd_micros_per_hour, item.leaf,
        )
        for item in got.papers.heard
    ]  # fmt: skip
    dispute = (got.ruling.task, got.row.node)
    appeal = (got.papers.appeal_leaf, record.to_json(got.papers.appeal))
    return second.judge(
        SecondCase(file.open_evidence()), dispute, appeal, told, record.to_json(said), record.to_json(got.receipt)
    )


def held_to_its_rules(got: Ruled) -> None:
    """What anybody can check of a ruling holds, money is conserved, and the receipt was not waited for."""
    dispute = DisputedBond(got.case, got.receipt, got.ruling.task, got.ruling.node)
    assert faults(dispute, got.papers, got.ruling) == []
    assert second_opinion(got, got.ruling) == set()
    dear = [replace(line, usd_micros=2 * line.usd_micros) for line in got.ruling.lines]
    otherwise = RulingOutcome.RELEASED if got.ruling.outcome is RulingOutcome.FORFEITED else RulingOutcome.FORFEITED
    wrong = [
        replace(got.ruling, outcome=otherwise),
        replace(got.ruling, checkpoint_root=digest.digest(b"another")),
        replace(got.ruling, reason="said-so"),
        replace(got.ruling, node=got.case.contributions[got.ruling.task].predicate.node[:-1] + "x"),
        replace(got.ruling, lines=tuple(dear)),
        replace(got.ruling, heard=(got.papers.appeal_leaf,)),
    ]
    for said in wrong:
        found = faults(dispute, got.papers, said)
        assert set(found) == second_opinion(got, said)
        assert found or said == got.ruling or not got.ruling.heard  # where nobody was drawn, any checkpoint will do
    assert [item for item in got.checked.findings if item.severity != "notice"] == []
    assert got.checked.exit_code == 0
    assert got.checked.ruling == got.ruling
    assert got.checked.dispute is not None
    assert got.checked.dispute.to_replay() == dispute.to_replay()
    assert sum(line.usd_micros for line in got.ruling.lines) == 0
    assert sum(got.balances.values()) == 0
    assert [item for item in got.report.findings if item.severity == "refuted"] == []


def test_three_who_had_no_part_convict_a_liar(tmp_path: Path) -> None:
    """They are too dear for the buyer's work, and hear the appeal: two agree against the liar, who pays them."""

    async def scenario() -> tuple[Ruled, str]:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            bob, job, liar = await disputed(world)
            return await ruled(world, bob, job), liar.id

    got, liar = asyncio.run(scenario())
    held_to_its_rules(got)
    assert (got.ruling.outcome, got.ruling.reason) == (RulingOutcome.FORFEITED, Reason.TWO_OF_THREE)
    assert {item.operator for item in got.papers.appeal.candidates} == set(OUTSIDERS)
    took = {line.task: -line.usd_micros for line in got.ruling.lines if line.account == "bond:odd"}
    most = DisputedBond(got.case, got.receipt, got.ruling.task, got.ruling.node).most(got.ruling.node)
    assert took == {liar: most}
    assert 0 < most < worlds.BOND
    assert got.balances["operator:odd.bond"] == worlds.BOND - most
    paid = {got.balances[f"operator:{name}.available"] for name in OUTSIDERS}
    assert len(paid) == 1
    assert min(paid) > 0
    assert got.standing == {**dict.fromkeys(("north", "south", *OUTSIDERS), True), "odd": False}
    assert len(got.words) == 3
    assert "loses" in got.words[-1]


def test_a_buyer_with_two_friends_takes_nothing_from_a_victim(tmp_path: Path) -> None:
    """He pays nobody but a cheap victim and two friends who lie alike: the appeal clears it, the friends pay."""

    async def scenario() -> Ruled:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            bob, job, _ = await disputed(world, FakeNode, accused="victim", others=Friend)
            return await ruled(world, bob, job)

    got = asyncio.run(scenario())
    held_to_its_rules(got)
    assert (got.ruling.outcome, got.ruling.reason) == (RulingOutcome.RELEASED, Reason.TWO_OF_THREE)
    assert got.balances["operator:victim.bond"] == worlds.BOND
    (cleared,) = [line for line in got.ruling.lines if line.reason == "cleared"]
    assert cleared.account == "operator:victim"
    assert cleared.usd_micros > 0
    for friend in OTHERS:
        assert got.balances[f"operator:{friend}.bond"] < worlds.BOND
    assert got.standing == {**dict.fromkeys(("victim", *OUTSIDERS), True), **dict.fromkeys(OTHERS, False)}


def test_who_loses_two_appeals_of_a_job_pays_no_more_than_a_job_can_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another ruling of the job took of the friends' bonds comes off what this one may take."""
    rule_on, before = ruling.rule_on, 7

    def rule_behind_another(connection: Connection, row: DisputeRow, *rest: Any) -> list[str]:
        other = next(node.node for node in nodes.all_nodes(connection) if node.operator == OUTSIDERS[0])
        friends = [node for node in nodes.all_nodes(connection) if node.operator in OTHERS]
        lines = [SettlementLine(f"bond:{item.operator}", item.node, "forfeit", -before) for item in friends]
        disputes.open_(connection, replace(row, node=other, stage=DisputeStage.DISPUTED))
        values = {"stage": DisputeStage.RELEASED.value, "lines": [record.to_json(line) for line in lines]}
        connection.execute(sa.update(schema.disputes).where(schema.disputes.c.node == other).values(**values))
        return rule_on(connection, row, *rest)

    async def scenario() -> tuple[DisputeRow, Case, Receipt]:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            monkeypatch.setattr(ruling, "rule_on", rule_behind_another)
            bob, job, victim = await disputed(world, FakeNode, accused="victim", others=Friend)
            exchange, _ = world.inside
            await bob.finished(job)
            while True:
                rows = await exchange.store.aread(lambda c: disputes.of_job(c, job))
                row = next(item for item in rows if item.node == victim.id)
                if row.ruling is not None:
                    break
                await world.clock.sleep(0.1)
            data = await bob.receipt(job)
            claims = check(world, data).claims
            assert claims is not None
            return row, case_of(data), claims.receipt

    row, case, receipt = asyncio.run(scenario())
    dispute = DisputedBond(case, receipt, TaskId(row.task), NodeId(row.node))
    took = {line["task"]: line["usd_micros"] for line in row.lines or () if str(line["account"]).startswith("bond:")}
    assert took == {friend: before - dispute.most(friend) for friend in dispute.accusers}
    assert len(took) == len(OTHERS)


def test_three_nodes_of_two_operators_convict_nobody(tmp_path: Path) -> None:
    """A liar, and two nodes of one operator who say so: nobody is paid for the unit, and no bond is in question.

    Nor can a node choose the name it is counted by: the token says it.
    """

    async def scenario() -> tuple[list[DisputeRow], dict[str, int], list[Verdict]]:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            await world.node("odd", LyingNode, ask_usd_micros_per_hour=90_000)
            for _ in range(2):
                await world.node("north")
            stranger = FakeNode(world.url, "third", transport=world.transport, clock=world.clock)
            with pytest.raises(AuthError, match="of another operator"):
                await stranger.join(await world.join_token("north"))
            await stranger.client.aclose()
            bob = await world.buyer("bob")
            job = (await bob.submit(ours())).id
            world.start(bob.broker(job))
            exchange, _ = world.inside
            await bob.finished(job)
            report = check(world, await bob.receipt(job))
            assert not [item for item in report.findings if item.severity == "refuted"]
            assert report.claims is not None
            said = [item.predicate.verdict for item in report.claims.case.verdicts]
            rows = await exchange.store.aread(lambda c: disputes.of_job(c, job))
            return rows, dict(await exchange.store.aread(ledger.all_balances)), said

    rows, balances, said = asyncio.run(scenario())
    assert rows == []
    assert Verdict.REFUTED not in said
    assert Verdict.UNVERIFIED in said
    assert balances["operator:odd.bond"] == worlds.BOND
    assert balances["operator:north.bond"] == 2 * worlds.BOND


@pytest.mark.parametrize("auditors", [None, Auditors.LISTED])
def test_a_buyers_lists_choose_no_judges(tmp_path: Path, auditors: Auditors | None) -> None:
    """He excludes everybody but a cheap victim and two friends: its bond stays whole, whoever the beacon asks first.

    Without more, honest operators audit too. Where he narrows auditors as well, the friends may strike the victim, and
    nobody's bond is in question.
    """

    async def scenario() -> tuple[str, dict[str, int], list[DisputeRow], list[Verdict]]:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            victim = await world.node("victim", ask_usd_micros_per_hour=90_000)
            for operator in ("friend-1", "friend-2"):
                await world.node(operator, Friend)
            for operator in OUTSIDERS:
                await world.node(operator)
            bob = await world.buyer("bob")
            job = (await bob.submit(ours(OUTSIDERS, auditors=auditors))).id
            world.start(bob.broker(job))
            exchange, _ = world.inside
            await bob.finished(job)
            while any(row.ruling is None for row in await exchange.store.aread(lambda c: disputes.of_job(c, job))):
                await world.clock.sleep(0.1)
            report = check(world, await bob.receipt(job))
            assert not [item for item in report.findings if item.severity == "refuted"]
            assert report.claims is not None
            drawn = {item.node for made in report.claims.case.candidates.values() for item in made.predicate.candidates}
            rows = await exchange.store.aread(lambda c: disputes.of_job(c, job))
            listed = {node.operator for node in await exchange.store.aread(nodes.all_nodes) if node.node in drawn}
            assert (set(OUTSIDERS) <= listed) is (auditors is None)
            said = [item.predicate.verdict for item in report.claims.case.verdicts]
            return victim.id, dict(await exchange.store.aread(ledger.all_balances)), rows, said

    victim, balances, rows, said = asyncio.run(scenario())
    assert balances["operator:victim.bond"] == worlds.BOND
    assert all(row.node != victim or row.stage is DisputeStage.RELEASED for row in rows)
    if auditors is not None:
        assert rows == []
        assert Verdict.REFUTED not in said
        assert all(balances[f"operator:{name}.bond"] == worlds.BOND for name in ("friend-1", "friend-2"))


def test_a_hearing_waits_for_who_is_busy_whatever_the_clock_says(tmp_path: Path) -> None:
    """Busy for long, while the clock is set an hour ahead: the window does not end, nobody is silent, all are heard."""

    async def scenario() -> tuple[Ruled, list[str]]:
        async with worlds.inside(tmp_path, replace(TIMING, appeal_s=600.0), witness=False) as world:
            assert isinstance(world.clock, QuietClock)
            bob, job, _ = await disputed(world, outsider=BusyOutsider)
            await told(world, bob, job, "bond.hearing")
            await world.clock.sleep(60.0)
            world.clock.ahead_s = 3600.0
            await world.clock.sleep(60.0)
            waits = [event.type for event in await bob.events(job)]
            for item in world.nodes:
                if isinstance(item, BusyOutsider):
                    item.let_go.set()
            return await ruled(world, bob, job), waits

    got, waits = asyncio.run(scenario())
    held_to_its_rules(got)
    assert "bond.forfeited" not in waits
    assert "bond.replaying" not in waits
    assert not [kind for kind in waits if kind in ("audit.untaken", "audit.silent")]
    assert (got.ruling.outcome, got.ruling.reason) == (RulingOutcome.FORFEITED, Reason.TWO_OF_THREE)
    assert len(got.papers.heard) == 3


def test_who_never_has_room_is_not_silent_and_the_market_computes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window passes, and its offers are closed as untaken; the market's own replay decides."""

    async def replay(case: Case, unit: Unit, blobs: object, scratch: Path, limit_s: float) -> Found:
        return Found(unit.task, Outcome.DIFFERENT, unit.engine_class)

    monkeypatch.setattr(replaying, "replay", replay)

    async def scenario() -> tuple[Ruled, list[str]]:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            bob, job, _ = await disputed(world, outsider=BusyOutsider)
            got = await ruled(world, bob, job)
            return got, [event.type for event in await bob.events(job)]

    got, kinds = asyncio.run(scenario())
    held_to_its_rules(got)
    assert kinds.count("audit.untaken") == 3
    assert "audit.silent" not in kinds
    assert (got.ruling.outcome, got.ruling.reason) == (RulingOutcome.FORFEITED, Reason.REPLAYED)
    assert all(got.standing[name] for name in OUTSIDERS)


def test_an_accused_node_keeps_the_work_of_other_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two friends of a buyer accuse an honest node: while that is open it works for another buyer as before."""
    goes_on = asyncio.Event()

    async def replay(case: Case, unit: Unit, blobs: object, scratch: Path, limit_s: float) -> Found:
        await goes_on.wait()
        return Found(unit.task, Outcome.SAME, unit.engine_class)

    monkeypatch.setattr(replaying, "replay", replay)

    async def scenario() -> tuple[Ruled, list[str], list[str]]:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            bob, job, victim = await disputed(world, FakeNode, accused="victim", others=Friend, outsiders=())
            await told(world, bob, job, "bond.replaying")
            ada = await world.buyer()
            trust = replace(TRUST, verify=Verification.NONE, max_price_usd_micros_per_hour=90_000)
            other = (await ada.submit(command_spec(trust=trust))).id
            await ada.finished(other)
            done = [line for line in victim.served if line.startswith("work")]
            beat = node.Heartbeat(state=node.NodeState.IDLE, leases=[], version="fake")
            answer = message.read(node.HeartbeatAnswer, (await victim.call(routes.HEARTBEAT, beat)).content)
            said = [item.stage for item in answer.disputes]
            goes_on.set()
            return await ruled(world, bob, job), done, said

    got, done, said = asyncio.run(scenario())
    assert len(done) == 2
    assert said == ["replaying"]
    assert (got.ruling.outcome, got.standing["victim"]) == (RulingOutcome.RELEASED, True)


def test_a_replay_keeps_no_other_appeal_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the market computes one unit, another dispute is computed and ruled on; then the first one is."""
    goes_on, begun = asyncio.Event(), []

    async def replay(case: Case, unit: Unit, blobs: object, scratch: Path, limit_s: float) -> Found:
        begun.append(unit.task)
        if len(begun) == 1:
            await goes_on.wait()
        return Found(unit.task, Outcome.DIFFERENT, unit.engine_class)

    monkeypatch.setattr(replaying, "replay", replay)

    async def scenario() -> tuple[Ruled, Ruled, bool]:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            bob, first, odd = await disputed(world, outsiders=())
            await told(world, bob, first, "bond.replaying")
            while not begun:
                await world.clock.sleep(0.5)
            await world.admin(
                "POST", routes.node(routes.ADMIN_NODE_REVOKE, odd.id)
            )  # or the beacon may ask it to audit
            await world.node("odd-2", LyingNode, ask_usd_micros_per_hour=90_000)
            second_job = (await bob.submit(ours())).id
            world.start(bob.broker(second_job))
            other = await ruled(world, bob, second_job)
            exchange, _ = world.inside
            (row,) = await exchange.store.aread(lambda c: disputes.of_job(c, first))
            goes_on.set()
            return await ruled(world, bob, first), other, row.ruling is None

    got, other, waited = asyncio.run(scenario())
    assert waited
    for item in (got, other):
        assert (item.ruling.outcome, item.ruling.reason) == (RulingOutcome.FORFEITED, Reason.REPLAYED)


@pytest.mark.parametrize(
    ("outcome", "left"), [(Outcome.DIFFERENT, "some"), (Outcome.SAME, "all"), (Outcome.UNCHECKED, "all")]
)
def test_with_two_outsiders_the_market_computes_it_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, left: str
) -> None:
    """Two outsiders decide nothing; where the market cannot compute it either, nobody loses anything."""
    seen: list[Unit] = []

    async def replay(case: Case, unit: Unit, blobs: object, scratch: Path, limit_s: float) -> Found:
        seen.append(unit)
        return Found(unit.task, outcome, unit.engine_class)

    monkeypatch.setattr(replaying, "replay", replay)

    async def scenario() -> Ruled:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            bob, job, _ = await disputed(world, outsiders=OUTSIDERS[:2])
            return await ruled(world, bob, job)

    got = asyncio.run(scenario())
    held_to_its_rules(got)
    assert [unit.task for unit in seen] == [got.ruling.task]
    assert seen[0].root == got.case.contributions[got.ruling.task].predicate.root
    assert got.ruling.reason == (Reason.UNHEARD if outcome is Outcome.UNCHECKED else Reason.REPLAYED)
    assert (got.balances["operator:odd.bond"] == worlds.BOND) is (left == "all")
    accusers = ("north", "south")
    is_cleared = outcome is Outcome.SAME
    assert all((got.balances[f"operator:{name}.bond"] < worlds.BOND) is is_cleared for name in accusers)
    assert got.standing["odd"] is (outcome is not Outcome.DIFFERENT)


@pytest.mark.parametrize(
    ("num_outsiders", "kinds"),
    [
        (3, ["bond.disputed", "bond.hearing", "bond.forfeited"]),
        # the market does not come to an end of it in the time it has: nobody loses
        (2, ["bond.disputed", "bond.replaying", "bond.released"]),
    ],
)
def test_a_market_killed_between_finding_and_ruling_rules_once(
    tmp_path: Path, num_outsiders: int, kinds: list[str]
) -> None:
    """Killed when the bond is disputed, and again when it is heard or computed: one ruling, its money moves once."""
    process = worlds.Process(tmp_path, replace(worlds.PATIENT, appeal_s=300.0, replay_s=10.0))

    async def scenario() -> tuple[list[str], admin.LedgerPage, RulingReport]:
        world = process.start()
        try:
            bob, job, odd = await disputed(world, outsiders=OUTSIDERS[:num_outsiders])
            for kind in kinds[:-1]:
                await told(world, bob, job, kind)
                while kind == "bond.replaying" and not list((tmp_path / SCRATCH).glob("*/plan.json")):
                    await world.clock.sleep(0.02)  # until it is in the middle of it
                process.kill()
                await asyncio.to_thread(process.start)
            await told(world, bob, job, kinds[-1])
            seen = [event.type for event in await answered(lambda: bob.events(job))]
            page = message.read(admin.LedgerPage, (await world.admin("GET", routes.ADMIN_LEDGER)).content)
            path = routes.node(routes.job(routes.JOB_RULING, job), odd.id)
            file = await answered(lambda: bob.call("GET", path))
            trust = TrustStore(()).with_market(pin(world.vkey, world.witness_vkeys))
            return seen, page, verify_ruling(file.content, trust, int(time.time()))
        finally:
            await world.stop()
            assert process.stop() == 0

    seen, page, checked = asyncio.run(scenario())
    assert checked.exit_code == 0
    assert checked.ruling is not None
    assert checked.ruling.outcome == kinds[-1].removeprefix("bond.")
    assert [kind for kind in seen if kind.startswith("bond.")] == kinds
    assert sum(page.balances.values()) == 0
    moved = [item for item in page.entries if item.reason == "ruling"]
    is_lost = kinds[-1] == "bond.forfeited"
    assert len({item.key for item in moved}) == is_lost
    assert {item.debit for item in moved} <= {"operator:odd.bond"}
    assert page.balances["operator:odd.bond"] == worlds.BOND - sum(item.usd_micros for item in moved)
    assert page.balances["operator:odd.bond"] > 0
    assert (page.balances["operator:odd.bond"] < worlds.BOND) is is_lost
    assert not list((tmp_path / SCRATCH).glob("*"))


async def told(world: World, bob: FakeBuyer, job: str, kind: str) -> None:
    """Wait until a job's history says so, through a market that comes and goes."""
    while all(event.type != kind for event in await answered(lambda: bob.events(job))):
        await world.clock.sleep(0.05)
