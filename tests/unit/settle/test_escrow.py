"""Settling: what a receipt states is paid, once; a bond is forfeited once; no money appears or is lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import ConflictError
from stannary.formats.ids import AuditId, NodeId, TaskId
from stannary.formats.predicates import SettlementLine, Verdict
from stannary.settle import escrow
from stannary.settle.ledger import (
    FEES,
    INSURANCE,
    WORLD,
    Account,
    after_posting,
    buyer_available,
    buyer_escrow,
    operator_available,
    operator_bond,
    same_or_conflict,
)
from stannary.verify import settlement
from stannary.verify.settlement import AuditWork, Bond, PayableWork

BONDS = {"n-0": 1_000, "n-1": 400, "n-2": 0}  # of nodes of three operators, who are named like them
AMOUNTS = st.integers(0, 10**6)


@given(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS)
def test_cover_conserves_money(missing: int, own: int, insured: int, fees: int) -> None:
    """Whatever is missing is brought in exactly, from accounts that hold it, in their order."""
    moved = {INSURANCE: own, operator_available("bob"): missing, operator_bond("ann"): -own}
    covered = escrow.cover(moved, missing, {INSURANCE: insured, FEES: fees})
    assert sum(covered.values()) == 0
    assert insured + covered.get(INSURANCE, 0) >= 0
    assert fees + covered.get(FEES, 0) >= 0
    assert -covered.get(WORLD, 0) == max(missing - own - insured - fees, 0)
    if covered.get(FEES, 0):
        assert insured + covered.get(INSURANCE, 0) == 0


@dataclass(slots=True)
class Books:
    """What a market knows when it settles: balances, and what each node's bond has lost."""

    balances: dict[Account, int] = field(default_factory=dict)
    forfeited: Counter[str] = field(default_factory=Counter)

    def settle(self, held: escrow.Escrow, lines: tuple[SettlementLine, ...]) -> None:
        """Settle a job; the market's own pocket comes last."""
        entry = escrow.settle(held, lines, self.forfeited, self.balances)
        if entry is None:
            return
        self.balances.update(after_posting(self.balances, entry.postings))
        if any(item.account == WORLD for item in entry.postings):
            assert self.balances.get(INSURANCE, 0) == self.balances.get(FEES, 0) == 0
        for line in lines:
            if line.account.startswith("bond:"):
                self.forfeited[line.task] -= line.usd_micros


@st.composite
def jobs(draw: st.DrawFn) -> tuple[int, tuple[SettlementLine, ...], int]:
    """Draw the escrow of a job, its lines as its receipt states them, and what they say operators get."""
    nodes = st.sampled_from(sorted(BONDS))
    liars = draw(st.sets(nodes, max_size=2))
    work, audits = [], []
    for number in range(draw(st.integers(0, 5))):
        node, cause = draw(nodes), draw(st.sampled_from([None, *sorted(liars)]))
        verdict = Verdict.REFUTED if node in liars else draw(st.sampled_from([Verdict.VERIFIED, Verdict.UNVERIFIED]))
        price = draw(st.integers(0, 700))
        task = TaskId(f"t{number}")
        work.append(
            PayableWork(
                task, NodeId(node), node, price, verdict, redone=cause is not None, caused_by=cause and NodeId(cause)
            )
        )
        audits.append(AuditWork(AuditId(f"q{number}"), NodeId(node), node, price, refuted=node in liars))
    escrow_usd_micros = draw(st.integers(0, 2_000))
    bonds = [Bond(NodeId(node), node, BONDS[node]) for node in sorted(liars)]
    made = settlement.settle(escrow_usd_micros, work, audits, bonds)
    paid = sum(line.usd_micros for line in made.lines if line.account.startswith("operator:"))
    return escrow_usd_micros, made.lines, paid


@given(st.lists(jobs(), min_size=1, max_size=4), st.integers(0, 500))
def test_every_receipt_is_honoured_and_no_bond_taken_twice(
    settled: list[tuple[int, tuple[SettlementLine, ...], int]], fees: int
) -> None:
    """Whatever jobs convict the same nodes: operators get what is stated, escrow empties, only world may owe."""
    books = Books({operator_bond(node): bond for node, bond in BONDS.items()} | {FEES: fees})
    books.balances[buyer_escrow("ada")] = sum(usd_micros for usd_micros, _, _ in settled)
    before = sum(books.balances.values())
    for number, (usd_micros, lines, _) in enumerate(settled):
        books.settle(escrow.Escrow(f"j-{number}", "ada", usd_micros), lines)
    earned = sum(books.balances.get(operator_available(node), 0) for node in BONDS)
    lost = {node for _, lines, _ in settled for node in escrow.forfeiting(lines)}
    assert sum(books.balances.values()) == before
    assert earned == sum(paid for _, _, paid in settled)
    assert books.balances[buyer_escrow("ada")] == 0
    assert {node: books.balances[operator_bond(node)] for node in BONDS} == {
        node: 0 if node in lost else bond for node, bond in BONDS.items()
    }


@given(jobs())
def test_a_job_is_settled_once(job: tuple[int, tuple[SettlementLine, ...], int]) -> None:
    """The same state gives the same entry under the job's one key; any other is refused, and nothing moves twice."""
    usd_micros, lines, _ = job
    held = escrow.Escrow("j-1", "ada", usd_micros)
    entry, again = (escrow.settle(held, lines) for _ in range(2))
    assert entry == again
    if entry is not None:
        assert entry.key == escrow.settle_key("j-1")
        same_or_conflict(entry, entry)
        more = escrow.settle(escrow.Escrow("j-1", "ada", usd_micros + 1), lines)
        assert more is not None
        with pytest.raises(ConflictError):
            same_or_conflict(entry, more)


def test_without_lines_everything_goes_back() -> None:
    """A job that was never placed, or that the market cannot conclude, costs nothing; without escrow nothing moves."""
    entry = escrow.settle(escrow.Escrow("j-1", "ada", 600))
    assert entry is not None
    assert {item.account: item.usd_micros for item in entry.postings} == {
        buyer_available("ada"): 600,
        buyer_escrow("ada"): -600,
    }
    assert escrow.settle(escrow.Escrow("j-1", "ada", 0)) is None
