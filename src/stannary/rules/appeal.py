"""Appeals: who hears about a disputed bond, what they find, and how the money of a ruling goes (docs/receipt.md R18).

Rules:
1. Behind the job the market logs who may hear: nodes of the unit's class whose operators had no part in the job,
   whatever the buyer's lists say. The draw's randomness is the root of a cosigned checkpoint that covers this list, so
   nobody knew whom it takes when the accusation was logged, nor when the list was made.
2. The first three in rank, each of another operator, compute the unit again, blinded as auditors are. Two who find the
   same decide. Where there are fewer than three, or no two agree, the market computes the unit itself, with the code
   of this package, which anybody can do again.
3. Who loses pays for the appeal: the accused, or those who accused him. So much of each loser's bond is taken as the
   job's cap allows (rules/blame.py). First the hearers are paid, none more than the unit was agreed at, and a cleared
   node gets what was withheld from it; then the buyer gets back what was done again because of it; the rest is
   insurance's, never the judges' and never the market's. Insurance adds what is short for hearers and cleared nodes.
4. Where nobody could compute the unit again, nobody loses anything.
5. Who told two stories (rules/stories.py) loses by them, whatever was computed: nobody hears it, nobody is owed
   anything, and what is taken is insurance's.

Market and verifier share these functions.
"""

from __future__ import annotations

from collections.abc import Sequence

from stannary.formats import digest
from stannary.formats.digest import Digest
from stannary.formats.ids import NodeId, TaskId
from stannary.formats.lean import dataclass
from stannary.formats.predicates import Appeal, Candidate, Drawable, RulingOutcome, SettlementLine
from stannary.rules import draw
from stannary.rules.verdict import Opinion, bitwise

HEARERS = 3
MAJORITY = 2


@dataclass(frozen=True, slots=True)
class Sentence:
    """What an appeal finds, who loses by it, and whose answers it rests on."""

    outcome: RulingOutcome
    losers: tuple[NodeId, ...]
    agreeing: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True)
class TakenBond:
    """What is taken of a loser's bond."""

    node: NodeId
    operator: str
    usd_micros: int


@dataclass(frozen=True, slots=True)
class Due:
    """What somebody is owed by a ruling."""

    operator: str
    task: str
    reason: str  # appeal | cleared
    usd_micros: int


def randomness(appeal: Digest, checkpoint_root: Digest) -> bytes:
    """Return what an appeal is drawn by: its leaf, and the root of a checkpoint that covers it (R18.3)."""
    return digest.hash_parts("stannary appeal v1", digest.raw(checkpoint_root), digest.raw(appeal))


def hearers(made: Appeal, unit: Drawable, chance: bytes) -> tuple[Candidate, ...]:
    """Return who is to hear an appeal, in rank order, one node an operator (R18.3)."""
    return draw.rank(unit, made.candidates, chance)


def name(chance: bytes, task: TaskId, node: str) -> str:
    """Return the name of a hearer's audit (R18.3)."""
    return draw.audit_name(chance, task, node)


def sentence(
    accused: Opinion, accusers: Sequence[NodeId], heard: Sequence[Opinion], *, is_root_only: bool
) -> Sentence | None:
    """Return what the answers of an appeal come to, None while no two are the same (R18.4).

    Args:
        accused: what the node whose bond is disputed says of the unit.
        accusers: who contradicted it.
        heard: opened answers, in log order.
        is_root_only: the accused never answered: only its result can be compared.
    """
    camps = [[other for other in heard if bitwise(item, other)] for item in heard]
    camp = max(camps, key=len, default=[])
    if len(camp) < MAJORITY:
        return None
    agrees = camp[0].root == accused.root if is_root_only else bitwise(camp[0], accused)
    return judged(NodeId(accused.node), accusers, agrees=agrees, agreeing=[NodeId(item.node) for item in camp])


def judged(accused: NodeId, accusers: Sequence[NodeId], *, agrees: bool, agreeing: Sequence[NodeId] = ()) -> Sentence:
    """Return who loses, once it is known whether the accused was right."""
    if agrees:
        return Sentence(RulingOutcome.RELEASED, tuple(sorted(accusers)), tuple(agreeing))
    return Sentence(RulingOutcome.FORFEITED, (accused,), tuple(agreeing))


def short_of(taken: Sequence[TakenBond], due: Sequence[Due]) -> int:
    """Return what bonds lack for what is owed: the most that insurance may add (R18.6)."""
    return max(sum(item.usd_micros for item in due) - sum(item.usd_micros for item in taken), 0)


def lines(
    taken: Sequence[TakenBond], due: Sequence[Due], redo_usd_micros: int, from_insurance: int
) -> tuple[SettlementLine, ...]:
    """Return how the money of a ruling goes (R18.6); the lines sum to nothing.

    Args:
        taken: of the losers' bonds, in node order.
        due: hearers' prices in log order, then what a cleared node is owed.
        redo_usd_micros: what the buyer paid for work done again because of the accused.
        from_insurance: what insurance adds.
    """
    made = [SettlementLine(f"bond:{item.operator}", item.node, "forfeit", -item.usd_micros) for item in taken]
    pot = sum(item.usd_micros for item in taken) + from_insurance
    if from_insurance:
        made.append(SettlementLine("insurance", "", "appeal", -from_insurance))
    for item in due:
        paid = min(pot, item.usd_micros)
        pot -= paid
        made.append(SettlementLine(f"operator:{item.operator}", item.task, item.reason, paid))
    redo = min(pot, redo_usd_micros)
    if redo:
        made.append(SettlementLine("buyer", "", "redo", redo))
    if pot - redo:
        made.append(SettlementLine("insurance", "", "forfeit", pot - redo))
    return tuple(made)
