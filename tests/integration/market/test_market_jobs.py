"""Whole jobs through the public protocol: honest and dishonest nodes, receipts that verify."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import FakeBuyer, command_spec, train_spec
from tests.integration.market.fake_node import (
    DyingNode,
    FakeNode,
    FalseAccuser,
    LazyAuditor,
    LyingMerger,
    LyingNode,
    SilentAuditor,
    SilentProver,
)
from tests.integration.market.world import World

from stannary.formats.jobspec import JobSpec
from stannary.verify import receipt as verifier
from stannary.verify.report import Report
from stannary.verify.trust import TrustStore, pin
from stannary.wire import admin, message, routes
from stannary.wire import buyer as wire


def check(world: World, data: bytes) -> Report:
    """Verify a receipt with the market's key pinned."""
    trust = TrustStore(()).with_market(pin(world.vkey, world.witness_vkeys))
    return verifier.verify_receipt(data, trust, int(time.time()))


async def settled(world: World, buyer: FakeBuyer, spec: JobSpec) -> tuple[wire.JobView, Report]:
    """Run a job to its end; return it and what its receipt proves."""
    job = (await buyer.submit(spec)).id
    world.start(buyer.broker(job))
    view = await buyer.finished(job)
    return view, check(world, await buyer.receipt(job))


def test_command_job(tmp_path: Path) -> None:
    """A command job runs, is recomputed by another operator, is paid, and its receipt verifies."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path) as world:
            for operator in ("north", "south"):
                await world.node(operator)
            buyer = await world.buyer()
            view, report = await settled(world, buyer, command_spec())
            assert (view.status, view.verdict) == ("succeeded", "verified"), view
            assert not report.findings or all(item.severity == "notice" for item in report.findings), report.findings

    asyncio.run(scenario())


def test_train_job(tmp_path: Path) -> None:
    """Two rounds of two lanes are merged, audited and paid; the receipt's subject is the served model."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path) as world:
            for operator in ("north", "south", "east"):
                await world.node(operator)
            buyer = await world.buyer()
            view, report = await settled(world, buyer, train_spec())
            assert (view.status, view.verdict) == ("succeeded", "verified"), view
            assert report.verdict == "verified", report.findings
            assert [item.id for item in report.findings] == ["witness.local"], report.findings
            (model,) = await buyer.outputs(view.id)
            assert model.name == "model.safetensors"
            assert (await buyer.call("GET", routes.blob(model.digest))).content.startswith(b"theta ")
            cost = await buyer.cost(view.id)
            assert cost.paid_usd_micros + cost.refunded_usd_micros == cost.escrow_usd_micros
            assert cost.split is not None

    asyncio.run(scenario())


async def outcome_with(directory: Path, cls: type[FakeNode], spec: JobSpec | None = None) -> Outcome:
    """Run a train job among four honest operators and one node of `cls`."""
    async with worlds.inside(directory) as world:
        for operator in ("north", "south", "east"):
            await world.node(operator)
        odd = await world.node("odd", cls, ask_usd_micros_per_hour=1000)  # the cheapest: it is placed
        buyer = await world.buyer()
        view, report = await settled(world, buyer, spec if spec is not None else train_spec())
        assert view.status == "succeeded", (view, await buyer.events(view.id))
        assert not [item for item in report.findings if item.severity == "refuted"], report.findings
        ledger = message.read(admin.Ledger, (await world.admin("GET", routes.ADMIN_LEDGER)).content)
        assert sum(ledger.balances.values()) == 0
        return Outcome(view, report, odd.id, await buyer.events(view.id), (await buyer.cost(view.id)).lines, ledger)


@dataclass
class Outcome:
    """What became of a job with one odd node in it."""

    view: wire.JobView
    report: Report
    odd: str
    events: list[wire.Event]
    lines: list[wire.CostLine]
    ledger: admin.Ledger

    @property
    def convicted(self) -> set[str]:
        """The convicted nodes."""
        assert self.report.claims is not None
        return {str(node) for item in self.report.claims.convictions for node in item.refuted}

    def earned(self, operator: str) -> int:
        """What an operator was paid."""
        return sum(item.usd_micros for item in self.lines if item.account == f"operator:{operator}")


@pytest.mark.parametrize("cls", [LyingNode, LyingMerger])
def test_liar_is_convicted_and_unpaid(tmp_path: Path, cls: type[FakeNode]) -> None:
    """A node whose results are false is refuted by two operators, unpaid, and loses its bond; the job succeeds."""
    got = asyncio.run(outcome_with(tmp_path, cls))
    if cls is LyingMerger and not got.convicted:
        pytest.skip("no merge fell to the liar in this draw")
    assert got.convicted == {got.odd}
    assert got.view.verdict == "verified"
    assert any(item.account == "bond:odd" and item.usd_micros == -worlds.BOND for item in got.lines)
    assert got.ledger.balances["operator:odd.bond"] == 0
    assert not [
        item
        for item in got.lines
        if item.account == "operator:odd"
        and item.reason == "work"
        and item.usd_micros
        and "r0" in item.task
        and cls is LyingNode
    ]


def test_false_accuser_is_refuted(tmp_path: Path) -> None:
    """An auditor who says everything is wrong is itself refuted; nobody honest is."""
    got = asyncio.run(outcome_with(tmp_path, FalseAccuser))
    assert got.convicted <= {got.odd}
    assert got.view.verdict == "verified"


def test_lazy_auditor_is_refuted(tmp_path: Path) -> None:
    """An auditor who copies the right root without the inner state is refuted."""
    got = asyncio.run(outcome_with(tmp_path, LazyAuditor))
    assert got.convicted <= {got.odd}
    assert got.view.verdict == "verified"


def test_silent_prover_is_not_convicted(tmp_path: Path) -> None:
    """A prover that does not answer is unpaid and left out, never convicted."""
    got = asyncio.run(outcome_with(tmp_path, SilentProver))
    assert got.convicted == set()
    assert any(item.type == "task.unverified" for item in got.events)


def test_silent_auditor_is_replaced(tmp_path: Path) -> None:
    """A silent auditor costs nothing but time: the next in rank answers."""
    got = asyncio.run(outcome_with(tmp_path, SilentAuditor))
    assert got.convicted == set()
    assert got.view.verdict == "verified"


def test_dead_node_is_replaced(tmp_path: Path) -> None:
    """A lane whose node vanishes in mid-round is given to another in the next epoch."""
    got = asyncio.run(outcome_with(tmp_path, DyingNode))
    assert got.convicted == set()
    assert got.view.verdict == "verified"
    assert any(item.type == "lease.expired" for item in got.events)
