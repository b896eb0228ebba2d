"""Whole jobs through the public protocol: honest and dishonest nodes, receipts that verify.

The plain jobs run beside one another in one market, on the same three honest nodes. Each odd node has a market of its
own, with as many honest ones: it would be asked to audit the others' jobs too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.integration.market import toy_work
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import command_spec, train_spec
from tests.integration.market.fake_node import (
    DyingNode,
    FakeNode,
    FalseAccuser,
    LazyAuditor,
    LyingMerger,
    LyingNode,
    SilentAuditor,
    SilentLiar,
    SilentProver,
)
from tests.integration.market.world import World

from stannary.cli import summary
from stannary.formats import canonical, digest, ids
from stannary.formats import receipt as receipt_format
from stannary.formats.ids import TaskKind
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Verdict
from stannary.rules import draw
from stannary.verify import case as cases
from stannary.verify import lineage
from stannary.verify import receipt as verifier
from stannary.verify.case import Case
from stannary.verify.report import Report
from stannary.verify.trust import TrustStore, pin
from stannary.wire import admin, message, routes
from stannary.wire import buyer as wire

CORE = ("north", "south", "east")
TIMING = replace(worlds.QUICK, answer_floor_s=4.0)
ODD: dict[str, type[FakeNode]] = {
    cls.__name__: cls
    for cls in (
        SilentProver,
        SilentLiar,
        SilentAuditor,
        DyingNode,
        LyingNode,
        LyingMerger,
        FalseAccuser,
        LazyAuditor,
    )
}


@dataclass
class Outcome:
    """What became of one job."""

    view: wire.JobView
    report: Report
    case: Case
    odd: str
    events: list[wire.Event]
    cost: wire.Cost
    model: bytes
    ledger: admin.LedgerPage

    @property
    def convicted(self) -> set[str]:
        """The convicted nodes."""
        assert self.report.claims is not None
        return {str(node) for item in self.report.claims.convictions for node in item.refuted}

    def verdicts(self, node: str) -> set[Verdict]:
        """The verdicts on a node's work."""
        return {item.predicate.verdict for item in self.case.verdicts if item.predicate.node == node}


class Day:
    """All jobs, by name, each run when it is first looked at."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.outcomes: dict[str, Outcome | BaseException] = {}

    def __getitem__(self, name: str) -> Outcome:
        if name not in self.outcomes:
            self.outcomes |= asyncio.run(_run(self.directory / name, _beside(name)))
        outcome = self.outcomes[name]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def _beside(name: str) -> dict[str, JobSpec]:
    """Return the jobs that run in one market with that of a name."""
    if name in ODD:
        return {name: train_spec(is_ours=True)}
    return {"command": command_spec(), "train": train_spec(), "beside": train_spec(lanes=3)}


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """Run each job once."""
    return Day(tmp_path_factory.mktemp("market"))


async def _run(directory: Path, wanted: dict[str, JobSpec]) -> dict[str, Outcome | BaseException]:
    async with worlds.inside(directory, TIMING) as world:
        for operator in CORE:
            await world.node(operator)
        both = asyncio.Barrier(2)  # no job ends before its broker reveals, so these two run beside one another
        meet = {"train": both.wait, "beside": both.wait}
        runs = await asyncio.gather(
            *(_outcome(world, name, spec, meet.get(name, _go_on)) for name, spec in wanted.items()),
            return_exceptions=True,
        )
        return dict(zip(wanted, runs, strict=True))


async def _go_on() -> None:
    return None


async def _outcome(world: World, name: str, spec: JobSpec, meet: Callable[[], Awaitable[object]] = _go_on) -> Outcome:
    """Run one job among the honest nodes and, if one is named so, an odd one, the cheapest: it is placed."""
    buyer = await world.buyer(name)
    odd = ""
    if name in ODD:
        made = await world.node(f"odd-{name}", ODD[name], ask_usd_micros_per_hour=1000)
        odd = made.id
    signed = await buyer.order(spec)
    if name == LyingMerger.__name__:
        job = ids.job_id(digest.digest(signed.payload))
        for honest in world.nodes[: len(CORE)]:
            honest.hands_back.add(f"{job}/r0/merge/a0")  # the first merge falls to the liar
    await meet()  # both are here,
    job = (await buyer.submit(spec, envelope=signed)).id
    await meet()  # and both are sent
    broker = asyncio.create_task(buyer.broker(job))
    try:
        view = await buyer.finished(job)
    finally:
        broker.cancel()
    assert view.status == "succeeded", (view, await buyer.events(job))
    data = await buyer.receipt(job)
    report = check(world, data)
    assert not [item for item in report.findings if item.severity == "refuted"], report.findings
    (model,) = await buyer.outputs(job)
    ledger = message.read(admin.LedgerPage, (await world.admin("GET", routes.ADMIN_LEDGER)).content)
    return Outcome(
        view=view,
        report=report,
        case=case_of(data),
        odd=odd,
        events=await buyer.events(job),
        cost=await buyer.cost(job),
        model=(await buyer.call("GET", routes.blob(model.digest))).content,
        ledger=ledger,
    )


def check(world: World, data: bytes) -> Report:
    """Verify a receipt with the market's key pinned."""
    trust = TrustStore(()).with_market(pin(world.vkey, world.witness_vkeys))
    return verifier.verify_receipt(data, trust, int(time.time()))


