"""Money that comes in and is held, as ledger entries, and what covers a settlement. Pure: each returns what to post.

    deposit   world           -> buyer.available   entered by the market's operator
    bond      world           -> operator.bond     the same, when a node joins
    hold      buyer.available -> buyer.escrow      on submit: all work, worst-case audits

What a job pays, refunds and forfeits at its end is one entry, made from the settlement lines of its receipt
(verify/settlement.py). Keys name the thing moved for, not the attempt: `hold:<job>` exists once, whatever restarts.
"""

from __future__ import annotations

from collections.abc import Mapping

from stannary.errors import UsageError
from stannary.settle import ledger
from stannary.settle.ledger import Account, Entry, Purpose


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
