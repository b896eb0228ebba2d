"""Money: prices, who is paid for what, and where every paid second went.

Rules (micro-dollars throughout; docs/receipt.md R14, R15):
1. A price is that of rules/price.py.
2. Work is paid when its verdict is `verified` (or, where the signed spec says so, on completion). Verified work that
   a conviction made useless is paid as `redo`. Honest auditors are always paid. Refuted and unverified work gets
   a `withheld` line of zero, so that nobody is left out in silence.
3. What a struck node is owed for its last units goes to `insurance` (rules/blame.py): the buyer pays for work that
   holds, and nobody who could gain by a strike is paid. From it comes, as far as it reaches, the redone work that this
   node's made useless. Under rules 2 a convicted node forfeits its bond: from it
   come, in this order, the redone work and the audits its cheating caused; what is left goes to `insurance`, never to
   the judge and never to the market. From rules 3 on a settlement moves no bond (rules/appeal.py).
4. An audit that was drawn only because its prover's node is watched is paid by insurance (R14.13), as far as what that
   was reckoned to come to reaches. All else comes from escrow, in the order work, redo, audit; what is left goes back
   to the buyer as `refund`. If escrow runs dry, later lines are cut, never earlier ones; no account goes below zero.
5. Conservation: the lines (bonds negative) sum to the escrow. `paid` is what the buyer paid, escrow minus refund.

The market settles with these functions, the verifier again (receipt.py): they must agree to the micro-dollar.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stannary.errors import FormatError
from stannary.formats import bounds
from stannary.formats.ids import AuditId, NodeId, TaskId
from stannary.formats.predicates import Reading, SettlementLine, TimeSplit, Verdict

WHOLE = 10_000  # hundredths of a per cent
INSURANCE = "insurance"
BUYER = "buyer"


@dataclass(frozen=True, slots=True)
class PayableWork:
    """One contribution to settle, in log order."""

    task: TaskId
    node: NodeId
    operator: str
    price_usd_micros: int
    verdict: Verdict
    merge: bool = False
    stopped: bool = False  # in hand when its buyer stopped the job
    on_completion: bool = False  # paid though unverified: the spec says `none`, or the buyer never revealed
    redone: bool = False  # a later attempt replaced it: paid as `redo`
    caused_by: NodeId | None = None  # the convicted or struck node whose work made this useless
    is_void: bool = False  # its node was struck: its pay goes to insurance

    @property
    def is_payable(self) -> bool:
        """Whether it is to be paid at all."""
        return is_payable(self.verdict, on_completion=self.on_completion)


@dataclass(frozen=True, slots=True)
class AuditWork:
    """One answered audit to settle, in log order."""

    audit: AuditId
    node: NodeId
    operator: str
    price_usd_micros: int
    refuted: bool = False  # this auditor was convicted or struck for it: unpaid
    caused_by: NodeId | None = None  # the convicted node this audit exposed: it pays
    is_void: bool = False  # its node was struck: its pay goes to insurance
    is_extra: bool = False  # drawn only because its prover's node is watched: insurance pays


@dataclass(frozen=True, slots=True)
class Bond:
    """What a convicted node forfeits."""

    node: NodeId
    operator: str
    usd_micros: int


@dataclass(frozen=True, slots=True)
class Settled:
    """The lines of a job and their totals."""

    lines: tuple[SettlementLine, ...]
    paid_usd_micros: int
    refunded_usd_micros: int


def is_payable(verdict: Verdict, *, on_completion: bool) -> bool:
    """Return whether a contribution is to be paid at all (R14.3)."""
    return verdict in (Verdict.VERIFIED, Verdict.ATTESTED) or (verdict is Verdict.UNVERIFIED and on_completion)


def settle(
    escrow_usd_micros: int,
    work: Sequence[PayableWork],
    audits: Sequence[AuditWork],
    forfeited: Iterable[Bond] = (),
    most_extra_usd_micros: int = 0,
) -> Settled:
    """Divide escrow and forfeited bonds by the rules above (R14.5).

    Args:
        escrow_usd_micros: what the buyer paid in.
        work: contributions in log order.
        audits: answered audits in log order.
        forfeited: bonds of the convicted, one per node.
        most_extra_usd_micros: what insurance gives at most for audits behind a strike in another job.
    """
    books = _Books(escrow_usd_micros, {bond.node: bond for bond in forfeited}, most_extra_usd_micros)
    for item in work:
        if not item.is_payable:
            books.note(item.operator, item.task, "withheld")
        elif not item.redone:
            books.pay(item, item.task, "stopped" if item.stopped else "merge" if item.merge else "work")
    for item in work:
        if item.redone and item.is_payable:
            books.pay(item, item.task, "redo")
    for audit in audits:
        if audit.refuted:
            books.note(audit.operator, audit.audit, "withheld")
        else:
            books.pay(audit, audit.audit, "audit")
    return books.close()


def time_split(useful_ms: Mapping[NodeId, int], readings: Iterable[Reading]) -> TimeSplit:
    """Return where every paid second went, six disjoint parts that sum to exactly 10,000 (R15.5).

    Args:
        useful_ms: for each node, the compute of its verified contributions that are in the result, merges included.
        readings: every logged reading; the last of each node counts (they are cumulative). Compute beyond the
            useful is churn: refuted, superseded, abandoned, lost with a lease. It is counted node by node: one that
            signs fewer readings than its work took must not hide what another's came to nothing. Milliseconds outside
            the table (formats/bounds.py), which an older market took, count as its nearest end.
    """
    last: dict[NodeId, Reading] = {}
    for reading in readings:
        held = last.get(reading.node)
        if held is None or reading.seq > held.seq:
            last[reading.node] = reading
    spent = [reading.spent for reading in last.values()]
    ms = bounds.MS.clamp
    churn_ms = sum(max(ms(held.spent.compute_ms) - useful_ms.get(node, 0), 0) for node, held in last.items())
    parts = {
        "useful": sum(useful_ms.values()),
        "start": sum(ms(item.start_ms) for item in spent),
        "link": sum(ms(item.link_ms) for item in spent),
        "idle": sum(ms(item.idle_ms) for item in spent),
        "audit": sum(ms(item.audit_ms) for item in spent),
        "churn": churn_ms,
    }
    return TimeSplit(**_largest_remainder(parts))


@dataclass(slots=True)
class _Source:
    bond: Bond
    left: int


class _Books:
    """Escrow and bonds while they are being divided."""

    def __init__(self, escrow_usd_micros: int, bonds: Mapping[NodeId, Bond], most_extra_usd_micros: int) -> None:
        if escrow_usd_micros < 0 or any(bond.usd_micros < 0 for bond in bonds.values()):
            raise FormatError("negative escrow or bond", why=f"escrow {escrow_usd_micros}")
        self._escrow = escrow_usd_micros
        self._left = escrow_usd_micros
        self._extra_left = most_extra_usd_micros
        self._sources = {node: _Source(bond, bond.usd_micros) for node, bond in bonds.items()}
        self._insured: dict[NodeId, int] = {}  # struck node -> what of its pay insurance got
        self._lines: list[SettlementLine] = []

    def pay(self, done: PayableWork | AuditWork, task: str, reason: str) -> None:
        due = done.price_usd_micros
        source = self._sources.get(done.caused_by) if done.caused_by is not None else None
        if source is not None:
            taken = min(source.left, due)
            source.left -= taken
            due -= taken
        insured = 0
        if done.caused_by is not None and not done.is_void:
            insured = min(self._insured.get(done.caused_by, 0), due)
        due -= insured
        extra = min(self._extra_left, due) if isinstance(done, AuditWork) and done.is_extra else 0
        self._extra_left -= extra
        due -= extra
        from_escrow = min(self._left, due)
        self._left -= from_escrow
        paid = done.price_usd_micros - due + from_escrow
        if done.is_void:
            self.note(done.operator, task, "void")
            self._lines.append(SettlementLine(INSURANCE, task, "void", paid))
            self._insured[done.node] = self._insured.get(done.node, 0) + paid
        else:
            self._lines.append(SettlementLine(f"operator:{done.operator}", task, reason, paid))
        if done.caused_by is not None and insured:
            self._lines.append(SettlementLine(INSURANCE, task, reason, -insured))
            self._insured[done.caused_by] -= insured
        if extra:
            self._lines.append(SettlementLine(INSURANCE, task, "extra", -extra))

    def note(self, operator: str, task: str, reason: str) -> None:
        self._lines.append(SettlementLine(f"operator:{operator}", task, reason, 0))

    def close(self) -> Settled:
        for source in self._sources.values():
            bond = source.bond
            self._lines.append(SettlementLine(f"bond:{bond.operator}", bond.node, "forfeit", -bond.usd_micros))
            if source.left:
                self._lines.append(SettlementLine(INSURANCE, bond.node, "forfeit", source.left))
        self._lines.append(SettlementLine(BUYER, "", "refund", self._left))
        lines = tuple(self._lines)
        if sum(line.usd_micros for line in lines) != self._escrow:
            raise AssertionError("settlement does not conserve money")  # a bug of ours, never input
        return Settled(lines, self._escrow - self._left, self._left)


def _largest_remainder(parts: Mapping[str, int]) -> dict[str, int]:  # R15.6
    total = sum(parts.values())
    if total == 0:
        return {name: WHOLE if name == "idle" else 0 for name in parts}
    shares = {name: amount * WHOLE // total for name, amount in parts.items()}
    missing = WHOLE - sum(shares.values())
    by_remainder = sorted(parts, key=lambda name: -(parts[name] * WHOLE % total))  # stable: ties in field order
    for name in by_remainder[:missing]:
        shares[name] += 1
    return shares
