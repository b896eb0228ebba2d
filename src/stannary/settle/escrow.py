"""The movements of a job's money, as ledger entries. Pure: each returns the entry to post.

    hold      buyer.available -> buyer.escrow      on submit: all work, worst-case audits
    pay       buyer.escrow    -> operator.available  for one task or audit, on its verdict
    refund    buyer.escrow    -> buyer.available   what is left at the end
    forfeit   operator.bond   -> redo and audit cost into escrow, the rest to insurance

Rules:
- Keys name the thing paid for, not the attempt to pay: `pay:<task or audit>` exists once, so that
  work is paid once whatever restarts, retries or disagrees. Superseded verified work is the same
  work: as redo it is paid under the same key.
- A convicted node is paid nothing; what is forfeited goes to those who lost by it and to insurance,
  never to the auditor that accused and never to the market that judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stannary.errors import UsageError
from stannary.settle import ledger
from stannary.settle.ledger import Account, Entry, Posting, Purpose


@dataclass(frozen=True, slots=True)
class Payment:
    """One thing to be paid: a task, or an audit of one."""

    job: str
    subject: str  # task id or audit id: what is paid once
    buyer: str
    operator: str
    usd_micros: int
    reason: str  # work | merge | audit | redo


def deposit(key: str, buyer: str, usd_micros: int) -> Entry:
    """Bring a buyer's money in from outside; `key` is the operator's reference for it."""
    _positive("deposit", usd_micros)
    way = (ledger.WORLD, ledger.buyer_available(buyer))
    return ledger.transfer(f"deposit:{key}", "deposit", way, usd_micros)


def post_bond(key: str, operator: str, usd_micros: int) -> Entry:
    """Bring an operator's bond in from outside."""
    _positive("bond", usd_micros)
    return ledger.transfer(f"bond:{key}", "bond", (ledger.WORLD, ledger.operator_bond(operator)), usd_micros)


def hold(job: str, buyer: str, usd_micros: int) -> Entry:
    """Hold the worst case of a job, once."""
    _positive("escrow", usd_micros)
    way = (ledger.buyer_available(buyer), ledger.buyer_escrow(buyer))
    return ledger.transfer(hold_key(job), "hold", way, usd_micros, Purpose(job))


def hold_key(job: str) -> str:
    """Name the entry that holds a job's escrow."""
    return f"hold:{job}"


def pay(payment: Payment) -> Entry:
    """Pay one task or audit out of escrow to its operator."""
    _positive("payment", payment.usd_micros)
    way = (ledger.buyer_escrow(payment.buyer), ledger.operator_available(payment.operator))
    about = Purpose(payment.job, payment.subject)
    return ledger.transfer(f"pay:{payment.subject}", payment.reason, way, payment.usd_micros, about)


def refund(job: str, buyer: str, usd_micros: int) -> Entry:
    """Give the rest of a job's escrow back, once."""
    _positive("refund", usd_micros)
    way = (ledger.buyer_escrow(buyer), ledger.buyer_available(buyer))
    return ledger.transfer(f"refund:{job}", "refund", way, usd_micros, Purpose(job))


@dataclass(frozen=True, slots=True)
class Conviction:
    """What a refuted task or audit costs its operator."""

    job: str
    subject: str  # the refuted task or audit: forfeited for once
    buyer: str
    operator: str
    bond_usd_micros: int  # what is left of the operator's bond
    damage_usd_micros: int  # redo and audit cost the buyer's escrow had to bear
    penalty_usd_micros: int  # what the terms take beyond the damage


def forfeit(conviction: Conviction) -> Entry | None:
    """Take damage and penalty from the bond, damage first; None where there is no bond left."""
    damage = min(conviction.damage_usd_micros, conviction.bond_usd_micros)
    penalty = min(conviction.penalty_usd_micros, conviction.bond_usd_micros - damage)
    if damage < 0 or penalty < 0:
        raise UsageError("a forfeit cannot be negative", why=f"damage {damage}, penalty {penalty}")
    if damage + penalty == 0:
        return None
    postings = [Posting(ledger.operator_bond(conviction.operator), -(damage + penalty))]
    if damage:
        postings.append(Posting(ledger.buyer_escrow(conviction.buyer), damage))
    if penalty:
        postings.append(Posting(ledger.INSURANCE, penalty))
    return Entry(f"forfeit:{conviction.subject}", "forfeit", tuple(postings), conviction.job, conviction.subject)


def cover(moved: Mapping[Account, int], missing: int, balances: Mapping[Account, int]) -> dict[Account, int]:
    """Return movements that bring in what a bond no longer holds, so that what a receipt states is paid.

    A node convicted in two jobs forfeits one bond; each receipt, which knows nothing of the other, states all of it.
    What the first settlement did not need went to insurance, which therefore pays first: its own part of this
    settlement, then what it holds. After it the market's fees, and last the market's own pocket (`world`): signed
    receipts are its debt, and nobody else's money is touched for them.

    Args:
        moved: what the settlement moves, the forfeits already cut to what the bonds hold.
        missing: what is lacking for it to balance.
        balances: of insurance and fees, before.
    """
    covered = dict(moved)
    for account in (ledger.INSURANCE, ledger.FEES):
        held = max(balances.get(account, 0) + covered.get(account, 0), 0)
        taken = min(missing, held)
        covered[account] = covered.get(account, 0) - taken
        missing -= taken
    covered[ledger.WORLD] = covered.get(ledger.WORLD, 0) - missing
    return {account: amount for account, amount in covered.items() if amount}


def _positive(what: str, usd_micros: int) -> None:
    if usd_micros <= 0:
        raise UsageError(f"a {what} must be more than nothing", why=f"{usd_micros} micro-dollars")
