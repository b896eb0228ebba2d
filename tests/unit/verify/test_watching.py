"""Units of a node that was struck elsewhere are drawn more often, insurance pays, and both verifiers see to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.verify.world import World

from stannary.formats import predicates
from stannary.formats.predicates import Assurance, Watch
from stannary.rules import stake
from stannary.verify.receipt import verify_receipt
from stannary.verify.report import Report, Severity

MUCH = 10_000_000
ROUNDS = 12


def watching(usd_micros: int = MUCH, *, is_watched: bool = True, seed: int = 0) -> World:
    """Return a job of many rounds and few audits, in which the node of the first lane is watched."""
    world = World(rounds=ROUNDS, lanes=2, audit_ppm=1, assurance=Assurance.SAMPLED, seed=seed)
    world.step_ms = 40_000
    if is_watched:
        world.watch = Watch((world.node_of(0).id,), usd_micros)
    return world


def judged(world: World) -> Report:
    """Verify the world's receipt; conftest.py has the second verifier say the same."""
    return verify_receipt(world.receipt(), world.trust(), world.now)


def refuted(report: Report) -> set[str]:
    """Name what refutes a receipt."""
    return {item.id for item in report.findings if item.severity is Severity.REFUTED}


def lines(report: Report, account: str, reason: str) -> list[predicates.SettlementLine]:
    """Return the lines of one account and reason."""
    assert report.claims is not None
    return [i for i in report.claims.receipt.settlement if (i.account, i.reason) == (account, reason)]


def audited(report: Report, node: str) -> set[str]:
    """Return the units of a node that were recomputed."""
    assert report.claims is not None
    case = report.claims.case
    return {task for task in case.answers_of if case.contributions[task].predicate.node == node}


def test_a_watched_nodes_units_are_drawn_as_if_nothing_stood_behind_them() -> None:
    """Insurance pays what is drawn only for that, line by line; the buyer pays what he would have paid."""
    world, alone = watching(), watching(is_watched=False)
    report, before = judged(world.play()), judged(alone.play())
    assert (refuted(report), refuted(before)) == (set(), set())
    node = world.node_of(0).id
    extra = lines(report, "insurance", "extra")
    assert len(extra) >= 3, "the test must try something"
    assert {item.task.rpartition("/q")[0] for item in extra} < audited(report, node)
    assert lines(before, "insurance", "extra") == []
    paid = {item.task: item.usd_micros for account in {i.account for i in report.claims.receipt.settlement}  # type: ignore[union-attr]
            if account.startswith("operator:") for item in lines(report, account, "audit")}  # fmt: skip
    assert all(paid[item.task] == -item.usd_micros > 0 for item in extra)
    assert report.claims is not None and before.claims is not None
    assert sum(item.usd_micros for item in report.claims.receipt.settlement) == report.claims.receipt.escrow_usd_micros


def test_no_more_is_drawn_than_insurance_has_put_aside_for() -> None:
    """Of a draw the first in the log, as far as it reaches; with nothing put aside all is as if nobody were watched."""
    whole = judged(watching().play())
    none = judged(watching(0).play())
    assert lines(none, "insurance", "extra") == []
    each = max(-item.usd_micros for item in lines(whole, "insurance", "extra"))
    short = judged(watching(each - 1).play())
    assert (refuted(none), refuted(short)) == (set(), set())
    assert len(lines(short, "insurance", "extra")) < len(lines(whole, "insurance", "extra"))


def test_units_are_watched_in_the_order_of_the_log_while_it_reaches() -> None:
    """What does not fit any more is passed over, and a cheaper one behind it still is watched."""
    hour_us = 3_600_000_000
    watch = Watch((predicates.NodeId("n-a"),), 100)
    units = [("n-a", hour_us), ("n-b", hour_us), ("n-a", 2 * hour_us), ("n-a", hour_us)]
    assert stake.watched(units, watch, 50) == {0: 50, 3: 50}  # type: ignore[arg-type]
    assert stake.watched(units, None, 50) == {}  # type: ignore[arg-type]


def own_rates(world: World) -> Callable[[predicates.Draw], predicates.Draw]:
    """Return what makes a market draw a watched node as everybody: its own list says otherwise."""

    def change(said: predicates.Draw) -> predicates.Draw:
        entries = tuple(replace(entry, audit_ppm=world.spec().trust.audit_ppm) for entry in said.drawable)
        return replace(said, drawable=entries)

    return change


def test_a_market_that_lists_whom_it_watches_must_draw_them_so() -> None:
    """Neither fewer units nor more than the list says, which stands in the log before the beacon is known."""
    world = watching()
    world.bend["draw"] = own_rates(world)
    assert "draw.drawable" in refuted(judged(world.play()))
    raised = watching(is_watched=False)
    raised.bend["draw"] = lambda said: replace(
        said, drawable=tuple(replace(entry, audit_ppm=606_061) for entry in said.drawable)
    )
    assert "draw.drawable" in refuted(judged(raised.play()))


@pytest.mark.parametrize("bent", [lambda nodes: (), lambda nodes: (*nodes, *nodes)])
def test_a_list_names_somebody_and_each_once(bent: Callable[[Any], Any]) -> None:
    """A list of nobody, or of one node twice, is none."""
    world = watching()
    assert world.watch is not None
    world.watch = replace(world.watch, nodes=bent(world.watch.nodes))
    assert "candidates.watch" in refuted(judged(world.play()))


def test_nobody_is_watched_where_a_bond_is_the_stake() -> None:
    """Under rules 2 a recomputation convicts whatever the code: units have no rates of their own there."""
    world = World(rounds=2, lanes=2)
    world.watch = Watch((world.node_of(0).id,), MUCH)
    assert "candidates.watch" in refuted(judged(world.play()))


def test_a_receipt_that_lets_the_buyer_pay_for_it_is_refuted() -> None:
    """The lines are computed again: an extra audit charged to escrow is none of them."""
    world = watching()

    def change(said: predicates.Receipt) -> predicates.Receipt:
        kept = [item for item in said.settlement if item.reason != "extra"]
        took = sum(item.usd_micros for item in said.settlement if item.reason == "extra")
        last = replace(kept[-1], usd_micros=kept[-1].usd_micros + took)
        paid = said.paid_usd_micros - took
        settled = (*kept[:-1], last)
        return replace(said, settlement=settled, paid_usd_micros=paid, refunded_usd_micros=last.usd_micros)

    world.bend["receipt"] = change
    assert "receipt.settlement" in refuted(judged(world.play()))
