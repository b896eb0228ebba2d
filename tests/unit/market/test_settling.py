"""Settling: a bond is forfeited once, whatever several receipts state, and no money comes from nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import Connection
from tests.unit.store import world as stored

from stannary.formats.ids import AuditId, NodeId, TaskId
from stannary.formats.predicates import Verdict
from stannary.market.engine import applying
from stannary.market.http import routes_admin
from stannary.settle import escrow
from stannary.settle.ledger import (
    INSURANCE,
    WORLD,
    buyer_escrow,
    operator_available,
    operator_bond,
)
from stannary.store import jobs, ledger
from stannary.store.database import Store
from stannary.verify import settlement
from stannary.verify.settlement import AuditWork, Bond, PayableWork

BOND = 1_000
LIAR, HONEST = NodeId("n-1"), NodeId("n-2")
ESCROW = 600


def lines_of(job: str, *, redo: int, audit: int) -> settlement.Settled:
    """Return the settlement of a job in which the liar spoilt another's work and was exposed by an audit."""
    work = [
        PayableWork(TaskId(f"{job}/r0/l0/a0"), LIAR, "ann", 50, Verdict.REFUTED),
        PayableWork(TaskId(f"{job}/r0/l1/a0"), HONEST, "bob", redo, Verdict.VERIFIED, redone=True, caused_by=LIAR),
    ]
    audits = [AuditWork(AuditId(f"{job}/q"), HONEST, "bob", audit, caused_by=LIAR)]
    return settlement.settle(ESCROW, work, audits, [Bond(LIAR, "ann", BOND)])


def settled(connection: Connection, number: int, *, redo: int, audit: int) -> None:
    """Settle one job as the market does."""
    row = jobs.get(connection, f"j-{number:012x}")
    applying.pay(connection, row, lines_of(row.job, redo=redo, audit=audit).lines, 1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with two jobs of one buyer, a liar with a bond, and its operator's other node with another."""
    opened = Store.open(tmp_path / "market.db")

    def furnish(connection: Connection) -> None:
        stored.fund(connection)
        for name, operator in (("n-1", "ann"), ("n-2", "bob"), ("n-3", "ann")):
            stored.accounts.add_operator(connection, operator, at_ms=0)
            ledger.post(connection, escrow.post_bond(name, operator, BOND), at_ms=0)
        for number in (1, 2):
            jobs.submit(connection, [stored.submission(number, escrow_usd_micros=ESCROW)])

    opened.write(furnish).result(30)
    return opened


@pytest.mark.parametrize(("redo", "audit"), [(100, 50), (400, 100), (0, 0)])
def test_a_bond_forfeited_twice_is_forfeited_once(store: Store, redo: int, audit: int) -> None:
    """Convicted in two jobs, a node loses one bond; both jobs' honest parties are paid, by the bond and insurance."""
    with store:

        def settle_both(connection: Connection) -> None:
            settled(connection, 1, redo=redo, audit=audit)
            settled(connection, 2, redo=redo, audit=audit)

        before = store.read(ledger.all_balances)
        store.write(settle_both).result(30)
        after = store.read(ledger.all_balances)
    assert sum(after.values()) == 0
    assert after[WORLD] == before[WORLD]
    assert after[operator_bond("ann")] == before[operator_bond("ann")] - BOND  # the other node's bond is not touched
    assert after.get(INSURANCE, 0) == BOND - 2 * (redo + audit)
    assert after.get(operator_available("bob"), 0) == 2 * (redo + audit)
    assert after[buyer_escrow("buyer")] == 0


def test_every_movement_of_insurance_can_be_read(store: Store) -> None:
    """Of one account alone: what came from whom and what went to whom comes to what it holds; others are not shown."""
    with store:

        def settle_both(connection: Connection) -> None:
            settled(connection, 1, redo=100, audit=50)
            settled(connection, 2, redo=100, audit=50)

        store.write(settle_both).result(30)
        page = store.read(lambda c: routes_admin._ledger(c, INSURANCE))
        nothing = store.read(lambda c: routes_admin._ledger(c, "nobody"))
        whole = store.read(lambda c: routes_admin._ledger(c, None))
    moved = [(item.debit, item.credit, item.usd_micros, item.job) for item in page.entries]
    # the first job leaves what it did not need of the bond; the second, whose bond is gone, is made whole from that
    assert moved == [
        ("several", INSURANCE, BOND - 150, "j-000000000001"),
        (INSURANCE, "several", 150, "j-000000000002"),
    ]
    assert sum(amount if to == INSURANCE else -amount for _, to, amount, _ in moved) == page.balances[INSURANCE]
    assert nothing.entries == []
    assert {item.seq for item in page.entries} < {item.seq for item in whole.entries}


def test_what_insurance_cannot_cover_is_the_markets_own_loss(store: Store) -> None:
    """Where two jobs cost more than one bond, signed receipts are honoured: fees first, then the market's pocket."""
    with store:

        def settle_both(connection: Connection) -> None:
            settled(connection, 1, redo=500, audit=100)
            settled(connection, 2, redo=500, audit=100)

        before = store.read(ledger.all_balances)
        store.write(settle_both).result(30)
        after = store.read(ledger.all_balances)
    assert sum(after.values()) == 0
    assert after.get(INSURANCE, 0) == 0
    assert before[WORLD] - after[WORLD] == 2 * 600 - BOND
    assert after[operator_available("bob")] == 1_200
