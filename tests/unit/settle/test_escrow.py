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
from stannary.rules import appeal
from stannary.rules.appeal import Due, TakenBond
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


OWED = st.builds(Due, st.sampled_from(sorted(BONDS)), st.just("t/q1"), st.just("appeal"), AMOUNTS)


@given(st.dictionaries(st.sampled_from(sorted(BONDS)), AMOUNTS), st.lists(OWED, max_size=4), AMOUNTS, st.booleans())
def test_a_ruling_moves_what_its_lines_say(bonds: dict[str, int], due: list[Due], redo: int, is_insured: bool) -> None:
    """Whoever loses or hears, also twice or both: each account moves by the sum of its lines, and all by nothing."""
    taken = [TakenBond(NodeId(node), node, amount) for node, amount in sorted(bonds.items())]
    lines = appeal.lines(taken, due, redo, appeal.short_of(taken, due) if is_insured else 0)
    stated: Counter[Account] = Counter()
    for line in lines:
        kind, _, name = line.account.partition(":")
        whose = {"bond": operator_bond(name), "operator": operator_available(name), "buyer": buyer_available("ada")}
        stated[whose.get(kind, INSURANCE)] += line.usd_micros
    stated = Counter({account: amount for account, amount in stated.items() if amount})
    entry = escrow.rule("j-1", "n-0", "ada", lines)
    if entry is None:
        assert not stated
        return
    assert {item.account: item.usd_micros for item in entry.postings} == stated
    assert sum(item.usd_micros for item in entry.postings) == 0


def test_each_disputed_bond_is_ruled_on_once() -> None:
    """The key is that of job and node: rulings on two nodes both move, a second on one of them is refused."""
    one, same, less = (appeal.lines([TakenBond(NodeId("n-0"), "n-0", amount)], (), 0, 0) for amount in (9, 9, 8))
    first, again, other, otherwise = (
        escrow.rule("j-1", node, "ada", lines)
        for node, lines in (("n-0", one), ("n-0", same), ("n-1", one), ("n-0", less))
    )
    assert first is not None and again is not None and other is not None and otherwise is not None
    assert (first, first.job) == (again, "j-1")
    assert first.key != other.key
    with pytest.raises(ConflictError):
        same_or_conflict(first, otherwise)


@pytest.mark.parametrize("owed", [(), (Due("n-1", "t/q1", "appeal", 5),)])
def test_a_ruling_by_which_nothing_moves_is_no_entry(owed: tuple[Due, ...]) -> None:
    """Nobody loses and nobody was heard, or there is nothing to pay him with: lines of nothing post nothing."""
    lines = appeal.lines((), owed, 7, 0)
    assert len(lines) == len(owed)
    assert escrow.rule("j-1", "n-0", "ada", lines) is None


@pytest.mark.parametrize(("insured", "fees"), [(100, 0), (25, 0), (10, 8), (0, 0)])
def test_extra_audits_come_from_insurance_and_what_it_lacks_from_the_market(insured: int, fees: int) -> None:
    """A signed receipt is paid: the auditor has all of it, the buyer loses nothing, and insurance never owes."""
    lines = (
        SettlementLine("operator:bob", "t/q", "audit", 25),
        SettlementLine("insurance", "t/q", "extra", -25),
        SettlementLine("buyer", "", "refund", 50),
    )
    entry = escrow.settle(escrow.Escrow("j-1", "ada", 50), lines, None, {INSURANCE: insured, FEES: fees})
    assert entry is not None
    moved = {item.account: item.usd_micros for item in entry.postings}
    assert sum(moved.values()) == 0
    assert (moved[operator_available("bob")], moved[buyer_available("ada")]) == (25, 50)
    assert -moved.get(INSURANCE, 0) == min(insured, 25)
    assert -moved.get(FEES, 0) == min(fees, 25 - min(insured, 25))
    assert -moved.get(WORLD, 0) == 25 - min(insured, 25) - min(fees, 25 - min(insured, 25))
