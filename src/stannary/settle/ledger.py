"""Double entry in integer micro-dollars: accounts, postings, balanced entries.

    world                       everything outside: deposits come from it, withdrawals go to it
    buyer:<id>.available        deposited, free to use
    buyer:<id>.escrow           held for jobs that run
    operator:<name>.available   earned
    operator:<name>.bond        what a conviction can take
    insurance                   forfeited beyond redo and audit; never the market's, never a judge's
    market.fees                 what the market keeps (0 in a private market)

Rules:
- The postings of an entry add up to zero; no account but `world` may fall below zero.
- Every entry has a key that says what it is for (`hold:<job>`, `settle:<job>`). A key is posted
  once: posting the same entry again changes nothing, another entry under it is a ConflictError.
  That is why nothing is paid twice, whatever restarts in between.

The accounts themselves are kept by store/ledger.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NewType

from stannary.errors import ConflictError, UsageError
from stannary.formats import bounds

Account = NewType("Account", str)

WORLD = Account("world")
INSURANCE = Account("insurance")
FEES = Account("market.fees")
ESCROW_SUFFIX = ".escrow"

MAX_USD_MICROS = bounds.MONEY.high


@dataclass(frozen=True, slots=True)
class Posting:
    """One account's part of an entry; positive is what it receives."""

    account: Account
    usd_micros: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One movement of money: all of it or none."""

    key: str
    reason: str
    postings: tuple[Posting, ...]
    job: str | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        check(self)


def buyer_available(buyer: str) -> Account:
    """Name the account of a buyer's free deposit."""
    return Account(f"buyer:{buyer}.available")


def buyer_escrow(buyer: str) -> Account:
    """Name the account of what is held for a buyer's jobs."""
    return Account(f"buyer:{buyer}{ESCROW_SUFFIX}")


def operator_available(operator: str) -> Account:
    """Name the account of what an operator has earned."""
    return Account(f"operator:{operator}.available")


def operator_bond(operator: str) -> Account:
    """Name the account of what a conviction can take from an operator."""
    return Account(f"operator:{operator}.bond")


def check(entry: Entry) -> None:
    """Refuse an entry that does not balance.

    Raises:
        UsageError: unbalanced, empty, zero or repeated accounts, or beyond MAX_USD_MICROS.
    """
    amounts = [posting.usd_micros for posting in entry.postings]
    accounts = {posting.account for posting in entry.postings}
    if not entry.key or len(entry.postings) < 2 or len(accounts) != len(amounts):
        raise UsageError("not a ledger entry", why=f"{entry.key!r} needs a key and two accounts or more, each once")
    if sum(amounts) != 0:
        raise UsageError("a ledger entry does not balance", why=f"{entry.key} is off by {sum(amounts)} micro-dollars")
    if any(amount == 0 or abs(amount) > MAX_USD_MICROS for amount in amounts):
        raise UsageError("a ledger entry moves an impossible amount", why=f"{entry.key}: {amounts}")


@dataclass(frozen=True, slots=True)
class Purpose:
    """What an entry is for: a job, and within it a task or audit."""

    job: str | None = None
    task: str | None = None


def transfer(
    key: str, reason: str, source_target: tuple[Account, Account], usd_micros: int, subject: Purpose | None = None
) -> Entry:
    """Move `usd_micros` from the first account to the second."""
    source, target = source_target
    about = subject or Purpose()
    return Entry(key, reason, (Posting(source, -usd_micros), Posting(target, usd_micros)), about.job, about.task)


def overdrawn(account: str, balance: int, wanted: int) -> UsageError:
    """Say that an account cannot give what is asked of it."""
    return UsageError(
        "not enough money",
        why=f"{account} holds ${balance / 1e6:.6f}, ${wanted / 1e6:.6f} is needed",
        hint="ask the market's operator for a deposit, or make the job smaller",
    )


def same_or_conflict(posted: Entry, entry: Entry) -> None:
    """Refuse `entry` if it differs from what was posted under its key."""
    if posted.reason != entry.reason or set(posted.postings) != set(entry.postings):
        raise ConflictError("this payment was made already, differently", why=f"ledger key {entry.key}")


def after_posting(balances: Mapping[Account, int], postings: Iterable[Posting]) -> dict[Account, int]:
    """Return the new balances of the accounts touched.

    Raises:
        UsageError: an account other than `world` would fall below zero.
    """
    after: dict[Account, int] = {}
    for posting in postings:
        balance = balances.get(posting.account, 0)
        after[posting.account] = balance + posting.usd_micros
        if after[posting.account] < 0 and posting.account != WORLD:
            raise overdrawn(posting.account, balance, -posting.usd_micros)
    return after
