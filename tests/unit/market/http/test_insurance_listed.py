"""What insurance gave and got, told apart by what for, as `stannary market ledger --account insurance` shows it."""

from __future__ import annotations

from typing import Any

from tests.unit.store import world

from stannary.formats.predicates import SettlementLine
from stannary.market.http import routes_admin
from stannary.settle import escrow
from stannary.settle.escrow import Escrow
from stannary.store import accounts, jobs, ledger, readings
from stannary.store.database import Store

HELD = 1_000
LINES = (
    SettlementLine("operator:ann", "t1", "void", 0),
    SettlementLine("insurance", "t1", "void", 300),
    SettlementLine("operator:ann", "t2", "redo", 120),
    SettlementLine("insurance", "t2", "redo", -120),
    SettlementLine("buyer", "", "refund", 700),
)


def settled(connection: Any, lines: tuple[SettlementLine, ...], posted: tuple[SettlementLine, ...]) -> None:
    """Settle a job by some lines, and move its money by others."""
    world.furnish(connection)
    accounts.add_buyer(connection, "bob", at_ms=0)
    ledger.post(connection, escrow.deposit("d", "bob", HELD), at_ms=0)
    jobs.submit(connection, [world.submission(7, buyer="bob", escrow_usd_micros=HELD)])
    job = str(world.submission(7).job)
    readings.settle(connection, job, lines)
    entry = escrow.settle(Escrow(job, "bob", HELD), posted)
    assert entry is not None
    ledger.post(connection, entry, at_ms=0)


def listed(store: Store) -> list[tuple[str, bool, int]]:
    """Return reason, whether insurance got it, and amount."""
    page = store.read(lambda c: routes_admin._ledger(c, "insurance"))
    return [(item.reason, item.credit == "insurance", item.usd_micros) for item in page.entries]


def test_a_settlement_is_told_apart(tmp_path: Any) -> None:
    """One entry moved the difference; both of its causes are listed."""
    store = Store.open(tmp_path / "market.db")
    try:
        store.write(lambda c: settled(c, LINES, LINES)).result(30)
        assert listed(store) == [("redo", False, 120), ("void", True, 300)]
        assert store.read(ledger.all_balances)["insurance"] == 180
    finally:
        store.close()


def test_what_does_not_add_up_is_told_whole(tmp_path: Any) -> None:
    """A bond held less than its receipt states, and insurance stood in: the movement is listed as it was made."""
    less = (SettlementLine("insurance", "n", "forfeit", 90), SettlementLine("buyer", "", "refund", 910))
    store = Store.open(tmp_path / "market.db")
    try:
        store.write(lambda c: settled(c, LINES, less)).result(30)
        assert listed(store) == [("settle", True, 90)]
    finally:
        store.close()
