"""Two verbs of one lease at the same moment, and jobs whose everything dies: none hangs, none holds its escrow."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import FakeBuyer, before, command_spec, taken_before, train_spec
from tests.integration.market.fake_node import FakeNode
from tests.integration.market.test_failing import Griefer
from tests.integration.market.test_market_jobs import check
from tests.integration.market.world import World

from stannary import errors
from stannary.formats import dsse, jobspec, statement
from stannary.formats.jobspec import Verification
from stannary.market.engine import aborting, applying, concluding, loop, queueing, recording
from stannary.settle.ledger import buyer_escrow
from stannary.store import envelopes, leases, ledger
from stannary.wire import admin, message, node, routes
from stannary.wire.buyer import JobView

STATEMENTS = ("commitment", "contribution", "answer-commitment", "answer")
FAILURE = node.Failure(reason="run-failed", message="exit code 1")


class Hasty(FakeNode):
    """Sends one statement, and gives the same lease up before the market has answered: once for each kind."""

    verb = "release"
    kinds: tuple[str, ...] = STATEMENTS
    turns = 1  # of the event loop between both

    def __post_init__(self) -> None:
        """Remember what was raced already."""
        super().__post_init__()
        self.raced: list[str] = []

    async def _post(self, template: str, lease: node.Lease, kind: str, predicate: Any) -> dsse.Envelope:
        """Send a statement; the first of its kind races with the verb."""
        if kind not in self.kinds or kind in self.raced:
            return await super()._post(template, lease, kind, predicate)
        self.raced.append(kind)
        envelope = statement.sign(kind, predicate, (), self.key)
        path = routes.lease(template, lease.lease_id)
        said = asyncio.create_task(self.call(path, message.Signed.of(envelope)))
        for _ in range(self.turns):
            await asyncio.sleep(0)
        end = routes.LEASE_RELEASE if self.verb == "release" else routes.LEASE_FAIL
        body = None if self.verb == "release" else FAILURE
        outcomes = await asyncio.gather(
            said, self.call(routes.lease(end, lease.lease_id), body), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, errors.ConflictError):
                raise outcome
        return envelope


async def escrow(world: World, name: str = "ada") -> int:
    """Return what the market holds of a buyer."""
    exchange, _ = world.inside
    return int(await exchange.store.aread(lambda c: ledger.all_balances(c)[buyer_escrow(name)]))


@pytest.mark.parametrize("verb", ["release", "fail"])
@pytest.mark.parametrize("turns", [0, 3, 40])
def test_a_lease_given_up_beside_its_statement(tmp_path: Path, verb: str, turns: int) -> None:
    """Whatever a node hands in and gives up at once, its job ends well and the receipt refutes nothing."""

    async def scenario() -> tuple[JobView, Any, list[str]]:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south", "east", "west"):
                await world.node(operator)
            hasty = await world.node("fox", Hasty, run=False, ask_usd_micros_per_hour=1)
            hasty.verb, hasty.turns = verb, turns
            world.start(hasty.run())
            ada = await world.buyer()
            job = (await ada.submit(train_spec(rounds=2))).id
            world.start(ada.broker(job))
            view = await ada.finished(job)
            return view, check(world, await ada.receipt(job)), hasty.raced

    view, report, raced = asyncio.run(scenario())
    assert view.status == "succeeded", view
    assert [item for item in report.findings if item.severity == "refuted"] == []
    assert "commitment" in raced


def test_a_full_disk_between_log_and_record_loses_no_contribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is logged is recorded as soon as the disk takes it, however many deadlines pass meanwhile."""
    refusals = itertools.count()
    honest = recording.record_contribution

    def refuses(*args: Any) -> None:
        if next(refusals) < 60:
            raise errors.EnvironmentProblem("the market cannot write: its disk is full")
        honest(*args)

    monkeypatch.setattr(recording, "record_contribution", refuses)

    async def scenario() -> tuple[JobView, int]:
        async with worlds.inside(tmp_path, witness=False) as world:
            made = await world.node("north")
            ada = await world.buyer()
            view = await ada.finished((await ada.submit(command_spec(verify=Verification.NONE))).id)
            return view, len([line for line in made.served if line.startswith("work")])

    view, served = asyncio.run(scenario())
    assert (view.status, served) == ("succeeded", 1)
    assert next(refusals) > 60


