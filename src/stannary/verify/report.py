"""What a verification says: findings and claims, never a bare yes or no (docs/receipt.md R17.4).

A failed check is data. All findings are collected, so that one look tells everything that is wrong; the exit code
follows from the worst of them:

    refuted    3    a signature, proof or recomputation says no
    policy     4    perhaps true, not enough for what was asked for (unknown log, unverified work)
    notice     0    worth knowing: a silent auditor, a witness that is not independent
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING

from stannary.formats.ids import NodeId
from stannary.formats.jobspec import Verification
from stannary.formats.predicates import Receipt, Role, TaskVerdict, Verdict
from stannary.formats.quantity import dollars
from stannary.formats.statement import Subject

if TYPE_CHECKING:
    from stannary.verify.case import Case

SUCCEEDED = "succeeded"
MAX_NAMED = 4  # operators named in a sentence; --json names all


class Severity(StrEnum):
    """How much a finding weighs."""

    REFUTED = "refuted"
    POLICY = "policy"
    NOTICE = "notice"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a check found."""

    id: str  # stable, dotted: `proof.inclusion`, `verdict.mismatch`
    severity: Severity
    subject: str  # the statement, task or member it is about
    observed: str
    expected: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Claims:
    """What the receipt says and this verification has checked (meaningless beside a `refuted` finding)."""

    market: str
    log_size: int
    witnessed_at: int  # POSIX seconds of the latest cosignature that every pinned witness has reached
    job_name: str
    buyer: str  # base64 of the buyer's public key
    receipt: Receipt
    results: tuple[Subject, ...]  # name and digest of every file of the result; none unless the job succeeded
    convictions: tuple[TaskVerdict, ...]
    operators: dict[NodeId, str]  # node -> operator
    case: Case  # the statements themselves: what a replay computes again (recomputation.py)

    @property
    def strikes(self) -> tuple[TaskVerdict, ...]:
        """Return the verdicts that left a node standing alone in the buyer's own code."""
        return tuple(item.predicate for item in self.case.verdicts if item.predicate.odd)

    @property
    def recomputed_by(self) -> tuple[str, ...]:
        """Return the operators whose nodes computed work of this job again and opened their answers."""
        nodes = {item.predicate.node for item in self.case.answers.values() if item.predicate.role is Role.AUDITOR}
        return tuple(sorted({self.operators[node] for node in nodes}))

    @property
    def is_unasked(self) -> bool:
        """Tell whether the work is unverified because its buyer asked for no verification."""
        return self.receipt.verification == Verification.NONE and self.receipt.status == SUCCEEDED

    def deterrence(self) -> str:
        """Say of sampled work what a cheat stood to lose and gain; empty of any other."""
        figures = self.receipt.soundness
        if self.receipt.verdict is not Verdict.SAMPLED or figures.saved_usd_micros is None:
            return ""
        lost, saved = dollars(figures.lost_usd_micros or 0), dollars(figures.saved_usd_micros)
        return (
            f"Whoever faked a unit stood to gain at most {saved}, and to lose {lost} where it was audited, as "
            f"{Decimal(figures.audit_ppm) / 10_000:f} % of units are: cheating was a loss from "
            f"{Decimal(figures.required_ppm) / 10_000:f} % on."
        )

    def left_open(self) -> str:
        """Say with which probability fakes pass unseen, alone and with an accomplice; empty where none is claimed."""
        figures = self.receipt.soundness
        if self.receipt.status != SUCCEEDED or self.receipt.verification == Verification.NONE:
            return ""
        alone = f"One faked unit would pass unseen with probability {figures.escape}"
        if figures.escape_tenth is None:
            return f"{alone}."
        return (
            f"{alone}, a tenth of them with {figures.escape_tenth}; with one accomplice among the {figures.operators} "
            f"operators of the class with {figures.escape_accomplice} and {figures.escape_tenth_accomplice}."
        )

    def recomputation(self) -> str:
        """Say in one sentence who computed how much of the result again."""
        figures, others = self.receipt.soundness, self.recomputed_by
        if self.receipt.verification == Verification.NONE:
            return "Nobody computed any of it again: the buyer asked for no verification."
        if not figures.units:
            return "There is no work in the result that could be computed again."
        units = f"{figures.units} unit{'s' if figures.units != 1 else ''} of work in the result"
        if not figures.audited or not others:
            return f"None of the {units} was computed again."
        share = f"{figures.audited} of the {units}"
        if figures.audited == figures.units:
            share = f"All {units}" if figures.units > 1 else f"The one {units[2:]}"
        was = "was" if figures.audited == 1 else "were"
        more = f" and {len(others) - MAX_NAMED} more" if len(others) > MAX_NAMED else ""
        whom = f"{len(others)} operator{'s' if len(others) != 1 else ''} ({', '.join(others[:MAX_NAMED])}{more})"
        agreed = ", which agreed" if self.receipt.verdict in (Verdict.VERIFIED, Verdict.SAMPLED) else ""
        return f"{share} {was} computed again by nodes of {whom}{agreed}."


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of verifying one receipt."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    claims: Claims | None

    @property
    def exit_code(self) -> int:
        """Return 0, 3 or 4 (errors.py)."""
        severities = {finding.severity for finding in self.findings}
        if Severity.REFUTED in severities:
            return 3
        return 4 if Severity.POLICY in severities else 0


@dataclass(slots=True)
class Findings:
    """Collects findings while a verification goes on."""

    items: list[Finding] = field(default_factory=list)

    def refute(self, finding_id: str, subject: str, observed: object, expected: object = "", remedy: str = "") -> None:
        """Add a finding that refutes the receipt."""
        self.items.append(Finding(finding_id, Severity.REFUTED, subject, _brief(observed), _brief(expected), remedy))

    def below_policy(self, finding_id: str, subject: str, observed: object, expected: object, remedy: str = "") -> None:
        """Add a finding that leaves the receipt below the policy asked for."""
        self.items.append(Finding(finding_id, Severity.POLICY, subject, _brief(observed), _brief(expected), remedy))

    def notice(self, finding_id: str, subject: str, observed: object) -> None:
        """Add a finding that changes nothing."""
        self.items.append(Finding(finding_id, Severity.NOTICE, subject, _brief(observed)))

    def expect(self, finding_id: str, subject: str, observed: object, expected: object) -> bool:
        """Refute unless `observed` equals `expected`; return whether it does."""
        if observed == expected:
            return True
        self.refute(finding_id, subject, observed, expected)
        return False

    @property
    def refuted(self) -> bool:
        """Return whether anything refutes the receipt so far."""
        return any(item.severity is Severity.REFUTED for item in self.items)


def _brief(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= 300 else text[:297] + "..."
