"""Money that comes in, is held and is settled, as ledger entries. Pure: each returns what to post.

    deposit   world           -> buyer.available   entered by the market's operator
    bond      world           -> operator.bond     the same, when a node joins
    hold      buyer.available -> buyer.escrow      on submit: all work, worst-case audits
    settle    buyer.escrow    -> everybody         at the end: what the lines of the receipt (verify/settlement.py) say,
              insurance          the extra audits among them
    ruling    operator.bond   -> everybody         behind an appeal: what the lines of the ruling (rules/appeal.py) say
    canary    insurance       -> operators         for a unit of the market's own order (rules/canary.py)

What a job pays, refunds and forfeits is one entry, all of it or none. Keys name the thing moved for, not the attempt:
`hold:<job>` and `settle:<job>` exist once, whatever restarts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stannary.errors import UsageError
from stannary.formats.predicates import SettlementLine
from stannary.settle import ledger
from stannary.settle.ledger import Account, Entry, Posting, Purpose

BOND = "bond:"  # before the operator, in lines that take a convicted node's bond; their `task` is the node


@dataclass(frozen=True, slots=True)
class Escrow:
    """What is held of a buyer for a job."""

    job: str
    buyer: str
    usd_micros: int


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


def settle_key(job: str) -> str:
    """Name the entry that settles a job."""
    return f"settle:{job}"


def ruling_key(job: str, node: str) -> str:
    """Name the entry that moves what a ruling on a node's bond says."""
    return f"ruling:{job}:{node}"


def probe_key(job: str) -> str:
    """Name the entry that pays for a canary."""
    return f"canary:{job}"


def forfeiting(lines: Iterable[SettlementLine]) -> list[str]:
    """Return the nodes whose bonds a settlement takes."""
    return [line.task for line in lines if line.account.startswith(BOND)]


def settle(
    held: Escrow,
    lines: Sequence[SettlementLine] = (),
    forfeited: Mapping[str, int] | None = None,
    balances: Mapping[Account, int] | None = None,
) -> Entry | None:
    """Divide what is held by the lines of a receipt; without lines, all of it goes back. None if nothing moves.

    Args:
        held: the job's escrow.
        lines: of the receipt; they sum to the escrow, or to nothing of a job that was never placed.
        forfeited: what settlements of other jobs have taken of each convicted node's bond: it forfeits one, once,
            and the bonds of its operator's other nodes are not touched.
        balances: of insurance and fees now.
    """
    moved: dict[Account, int] = defaultdict(int)
    missing = 0
    for line in lines:
        amount = line.usd_micros
        if line.account.startswith(BOND):
            left = max(-amount - (forfeited or {}).get(line.task, 0), 0)
            missing += -amount - left
            amount = -left
        moved[_account_of(line, held.buyer)] += amount
    moved[ledger.buyer_available(held.buyer)] += held.usd_micros - sum(line.usd_micros for line in lines)
    moved[ledger.buyer_escrow(held.buyer)] -= held.usd_micros
    short = max(-(balances or {}).get(ledger.INSURANCE, 0) - moved[ledger.INSURANCE], 0)
    moved[ledger.INSURANCE] += short  # what others had taken of it since the job was told that it may
    covered = cover(moved, missing + short, balances or {})
    postings = tuple(Posting(account, amount) for account, amount in sorted(covered.items()))
    return Entry(settle_key(held.job), "settle", postings, held.job) if postings else None


def rule(job: str, node: str, buyer: str, lines: Sequence[SettlementLine]) -> Entry | None:
    """Move what a ruling on a node's bond says, once; None if nothing moves."""
    postings = _moved(lines, buyer)
    return Entry(ruling_key(job, node), "ruling", postings, job) if postings else None


def probe(job: str, lines: Sequence[SettlementLine]) -> Entry | None:
    """Pay for a canary, once; None if nothing moves."""
    postings = _moved(lines, "")
    return Entry(probe_key(job), "canary", postings, job) if postings else None


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


def _moved(lines: Iterable[SettlementLine], buyer: str) -> tuple[Posting, ...]:
    moved: dict[Account, int] = defaultdict(int)
    for line in lines:
        moved[_account_of(line, buyer)] += line.usd_micros
    return tuple(Posting(account, amount) for account, amount in sorted(moved.items()) if amount)


def _account_of(line: SettlementLine, buyer: str) -> Account:
    kind, _, name = line.account.partition(":")
    accounts = {
        "operator": ledger.operator_available(name),
        "bond": ledger.operator_bond(name),
        "buyer": ledger.buyer_available(buyer),
        "insurance": ledger.INSURANCE,
    }
    return accounts[kind]


def _positive(what: str, usd_micros: int) -> None:
    if usd_micros <= 0:
        raise UsageError(f"a {what} must be more than nothing", why=f"{usd_micros} micro-dollars")
