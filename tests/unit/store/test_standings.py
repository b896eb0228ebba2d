"""How nodes stand, in the store: whose strikes count, what a voice was paid for, and what is never forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.store import world

from stannary.formats.predicates import SettlementLine
from stannary.formats.quantity import PPM
from stannary.jobs import standing
from stannary.jobs.standing import StandingChange
from stannary.settle import escrow
from stannary.settle.escrow import Escrow
from stannary.store import accounts, jobs, ledger, nodes, standings
from stannary.store.database import Store

NOW = 10_000_000
SHARE = standing.SHARE_USD_MICROS
OPERATORS = ("ann", "cid", "dan", "eve")
BUYERS = ("b1", "b2", "b3")


def job(number: int) -> str:
    return str(world.submission(number).job)


def settle(connection: Any, number: int, buyer: str, paid: dict[str, int]) -> None:
    """Let a buyer's job be settled that paid so much to each operator."""
    total = sum(paid.values()) + 1
    ledger.post(connection, escrow.deposit(buyer, buyer, total), at_ms=0)
    jobs.submit(connection, [world.submission(number, buyer=buyer, escrow_usd_micros=total)])
    lines = [SettlementLine(f"operator:{name}", "t", "work", usd_micros) for name, usd_micros in paid.items()]
    entry = escrow.settle(Escrow(job(number), buyer, total), [*lines, SettlementLine("buyer", "", "refund", 1)])
    assert entry is not None
    ledger.post(connection, entry, at_ms=0)


@pytest.fixture
def market(store: Store) -> Store:
    """A store with Ann's node, and three buyers whose jobs paid a share to each of three other operators."""

    def furnish(connection: Any) -> None:
        world.furnish(connection)
        for name in OPERATORS[1:]:
            accounts.add_operator(connection, name, at_ms=0)
            nodes.add(connection, world.node(f"n-{name}", name))
        for at, buyer in enumerate(BUYERS):
            accounts.add_buyer(connection, buyer, at_ms=0)
            settle(connection, 10 + at, buyer, dict.fromkeys(OPERATORS, SHARE))

    store.write(furnish).result(30)
    return store


def strike(store: Store, number: int, at_ms: int = NOW) -> StandingChange | None:
    """Strike Ann's node in a job, and say what it comes to."""

    def write(connection: Any) -> StandingChange | None:
        jobs.strike(connection, job(number), "n-1", world.TASK, at_ms=at_ms)
        return standings.consider(connection, "n-1", at_ms)

    return store.write(write).result(30)


def test_what_a_buyer_spent_is_what_his_settled_jobs_paid(market: Store) -> None:
    """By operator, of settled jobs alone; another buyer's is another's."""
    assert market.read(lambda c: dict(standings.spent(c, "b1"))) == dict.fromkeys(OPERATORS, SHARE)
    assert market.read(lambda c: dict(standings.spent(c, "buyer"))) == {}


def test_three_voices_suspend_and_time_restores(market: Store) -> None:
    """The third strike does it; ten minutes later it is over, and the three count no more."""
    assert [strike(market, number) for number in (10, 11)] == [None, None]
    assert market.read(lambda c: standings.held_against(c, NOW))["n-1"] == standings.HeldAgainst(2, 2 * PPM)
    assert strike(market, 12) is StandingChange.SUSPEND
    assert market.read(standings.suspended) == ["n-1"]
    assert [row.is_suspended for row in market.read(lambda c: nodes.standing(c, "n-1"))] == []  # it has no credential
    assert market.write(lambda c: standings.consider(c, "n-1", NOW + standing.HOLD_MS)).result(30) is None
    over = market.write(lambda c: standings.consider(c, "n-1", NOW + standing.HOLD_MS, is_over=True)).result(30)
    assert over is StandingChange.RESTORE_UNSEEN
    assert market.read(standings.suspended) == []
    assert market.read(lambda c: standings.held_against(c, NOW + standing.HOLD_MS))["n-1"] == standings.HeldAgainst()


def test_an_agreement_restores_at_once(market: Store) -> None:
    """In code of ours, with another operator."""
    for number in (10, 11, 12):
        strike(market, number)
    change = market.write(lambda c: standings.consider(c, "n-1", NOW + 1, has_agreed=True)).result(30)
    assert change is StandingChange.RESTORE_PASSED
    assert strike(market, 11, at_ms=NOW + 2) is None


def test_strikes_taken_back_count_for_nothing(market: Store) -> None:
    """Those of one job, whoever they were against; the others stay."""
    strike(market, 10)
    strike(market, 11)
    assert market.write(lambda c: standings.take_back(c, job(11), at_ms=NOW)).result(30) == ["n-1"]
    assert market.write(lambda c: standings.take_back(c, job(11), at_ms=NOW)).result(30) == []
    assert strike(market, 12) is None
    assert [item.job for item in market.read(lambda c: standings.read(c, "n-1")).strikes] == [job(10), job(12)]


def test_a_buyer_who_paid_nobody_else_has_no_voice(market: Store) -> None:
    """His strikes are kept, and weigh nothing."""
    jobs_of_buyer = world.JOB
    market.write(lambda c: jobs.strike(c, jobs_of_buyer, "n-1", world.TASK, at_ms=NOW)).result(30)
    held = market.read(lambda c: standings.held_against(c, NOW))["n-1"]
    assert (held.num_buyers, held.score_ppm) == (1, 0)


def test_joining_again_does_not_end_a_suspension(market: Store) -> None:
    """A node that renews its join stands as it stood."""
    for number in (10, 11, 12):
        strike(market, number)
    market.write(lambda c: nodes.add(c, world.node("n-1", "ann"))).result(30)
    assert market.read(standings.suspended) == ["n-1"]