def test_a_value_on_its_way_is_no_silence(tmp_path: Path) -> None:
    """A buyer whose value is being logged when his time ends is not called silent."""

    async def scenario() -> JobView:
        timing = replace(worlds.QUICK, reveal_s=5.0)
        async with worlds.inside(tmp_path, timing, witness=False) as world:
            exchange, _ = world.inside
            for operator in ("north", "south", "east"):
                await world.node(operator)
            ada = await world.buyer()
            job = (await ada.submit(command_spec())).id
            logged = exchange.journal.logged

            async def slowly(leaf: str) -> int:
                kept = await exchange.store.aread(lambda c: envelopes.get(c, leaf))
                if kept.kind == "reveal":
                    await world.clock.sleep(3 * timing.reveal_s)
                return int(await logged(leaf))

            exchange.journal.logged = slowly
            world.start(ada.broker(job))
            return await ada.finished(job)

    view = asyncio.run(scenario())
    assert (view.status, view.verdict) == ("succeeded", "verified"), view


def test_a_nodes_reason_never_decides_who_is_paid(tmp_path: Path) -> None:
    """Operators who report `buyer-silent` end the job as run-failed: what they committed to is not paid unseen."""

    class Framer(Griefer):
        async def work(self, lease: node.Lease) -> None:
            """Report what only the market may say."""
            failure = node.Failure(reason="buyer-silent", message="he said nothing")
            await self.call(routes.lease(routes.LEASE_FAIL, lease.lease_id), failure)

    async def scenario() -> JobView:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south"):
                await world.node(operator, Framer)
            ada = await world.buyer()
            return await ada.finished((await ada.submit(command_spec())).id)

    view = asyncio.run(scenario())
    assert (view.reason, view.paid_usd_micros) == ("run-failed", 0)


def test_a_conclusion_that_fails_gives_everything_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job the market cannot conclude ends as market-fault, refunded, in the operator's list; others go on."""

    def broken(*_: Any) -> Any:
        raise errors.FormatError("this cannot be settled", why="a figure beyond all bounds")

    async def scenario() -> tuple[JobView, admin.FaultList, int, str]:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south"):
                await world.node(operator)
            ada = await world.buyer()
            job = (await ada.submit(command_spec())).id
            monkeypatch.setattr(concluding, "conclude", broken)
            world.start(ada.broker(job))
            view = await ada.finished(job)
            faults = message.read(admin.FaultList, (await world.admin("GET", routes.ADMIN_FAULTS)).content)
            with pytest.raises(errors.JobNotFinished) as refused:
                await ada.receipt(job)
            monkeypatch.undo()
            other = (await ada.submit(command_spec())).id
            world.start(ada.broker(other))
            assert (await ada.finished(other)).status == "succeeded"
            return view, faults, await escrow(world), refused.value.why

    view, faults, held, why = asyncio.run(scenario())
    assert (view.status, view.reason, held) == ("failed", "market-fault", 0)
    assert view.refunded_usd_micros == view.escrow_usd_micros > 0
    assert [item.job for item in faults.faults] == [view.id]
    assert "this cannot be settled" in why