def case_of(data: bytes) -> Case:
    """Return the evidence of a receipt file."""
    evidence = receipt_format.read(canonical.decode(data)).evidence
    return Case([cases.read(item.index, item.envelope) for item in evidence])


def recomputed(case: Case) -> bytes:
    """Return the weights a run makes that has the tasks of the result and never knew any other."""
    assigned = [case.assignments[task].predicate for task in lineage.trace(case).tasks]
    state: dict[str, bytes] = {}
    for index in range(case.spec.recipe.rounds if case.spec.recipe is not None else 0):
        lanes = [item for item in assigned if item.round == index and item.kind is TaskKind.ROUND]
        (merge,) = [item for item in assigned if item.round == index and item.kind is TaskKind.MERGE]
        deltas = {str(item.task): toy_work.outputs(item, state)["delta"] for item in lanes}
        state = toy_work.outputs(merge, {**state, **deltas})
    return state["theta"]


def test_command_job(day: Day) -> None:
    """A command job runs, is recomputed by another operator, is paid, and its receipt verifies."""
    got = day["command"]
    assert (got.view.status, got.view.verdict) == ("succeeded", "verified")
    assert all(item.severity == "notice" for item in got.report.findings), got.report.findings


def test_train_job(day: Day) -> None:
    """Two rounds of two lanes are merged, audited and paid; the receipt's subject is the served model."""
    got = day["train"]
    assert got.view.verdict == "verified"
    assert got.report.verdict == "verified", got.report.findings
    assert [item.id for item in got.report.findings] == ["witness.local"], got.report.findings
    assert got.model == recomputed(got.case)
    assert got.cost.paid_usd_micros + got.cost.refunded_usd_micros == got.cost.escrow_usd_micros
    assert got.cost.split is not None


def test_jobs_share_nodes(day: Day) -> None:
    """Jobs that run at once on the same nodes do not get in one another's way: each has its own audits and receipt."""
    first, second = day["train"], day["beside"]
    workers = [{item.predicate.node for item in got.case.contributions.values()} for got in (first, second)]
    assert workers[0] & workers[1]
    spans = [(min(event.at for event in got.events), max(event.at for event in got.events)) for got in (first, second)]
    assert max(begin for begin, _ in spans) <= min(end for _, end in spans)
    assert (first.view.verdict, second.view.verdict) == ("verified", "verified")
    assert second.model == recomputed(second.case)


@pytest.mark.parametrize("name", ["LyingNode", "LyingMerger"])
def test_liar_is_convicted_and_unpaid(day: Day, name: str) -> None:
    """A node whose results are false is refuted by two operators, unpaid, its bond disputed; the job succeeds."""
    got = day[name]
    assert got.convicted == {got.odd}
    told = [item for item in got.events if item.type == "node.convicted"]
    assert {(item.node, item.data["reason"]) for item in told} == {(got.odd, "two-recomputations-disagree")}
    assert any(item.type == "bond.disputed" and item.node == got.odd for item in got.events)
    assert got.view.verdict == "verified"
    assert not any(item.account.startswith("bond:") for item in got.cost.lines), "no receipt takes a bond"
    refuted = [item.predicate.task for item in got.case.verdicts if item.predicate.verdict is Verdict.REFUTED]
    assert refuted
    paid = {item.task: item.usd_micros for item in got.cost.lines if item.account == f"operator:odd-{name}"}
    assert [paid[task] for task in refuted] == [0] * len(refuted)
    assert sum(got.ledger.balances.values()) == 0


@pytest.mark.parametrize("name", ["LyingNode", "LyingMerger"])
def test_the_result_is_that_of_a_run_without_the_liar(day: Day, name: str) -> None:
    """After the re-merge the weights are, bit for bit, those of a run that never admitted the false work."""
    got = day[name]
    in_result = lineage.trace(got.case).tasks
    refuted = {item.predicate.task for item in got.case.verdicts if item.predicate.verdict is Verdict.REFUTED}
    assert refuted and not refuted & in_result
    assert got.model == recomputed(got.case)


