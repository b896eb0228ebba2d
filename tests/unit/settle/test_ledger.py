"""Double entry and escrow: money is conserved, nobody is overdrawn, nothing is paid twice."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import ConflictError, UsageError
from stannary.settle import escrow
from stannary.settle.ledger import (
    FEES,
    INSURANCE,
    WORLD,
    Account,
    Entry,
    Posting,
    Purpose,
    after_posting,
    buyer_escrow,
    operator_available,
    operator_bond,
    same_or_conflict,
    transfer,
)


@dataclass(slots=True)
class Ledger:
    """Balances and entries in memory, by the rules the durable ledger (store/ledger.py) keeps as well."""

    balances: dict[Account, int] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)

    def post(self, entry: Entry) -> bool:
        """Post `entry`; return False if exactly this was posted before.

        Raises:
            ConflictError: another entry has its key.
            UsageError: an account would be overdrawn; nothing is changed then.
        """
        posted = self.entries.get(entry.key)
        if posted is not None:
            same_or_conflict(posted, entry)
            return False
        after = after_posting(self.balances, entry.postings)
        self.balances.update(after)
        self.entries[entry.key] = entry
        return True


def pay(job: str, task: str, buyer: str, operator: str, usd_micros: int, reason: str = "work") -> Entry:
    """Pay for a task out of escrow, as a settlement does."""
    way = (buyer_escrow(buyer), operator_available(operator))
    return transfer(f"pay:{task}", reason, way, usd_micros, Purpose(job, task))


def forfeit(task: str, buyer: str, operator: str, damage: int, penalty: int) -> Entry:
    """Take a bond in two parts."""
    bond = Posting(operator_bond(operator), -damage - penalty)
    return Entry(
        f"forfeit:{task}", "forfeit", (bond, Posting(buyer_escrow(buyer), damage), Posting(INSURANCE, penalty))
    )


PARTIES = st.sampled_from(["ann", "bob"])
JOBS = st.sampled_from(["j-1", "j-2", "j-3"])
TASKS = st.sampled_from(["t-1", "t-2", "t-3"])
AMOUNTS = st.integers(1, 10**9)
ENTRIES = st.one_of(
    st.builds(escrow.deposit, st.text(min_size=1, max_size=2), PARTIES, AMOUNTS),
    st.builds(escrow.post_bond, st.text(min_size=1, max_size=2), PARTIES, AMOUNTS),
    st.builds(escrow.hold, JOBS, PARTIES, AMOUNTS),
    st.builds(pay, JOBS, TASKS, PARTIES, PARTIES, AMOUNTS),
    st.builds(forfeit, TASKS, PARTIES, PARTIES, AMOUNTS, AMOUNTS),
)


@given(st.lists(ENTRIES, max_size=60))
def test_any_history_conserves_money(entries: list[Entry]) -> None:
    """Whatever is asked for in whatever order, balances add up to zero and only the world owes."""
    ledger = Ledger()
    for entry in entries:
        before = dict(ledger.balances)
        try:
            ledger.post(entry)
        except (ConflictError, UsageError):
            assert ledger.balances == before
        assert sum(ledger.balances.values()) == 0
        assert all(balance >= 0 for account, balance in ledger.balances.items() if account != WORLD)


@given(st.lists(ENTRIES, max_size=40))
def test_a_history_played_again_changes_nothing(entries: list[Entry]) -> None:
    """After a restart everything may be posted again: what was posted stays posted once."""
    ledger = Ledger()
    posted = [entry for entry in entries if _posts(ledger, entry)]
    before = dict(ledger.balances)
    assert not any(ledger.post(entry) for entry in posted)
    assert ledger.balances == before


def test_one_task_is_paid_once() -> None:
    """A second payment for a task is the same one or a conflict, never more money."""
    ledger = Ledger()
    ledger.post(escrow.deposit("d", "ann", 100))
    ledger.post(escrow.hold("j-1", "ann", 100))
    payment = ("j-1", "t-1", "ann")
    assert ledger.post(pay(*payment, "bob", 30))
    assert not ledger.post(pay(*payment, "bob", 30))
    for other in (pay(*payment, "bob", 31), pay(*payment, "eve", 30), pay(*payment, "bob", 30, "redo")):
        with pytest.raises(ConflictError, match="already"):
            ledger.post(other)
    assert ledger.balances[operator_available("bob")] == 30


def test_too_small_a_deposit_holds_nothing() -> None:
    """A hold beyond the deposit is refused with both figures."""
    ledger = Ledger()
    ledger.post(escrow.deposit("d", "ann", 100))
    with pytest.raises(UsageError, match="not enough money") as refused:
        ledger.post(escrow.hold("j-1", "ann", 101))
    assert "$0.000100" in refused.value.why
    assert "$0.000101" in refused.value.why


@pytest.mark.parametrize(
    "postings",
    [
        (),
        (Posting(WORLD, 0),),
        (Posting(WORLD, 1), Posting(INSURANCE, -2)),
        (Posting(WORLD, 0), Posting(INSURANCE, 0)),
        (Posting(WORLD, 1), Posting(WORLD, -1)),
        (Posting(WORLD, 10**16), Posting(INSURANCE, -(10**16))),
    ],
)
def test_what_is_no_entry_cannot_be_made(postings: tuple[Posting, ...]) -> None:
    """Unbalanced, empty, zero, repeated or absurd postings are refused when the entry is built."""
    with pytest.raises(UsageError):
        Entry("key", "reason", postings)


@pytest.mark.parametrize("usd_micros", [0, -1])
def test_nothing_and_less_cannot_be_moved(usd_micros: int) -> None:
    """A negative payment would be a theft with the direction turned round."""
    for build in (
        lambda: escrow.deposit("d", "ann", usd_micros),
        lambda: escrow.hold("j", "ann", usd_micros),
        lambda: escrow.post_bond("b", "ann", usd_micros),
    ):
        with pytest.raises(UsageError):
            build()


def _posts(ledger: Ledger, entry: Entry) -> bool:
    try:
        return ledger.post(entry)
    except (ConflictError, UsageError):
        return False


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(-(10**6), 10**6))
def test_what_a_bond_no_longer_holds_is_paid_by_insurance_then_fees_then_the_market(
    missing: int, insurance: int, fees: int, own: int
) -> None:
    """What covers a receipt adds up to what was missing, and no pocket is asked before the one ahead of it is empty."""
    moved = {INSURANCE: own, buyer_escrow("ann"): -own - missing}
    covered = escrow.cover(moved, missing, {INSURANCE: insurance, FEES: fees})
    taken = {account: moved.get(account, 0) - covered.get(account, 0) for account in (INSURANCE, FEES, WORLD)}
    assert sum(taken.values()) == missing and all(amount >= 0 for amount in taken.values())
    assert covered.get(buyer_escrow("ann"), 0) == -own - missing
    assert taken[FEES] == 0 or insurance + own - taken[INSURANCE] <= 0
    assert taken[WORLD] == 0 or fees - taken[FEES] <= 0
