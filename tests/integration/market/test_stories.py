"""Nodes that tell two stories of one thing: the second is kept and proves it, on a whole market, by both verifiers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import TRUST, before, taken_before, train_spec
from tests.integration.market.fake_node import FakeNode
from tests.integration.market.test_disputes import Ruled, held_to_its_rules, ours, ruled, second_opinion
from tests.integration.market.test_market_jobs import check

from stannary.errors import ConflictError
from stannary.formats import digest, dsse
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Assurance, RulingOutcome, Verdict
from stannary.rules.reasons import Reason
from stannary.store import disputes, envelopes
from stannary.verify.ruling import DisputedBond, faults
from stannary.wire import node

OTHER = digest.digest(b"another story")
KINDS: dict[str, dict[str, Any]] = {
    "commitment": {"commitment": "cd" * 32},
    "contribution": {"root": OTHER},
    "answer-commitment": {"commitment": "cd" * 32},
    "answer": {"root": OTHER},
}


@dataclass
class Teller(FakeNode):
    """Says one thing of a kind, and then, twice, something else of it; or the same in other words."""

    twice: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    refused: int = 0

    async def _post(self, template: str, lease: node.Lease, kind: str, predicate: Any) -> dsse.Envelope:
        made = await super()._post(template, lease, kind, predicate)
        if kind == self.twice and not self.refused:
            for _ in range(2):  # only one is kept
                with pytest.raises(ConflictError):
                    await super()._post(template, lease, kind, replace(predicate, **self.changes))
                self.refused += 1
        return made


def own_code() -> JobSpec:
    """Return a job in the buyer's own code, of which every unit is recomputed."""
    return train_spec(rounds=2, lanes=1, trust=replace(TRUST, assurance=Assurance.FULL))


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("is_ours", [True, False])
def test_two_stories_cost_a_bond_whoever_wrote_the_program(tmp_path: Path, kind: str, is_ours: bool) -> None:
    """The first word counts and the job is verified; nobody computes anything again; insurance gets what is taken."""

    async def scenario() -> tuple[Ruled, str, int]:
        async with worlds.inside(tmp_path, worlds.QUICK, witness=False) as world:
            more = {"twice": kind, "changes": KINDS[kind], "ask_usd_micros_per_hour": 90_000}
            odd = await world.node("odd", Teller, **more)
            for operator in ("north", "south"):
                await world.node(operator)
            bob = await world.buyer("bob")
            job = (await bob.submit(ours(rounds=2) if is_ours else own_code())).id
            world.start(bob.broker(job))
            got = await ruled(world, bob, job)
            exchange, _ = world.inside
            kept = await exchange.store.aread(lambda c: envelopes.of_job(c, job, kind=kind))
            assert isinstance(odd, Teller)
            assert odd.refused == 2  # before the job's end: there is another round
            return got, odd.id, len(kept)

    got, odd, num_kept = asyncio.run(scenario())
    held_to_its_rules(got)
    assert (got.ruling.outcome, got.ruling.reason) == (RulingOutcome.FORFEITED, Reason.TWO_STORIES)
    assert (got.row.node, got.ruling.heard, got.papers.appeal.candidates) == (odd, (), ())
    assert got.receipt.verdict is Verdict.VERIFIED
    assert len([item for item in got.report.findings if item.id == "statement.void"]) == 1
    assert num_kept == len([item for item in got.case.statements if item.kind == kind])
    dispute = DisputedBond(got.case, got.receipt, got.ruling.task, got.ruling.node)
    most = dispute.most(dispute.node)
    assert 0 < most < worlds.BOND
    assert [(line.account, line.usd_micros) for line in got.ruling.lines] == [("bond:odd", -most), ("insurance", most)]
    assert got.standing == {"north": True, "south": True, "odd": False}
    for reason in (Reason.UNHEARD, Reason.REPLAYED, Reason.TWO_OF_THREE):
        assert "ruling.reason" in faults(dispute, got.papers, replace(got.ruling, reason=reason))
    honest = next(item.predicate for item in got.case.answers_of[dispute.task] if item.predicate.node != odd)
    lie = replace(got.ruling, node=honest.node)
    papers = replace(got.papers, appeal=replace(got.papers.appeal, node=honest.node))
    found = faults(replace(dispute, node=honest.node), papers, lie)
    assert {"appeal.dispute", "ruling.reason"} <= set(found)
    assert set(found) == second_opinion(
        replace(got, papers=papers, ruling=lie, row=replace(got.row, node=honest.node)), lie
    )


def test_the_same_in_other_words_is_no_other_story(tmp_path: Path) -> None:
    """Another time, another reading under the same word: refused as ever, and nobody's bond is in question."""

    async def scenario() -> int:
        async with worlds.inside(tmp_path, worlds.QUICK, witness=False) as world:
            for operator, kind, change in (
                ("east", "contribution", {"metrics": {"loss": "9"}}),
                ("north", "answer", {"blind": "ab" * 32}),
                ("south", "answer", {"blind": "ab" * 32}),
            ):
                await world.node(operator, Teller, twice=kind, changes=change)
            bob = await world.buyer("bob")
            job = (await bob.submit(ours())).id
            world.start(bob.broker(job))
            await bob.finished(job)
            report = check(world, await bob.receipt(job))
            assert report.verdict is Verdict.VERIFIED
            assert not [item for item in report.findings if item.id == "statement.void"]
            exchange, _ = world.inside
            return len(await exchange.store.aread(lambda c: disputes.of_job(c, job)))

    assert asyncio.run(scenario()) == 0


def test_rules_2_refuse_a_second_story_and_no_more(tmp_path: Path) -> None:
    """Their receipts stay what they were: nothing of it is kept, nothing disputed."""

    async def scenario() -> int:
        async with worlds.inside(tmp_path, worlds.QUICK, witness=False) as world:
            for operator in ("east", "north", "south"):
                await world.node(operator, Teller, twice="commitment", changes=KINDS["commitment"])
            bob = await world.buyer("bob")
            with taken_before():
                job = (await bob.submit(before(train_spec(rounds=1, lanes=1)))).id
            world.start(bob.broker(job))
            await bob.finished(job)
            report = check(world, await bob.receipt(job))
            assert report.verdict is Verdict.VERIFIED
            assert not [item for item in report.findings if item.id == "statement.void"]
            exchange, _ = world.inside
            return len(await exchange.store.aread(lambda c: disputes.of_job(c, job)))

    assert asyncio.run(scenario()) == 0
