"""What a verification says: findings and claims, never a bare yes or no (docs/receipt.md R17.4).

A failed check is data. All findings are collected, so that one look tells everything that is wrong; the exit code
follows from the worst of them:

    refuted    3    a signature, proof or recomputation says no
    policy     4    perhaps true, not enough for what was asked for (unknown log, unverified work)
    notice     0    worth knowing: a silent auditor, a witness that is not independent

A receipt that holds, and says that the job's program is not reproducible, is 100.
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
from stannary.rules import blame
from stannary.rules.stake import HELD_UNITS

if TYPE_CHECKING:
    from stannary.verify.case import Case

SUCCEEDED = "succeeded"
NOT_REPRODUCIBLE_EXIT = 100  # as of any job that ended without its result
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
    left_out: tuple[TaskVerdict, ...]  # of units that were asked about, did not hold, and are not in the result
    operators: dict[NodeId, str]  # node -> operator
    case: Case  # the statements themselves: what a replay computes again (recomputation.py)

    @property
    def strikes(self) -> tuple[TaskVerdict, ...]:
        """Return the verdicts that left a node standing alone in the buyer's own code."""
        return tuple(item.predicate for item in self.case.verdicts if item.predicate.odd)

    @property
    def endings(self) -> dict[int, str]:
        """Return how the program of each lane ended, where that is part of the result (formats/ended.py)."""
        case = self.case
        last = (tasks[-1] for tasks in case.attempts.values() if tasks[-1] in case.contributions)
        said = {case.assignments[task].predicate.lane: case.contributions[task].predicate.ended for task in last}
        return {lane: ended for lane, ended in sorted(said.items()) if ended is not None}

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
        rate, needed = (f"{Decimal(ppm) / 10_000:f} %" for ppm in (figures.audit_ppm, figures.required_ppm))
        said = f"Whoever faked a unit stood to gain at most {saved}, and to lose {lost} where it was audited, as "
        if blame.convicts(self.case.spec):
            return f"{said}{rate} of units are: cheating was a loss from {needed} on."
        return (
            f"{said}at least {rate} of units are: cheating was a loss from {needed} on behind {HELD_UNITS} paid units, "
            "and each of a node's first units was audited so much more often that it was a loss there too."
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
        void = self.left_out
        num_units = figures.units - len(void)
        num_audited = figures.audited - sum(item.verdict is Verdict.REFUTED for item in void)
        if self.receipt.verification == Verification.NONE:
            return "Nobody computed any of it again: the buyer asked for no verification."
        if num_units <= 0:
            return "There is no work in the result that could be computed again."
        units = f"{num_units} unit{'s' if num_units != 1 else ''} of work in the result"
        if num_audited <= 0 or not others:
            return f"None of the {units} was computed again.{self._unheard()}"
        share = f"{num_audited} of the {units}"
        if num_audited == num_units:
            share = f"All {units}" if num_units > 1 else f"The one {units[2:]}"
        was = "was" if num_audited == 1 else "were"
        more = f" and {len(others) - MAX_NAMED} more" if len(others) > MAX_NAMED else ""
        whom = f"{len(others)} operator{'s' if len(others) != 1 else ''} ({', '.join(others[:MAX_NAMED])}{more})"
        agreed = ", which agreed" if self.receipt.verdict in (Verdict.VERIFIED, Verdict.SAMPLED) else ""
        left_out = f" {len(void)} more did not hold and {'is' if len(void) == 1 else 'are'} not in it." if void else ""
        return f"{share} {was} computed again by nodes of {whom}{agreed}.{self._unheard()}{left_out}"

    def _unheard(self) -> str:
        num = self.receipt.soundness.unheard or 0
        if not num:
            return ""
        is_one = num == 1
        units, their = ("1 more was", "its auditor") if is_one else (f"{num} more were", "their auditors")
        return f" {units} drawn and not audited: {their} had no room in all the time an audit is waited for."


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of verifying one receipt."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    claims: Claims | None

    @property
    def exit_code(self) -> int:
        """Return 0, 3, 4 or 100 (errors.py)."""
        severities = {finding.severity for finding in self.findings}
        if Severity.REFUTED in severities:
            return 3
        if self.verdict is Verdict.NOT_REPRODUCIBLE:
            return NOT_REPRODUCIBLE_EXIT
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