def test_a_full_disk_is_no_fault_of_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A market whose disk refuses for longer than any fault may last goes on where it was."""
    tries = itertools.count()
    honest = applying.pay

    def refuses(*args: Any) -> None:
        if next(tries) < 3 * loop.MAX_FAULTS:
            raise errors.EnvironmentProblem("the market cannot write: its disk is full")
        honest(*args)

    monkeypatch.setattr(applying, "pay", refuses)

    async def scenario() -> JobView:
        async with worlds.inside(tmp_path, witness=False) as world:
            await world.node("north")
            ada = await world.buyer()
            return await ada.finished((await ada.submit(command_spec(verify=Verification.NONE))).id)

    assert asyncio.run(scenario()).status == "succeeded"


class Zombie(FakeNode):
    """Takes whatever it is given, and does nothing."""

    async def serve(self, lease: node.Lease) -> None:
        """Sit on it."""
        self.served.append(f"{lease.type.value} {lease.task}")
        self.held.append(lease.lease_id)


def everything_dies(after: int) -> Callable[[World, FakeBuyer, str], Any]:
    """Return what stops all nodes and the broker when the job has had so many events."""

    async def watch(world: World, ada: FakeBuyer, job: str) -> None:
        while len(await ada.events(job)) < after:
            await world.clock.sleep(0.05)
        for task in world.tasks:
            task.cancel()

    return watch


# queued, placed, leased, committed, handed in, drawn, asked, judged: wherever it is when all fall silent
@pytest.mark.parametrize("after", [1, 6, 8, 10, 12, 15, 18, 22, 27])
def test_no_job_outlives_its_people(tmp_path: Path, after: int) -> None:
    """Wherever a job is when every node and its broker die, it ends, and its escrow is released, within the bound."""

    async def scenario() -> tuple[JobView, int, float]:
        timing = replace(worlds.QUICK, reveal_s=200.0, placing_s=150.0, stall_s=900.0, sweep_s=1.0)
        async with worlds.inside(tmp_path, timing, witness=False) as world:
            for operator in ("north", "south", "east"):
                await world.node(operator)
            ada = await world.buyer()
            job = (await ada.submit(train_spec())).id
            began = world.clock.now()
            world.start(ada.broker(job))
            await everything_dies(after)(world, ada, job)
            view = await ada.finished(job)
            return view, await escrow(world), world.clock.now() - began

    view, held, took_s = asyncio.run(scenario())
    assert view.status in {"failed", "succeeded"}
    assert held == 0
    assert took_s < 1800


def test_nodes_that_take_work_and_never_do_it_hold_no_escrow(tmp_path: Path) -> None:
    """Leases that go round among nodes who hand nothing in end with the job, `stalled`."""

    async def scenario() -> tuple[JobView, int]:
        timing = replace(worlds.QUICK, stall_s=60.0, sweep_s=1.0)
        async with worlds.inside(tmp_path, timing, witness=False) as world:
            for operator in ("north", "south"):
                await world.node(operator, Zombie, poll_s=25.0)
            ada = await world.buyer()
            return await ada.finished((await ada.submit(command_spec())).id), await escrow(world)

    view, held = asyncio.run(scenario())
    assert (view.status, view.reason, held) == ("failed", "stalled", 0)
    assert view.refunded_usd_micros == view.escrow_usd_micros


def test_an_exhausted_beacon_ends_its_job(tmp_path: Path) -> None:
    """A job whose chain has no value left for another draw ends with a reason, not never."""

    async def scenario() -> JobView:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south"):
                await world.node(operator)
            ada = await world.buyer()
            job = (await ada.submit(command_spec())).id
            _, engines = world.inside
            order = engines.orders[job]
            engines.orders[job] = replace(order, predicate=replace(order.predicate, beacon_length=0))
            world.start(ada.broker(job))
            return await ada.finished(job)

    view = asyncio.run(scenario())
    assert (view.status, view.reason) == ("failed", "beacon-exhausted")


def test_a_node_keeps_its_offer_under_work(tmp_path: Path) -> None:
    """A node that joins again at a higher price under open work is refused; at the same or a lower, it verifies."""

    async def scenario() -> tuple[Any, errors.StannaryError, str, str]:
        async with worlds.inside(tmp_path, witness=False) as world:
            made = [await world.node(operator, run=False) for operator in ("north", "south", "east")]
            ada = await world.buyer()
            job = (await ada.submit(train_spec())).id
            await world.clock.sleep(1.0)  # it is placed
            made[0].ask_usd_micros_per_hour = 400_000
            with pytest.raises(errors.ConflictError) as refused:
                await made[0].join(await world.join_token("north"))
            made[0].ask_usd_micros_per_hour = 100_000
            with pytest.raises(errors.ConflictError) as poorer:
                await made[0].join(await world.join_token("north", bond=1))
            for party in made:
                world.start(party.run())
            world.start(ada.broker(job))
            while not any(line.startswith("audit") for party in made for line in party.served):
                await world.clock.sleep(0.1)
            await made[0].join(await world.join_token("north"))  # its credential is renewed while it works
            made[0].ask_usd_micros_per_hour = 90_000
            await made[0].join(await world.join_token("north"))
            await ada.finished(job)
            return check(world, await ada.receipt(job)), refused.value, poorer.value.what, job

    report, refused, poorer, job = asyncio.run(scenario())
    assert "does not change" in refused.what
    assert "400000: it may fall" in refused.why
    assert job in refused.hint  # when it may rise
    assert "keeps the bond" in poorer
    assert [item for item in report.findings if item.severity != "notice"] == []


def test_a_join_is_used_once(tmp_path: Path) -> None:
    """What a node signed before its last join brings no credential any more: it would take its newer word back."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            made = await world.node("north", run=False)
            token = await world.join_token("north", uses=3)
            first = await made.join(token)
            assert (await made.send_join(first)).credential == (await made.send_join(first)).credential
            made.ask_usd_micros_per_hour = 50_000
            await made.join(token)
            with pytest.raises(errors.ConflictError, match="used before"):
                await made.send_join(first)
            lying = await made.sign_join(token, bond_usd_micros=2 * worlds.BOND)
            with pytest.raises(errors.FormatError, match="another bond"):
                await made.send_join(lying)
            made.operator = "south"  # a node keeps its operator
            with pytest.raises(errors.ConflictError, match="another operator"):
                await made.join(await world.join_token("south"))

    asyncio.run(scenario())


