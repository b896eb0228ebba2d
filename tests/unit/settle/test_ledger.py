"""Double entry and escrow: money is conserved, nobody is overdrawn, nothing is paid twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import ConflictError, UsageError
from stannary.settle import escrow
from stannary.settle.escrow import Conviction, Payment
from stannary.settle.ledger import (
    INSURANCE,
    WORLD,
    Entry,
    Ledger,
    Posting,
    buyer_available,
    buyer_escrow,
    operator_available,
    operator_bond,
)

PARTIES = st.sampled_from(["ann", "bob"])
JOBS = st.sampled_from(["j-1", "j-2", "j-3"])
TASKS = st.sampled_from(["t-1", "t-2", "t-3"])
AMOUNTS = st.integers(1, 10**9)
CONVICTIONS = st.builds(
    Conviction, JOBS, TASKS, PARTIES, PARTIES, st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6)
)
ENTRIES = st.one_of(
    st.builds(escrow.deposit, st.text(min_size=1, max_size=2), PARTIES, AMOUNTS),
    st.builds(escrow.post_bond, st.text(min_size=1, max_size=2), PARTIES, AMOUNTS),
    st.builds(escrow.hold, JOBS, PARTIES, AMOUNTS),
    st.builds(escrow.pay, st.builds(Payment, JOBS, TASKS, PARTIES, PARTIES, AMOUNTS, st.just("work"))),
    st.builds(escrow.refund, JOBS, PARTIES, AMOUNTS),
    CONVICTIONS.map(escrow.forfeit).filter(bool),
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
    payment = Payment("j-1", "t-1", "ann", "bob", 30, "work")
    assert ledger.post(escrow.pay(payment))
    assert not ledger.post(escrow.pay(payment))
    for other in (replace(payment, usd_micros=31), replace(payment, operator="eve"), replace(payment, reason="redo")):
        with pytest.raises(ConflictError, match="already"):
            ledger.post(escrow.pay(other))
    assert ledger.balances[operator_available("bob")] == 30


def test_a_refund_gives_back_what_is_left() -> None:
    """What was held and not paid returns to the buyer."""
    ledger = Ledger()
    ledger.post(escrow.deposit("d", "ann", 100))
    ledger.post(escrow.hold("j-1", "ann", 90))
    ledger.post(escrow.pay(Payment("j-1", "t-1", "ann", "bob", 30, "work")))
    ledger.post(escrow.refund("j-1", "ann", 60))
    assert ledger.balances[buyer_escrow("ann")] == 0
    assert ledger.balances[buyer_available("ann")] == 70


def test_too_small_a_deposit_holds_nothing() -> None:
    """A hold beyond the deposit is refused with both figures."""
    ledger = Ledger()
    ledger.post(escrow.deposit("d", "ann", 100))
    with pytest.raises(UsageError, match="not enough money") as refused:
        ledger.post(escrow.hold("j-1", "ann", 101))
    assert "$0.000100" in refused.value.why
    assert "$0.000101" in refused.value.why


@given(CONVICTIONS)
def test_a_forfeit_never_takes_more_than_the_bond_and_never_pays_a_judge(conviction: Conviction) -> None:
    """Damage comes first, insurance gets the rest, and no operator or market account gains."""
    entry = escrow.forfeit(conviction)
    if entry is None:
        assert conviction.bond_usd_micros == 0 or conviction.damage_usd_micros + conviction.penalty_usd_micros == 0
        return
    moved = {posting.account: posting.usd_micros for posting in entry.postings}
    assert -moved.pop(operator_bond(conviction.operator)) <= conviction.bond_usd_micros
    assert set(moved) <= {buyer_escrow(conviction.buyer), INSURANCE}
    if moved.get(INSURANCE):
        assert moved.get(buyer_escrow(conviction.buyer), 0) == conviction.damage_usd_micros


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
        lambda: escrow.refund("j", "ann", usd_micros),
        lambda: escrow.pay(Payment("j", "t", "ann", "bob", usd_micros, "work")),
    ):
        with pytest.raises(UsageError):
            build()


def _posts(ledger: Ledger, entry: Entry) -> bool:
    try:
        return ledger.post(entry)
    except (ConflictError, UsageError):
        return False