@pytest.mark.parametrize("name", ["LyingNode", "LyingMerger"])
def test_false_work_is_churn(day: Day, name: str) -> None:
    """The compute of refuted and of superseded work, as signed readings show it, stands under churn."""
    split = day[name].cost.split
    assert split is not None
    assert split.churn > 0
    assert split.useful + split.start + split.link + split.idle + split.audit + split.churn == 10_000


def test_false_accuser_is_refuted(day: Day) -> None:
    """An auditor who says everything is wrong is itself refuted; nobody honest is."""
    got = day["FalseAccuser"]
    assert got.convicted <= {got.odd}
    assert got.view.verdict == "verified"


def test_lazy_auditor_is_refuted(day: Day) -> None:
    """An auditor who copies the right root without the inner state is refuted."""
    got = day["LazyAuditor"]
    assert got.convicted <= {got.odd}
    assert got.view.verdict == "verified"


def test_silent_prover_is_not_convicted(day: Day) -> None:
    """A prover that does not answer is unpaid and left out, never convicted; its auditor is heard and paid."""
    got = day["SilentProver"]
    assert got.convicted == set()
    assert got.report.verdict == "verified", got.report.findings
    assert got.verdicts(got.odd) == {Verdict.UNVERIFIED}
    assert any(item.type == "task.unverified" for item in got.events)
    unverified = {item.predicate.task for item in got.case.verdicts if item.predicate.verdict is Verdict.UNVERIFIED}
    heard = [item.predicate for task in unverified for item in got.case.answers_of[task]]
    assert [answer.root for answer in heard] == [got.case.contributions[answer.task].predicate.root for answer in heard]
    attempts = [task.rpartition("/a")[0] for task in unverified]
    # the next attempt goes to somebody who answers, unless it was given before the silence was judged
    assert max(map(attempts.count, attempts)) <= 2
    paid = {item.task for item in got.cost.lines if item.reason == "audit" and item.usd_micros > 0}
    unpaid = {str(answer.audit) for answer in heard} - paid
    # where the silent prover fell out of many tasks, the last audit finds the escrow used up (verify/settlement.py)
    assert len(unpaid) < len(heard)
    assert not unpaid or got.cost.refunded_usd_micros == 0


def test_silence_hides_no_lie(day: Day) -> None:
    """A liar that falls silent when drawn is refuted by two auditors who agree, and its bond is disputed."""
    got = day["SilentLiar"]
    assert got.convicted == {got.odd}
    assert Verdict.REFUTED in got.verdicts(got.odd)
    assert any(item.type == "bond.disputed" and item.node == got.odd for item in got.events)
    assert got.report.verdict == "verified", got.report.findings
    assert got.model == recomputed(got.case)


def test_silent_auditor_is_replaced(day: Day) -> None:
    """A silent auditor costs nothing but time: the next in rank answers."""
    got = day["SilentAuditor"]
    assert got.convicted == set()
    assert got.view.verdict == "verified"


def test_dead_node_is_replaced(day: Day) -> None:
    """A lane whose node vanishes in mid-round is given to another in the next epoch."""
    got = day["DyingNode"]
    assert got.convicted == set()
    assert got.view.verdict == "verified"
    assert any(item.type == "lease.expired" for item in got.events)


def test_canaries_catch_who_answers_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task whose answer is known goes, as if new, to one more auditor; one who makes his answer up is refuted."""
    chosen = draw._chosen
    monkeypatch.setattr(draw, "_chosen", lambda value, ppm: ppm == draw.CANARY_PPM or chosen(value, ppm))

    async def scenario() -> tuple[Outcome, list[str]]:
        async with worlds.inside(tmp_path, TIMING, witness=False) as world:
            for operator in CORE[:2]:  # all who may be asked are
                await world.node(operator)
            got = await _outcome(world, "FalseAccuser", train_spec(rounds=1, is_ours=True))
            return got, [line for node in world.nodes for line in node.served if line.startswith("audit ")]

    got, asked = asyncio.run(scenario())
    assert got.view.verdict == "verified"
    assert got.convicted == {got.odd}
    assert {item.data["reason"] for item in got.events if item.type == "node.convicted"} == {"outvoted"}
    (why,) = summary.convictions(got.report.claims).values()
    assert why.endswith("two others agreed on something else than its answer")
    assert summary.forfeited(got.report.claims.receipt, got.odd) == 0, "an appeal decides that"
    assert {item.predicate.verdict for item in got.case.verdicts} == {Verdict.VERIFIED}
    agreed = [item.predicate.task for item in got.case.contributions.values() if item.predicate.node == got.odd]
    assert agreed
    assert [asked.count(f"audit {task}") for task in agreed] == [2] * len(agreed)  # the auditor, and the canary's