def test_an_aborted_job_leaves_nothing_open(tmp_path: Path) -> None:
    """Aborting works in every state: leases revoked, tasks given up, escrow back, and nothing the second time."""

    async def scenario() -> tuple[JobView, int, int]:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south"):
                await world.node(operator, Zombie)
            ada = await world.buyer()
            job = (await ada.submit(train_spec())).id
            await world.clock.sleep(1.0)
            exchange, engines = world.inside
            order = engines.orders[job]
            for _ in range(2):
                await exchange.store.awrite(lambda c: aborting.abort(c, order.job, exchange.now_ms, "a test"))
            live = await exchange.store.aread(lambda c: leases.live_of_job(c, job))
            return await ada.view(job), len(live), await escrow(world)

    view, live, held = asyncio.run(scenario())
    assert (view.status, view.reason, live, held) == ("failed", "market-fault", 0, 0)


def test_a_buyer_who_reveals_nothing_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one buyer's silent jobs would fill every slot for the whole time of a reveal, another's job is done."""
    monkeypatch.setattr(queueing, "MAX_ACTIVE", 4)

    async def scenario() -> tuple[JobView, float]:
        timing = replace(worlds.QUICK, reveal_s=5000.0, sweep_s=1.0)
        async with worlds.inside(tmp_path, timing, witness=False) as world:
            for operator in ("north", "south"):
                await world.node(operator)
            eve, ada = await world.buyer("eve"), await world.buyer()
            for _ in range(8):
                await eve.submit(command_spec())
            began = world.clock.now()
            job = (await ada.submit(command_spec())).id
            world.start(ada.broker(job))
            return await ada.finished(job), world.clock.now() - began

    view, took_s = asyncio.run(scenario())
    assert view.verdict == "verified"
    assert took_s < 1000


OFFERS: tuple[dict[str, Any], ...] = (
    {"ask_usd_micros_per_hour": 1}, {"ask_usd_micros_per_hour": 10**12}, {"ask_usd_micros_per_hour": 100_000},
    {"engine_class": "another"}, {"jurisdiction": "DE"}, {"cpus": 1}, {"cpus": 2**20}, {"memory_bytes": 1},
    {"memory_bytes": 2**53 - 1}, {"bond_usd_micros": None}, {"bond_usd_micros": 1}, {"operator": "south"}, {},
)  # fmt: skip


@dataclass
class Restless(FakeNode):
    """Joins again before each statement, with every offer in turn; it does not care what is refused."""

    joined: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    invite: Callable[[], Awaitable[str]] | None = None

    async def _post(self, template: str, lease: node.Lease, kind: str, predicate: Any) -> dsse.Envelope:
        """Join again, then say what is true."""
        offer = OFFERS[(len(self.joined) + len(self.refused)) % len(OFFERS)]
        assert self.invite is not None
        try:
            await self.send_join(await self.sign_join(await self.invite(), **offer))
            self.joined.append(offer)
        except errors.StannaryError:
            self.refused.append(offer)
        return await super()._post(template, lease, kind, predicate)


@pytest.mark.parametrize("rules", [None, jobspec.RULES])
def test_no_join_that_is_taken_refutes_a_receipt(tmp_path: Path, rules: int | None) -> None:
    """A node offers something else before each of its statements: what the market takes, its verifier takes too."""

    async def scenario() -> tuple[Any, Restless]:
        async with worlds.inside(tmp_path, witness=False) as world:
            restless = await world.node("north", Restless, run=False)
            restless.invite = lambda: world.join_token("north")
            world.start(restless.run())
            for operator in ("south", "east"):
                await world.node(operator)
            ada = await world.buyer()
            with contextlib.nullcontext() if rules else taken_before():
                job = (await ada.submit(train_spec(rounds=3) if rules else before(train_spec(rounds=3)))).id
            world.start(ada.broker(job))
            await ada.finished(job)
            return check(world, await ada.receipt(job)), restless

    report, restless = asyncio.run(scenario())
    assert [item for item in report.findings if item.severity == "refuted"] == []
    assert restless.joined
    assert {"engine_class": "another"} in restless.refused
    assert {"ask_usd_micros_per_hour": 10**12} in restless.refused
