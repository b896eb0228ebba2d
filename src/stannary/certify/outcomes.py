"""Outcomes of an appraisal: codes, findings, the state of every check, and what they add up to.

Rules:
1. A failed check is data. All findings are collected; the outcome is the first in the order of the
   trust path (`Step`), so the same evidence has one outcome whatever else is wrong with it.
2. Each check is checked, waived (with the reason) or not applicable. `could not check` is a waived
   check that caps the tier: neither a pass nor a conviction.
3. Missing evidence scores as failed evidence: it is a refusing finding, not an absent one.
4. Bytes that do not parse raise FormatError before any of this; `unreadable` turns that into an
   appraisal at the edge.

Remedies are in `remedies.py`; what an outcome means for a tier is in `tiers.py`.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

from stannary.certify.remedies import Code, remedy
from stannary.errors import UnsupportedFormat

if TYPE_CHECKING:
    from datetime import datetime

    from stannary.certify.pki.certificates import Path
    from stannary.errors import FormatError
    from stannary.formats.canonical import Json


class Step(IntEnum):
    """The order of the trust path: nothing later can be believed where an earlier step fails."""

    PARSE = 1
    CHAIN = 2
    SIGNATURE = 3
    COLLATERAL = 4
    BINDING = 5
    NONCE = 6
    GUEST_POLICY = 7
    TCB = 8
    REPLAY = 9
    REFERENCE = 10


class Severity(StrEnum):
    """What a finding does: refuse the evidence, cap the tier, or inform."""

    REFUSE = "refuse"
    CAP = "cap"
    NOTE = "note"


class State(StrEnum):
    """Whether a check ran; there is no fourth way."""

    CHECKED = "checked"
    WAIVED = "waived"
    NOT_APPLICABLE = "not-applicable"


class Qualifier(StrEnum):
    """What limits a valid outcome, weakest assurance first."""

    NO_IDENTITY = "no-identity"
    MILAN = "but-milan"
    OFFLINE_ONLY = "offline-only"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `cap` is the highest tier the machine can still reach with it."""

    id: str
    step: Step
    severity: Severity
    observed: str
    expected: str
    remedy: str
    code: Code | None = None
    cap: int | None = None

    def to_json(self) -> dict[str, Json]:
        """Return the finding as JSON members."""
        members: dict[str, Json] = {
            "id": self.id,
            "step": self.step.name.lower().replace("_", "-"),
            "severity": self.severity.value,
            "observed": self.observed,
            "expected": self.expected,
            "remedy": self.remedy,
        }
        if self.code is not None:
            members["code"] = self.code.value
        if self.cap is not None:
            members["cap"] = self.cap
        return members


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table that shows what was checked and what was not."""

    id: str
    state: State
    detail: str

    def to_json(self) -> dict[str, Json]:
        """Return the row as JSON members."""
        return {"id": self.id, "state": self.state.value, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Appraisal:
    """Claims, findings and checks of one piece of evidence.

    `identities` are hardware identities in the spelling `<kind>:<hex>`; one of them in two places
    of one machine, or on two machines, is a collision. `tcb_status` is set where a vendor grades.
    `confirmed` names the identities that a current answer of their vendor calls good, and since when.
    """

    kind: str
    claims: dict[str, Json]
    findings: tuple[Finding, ...]
    checks: tuple[Check, ...]
    identities: tuple[str, ...] = ()
    qualifiers: frozenset[Qualifier] = frozenset()
    tcb_status: str = ""
    confirmed: dict[str, datetime] = field(default_factory=dict)

    @property
    def refusal(self) -> Finding | None:
        """The first refusing finding in the order of the trust path."""
        refusing = [item for item in self.findings if item.severity is Severity.REFUSE]
        return min(refusing, key=lambda item: item.step, default=None)

    @property
    def valid(self) -> bool:
        """Whether nothing refuses the evidence."""
        return self.refusal is None

    @property
    def outcome(self) -> str:
        """`refuse:<code>`, `valid-<qualifier>`, `warning:<TCB status>` or `valid`."""
        refusal = self.refusal
        if refusal is not None:
            return f"refuse:{refusal.code}"
        for qualifier in Qualifier:
            if qualifier in self.qualifiers:
                return f"valid-{qualifier.value}"
        if self.tcb_status not in {"", "UpToDate"}:
            return f"warning:{self.tcb_status}"
        return "valid"

    def to_json(self) -> dict[str, Json]:
        """Return the appraisal as JSON members."""
        return {
            "kind": self.kind,
            "outcome": self.outcome,
            "claims": self.claims,
            "findings": [item.to_json() for item in self.findings],
            "checks": [item.to_json() for item in self.checks],
            "identities": list(self.identities),
        }


@dataclass(slots=True)
class Examination:
    """Collects findings and check states while one piece of evidence is appraised."""

    kind: str
    claims: dict[str, Json] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    identities: list[str] = field(default_factory=list)
    qualifiers: set[Qualifier] = field(default_factory=set)
    tcb_status: str = ""
    confirmed: dict[str, datetime] = field(default_factory=dict)

    @classmethod
    def reopen(cls, appraisal: Appraisal) -> Examination:
        """Return an examination that goes on where an appraisal ended."""
        return cls(
            kind=appraisal.kind,
            claims=dict(appraisal.claims),
            findings=list(appraisal.findings),
            checks=list(appraisal.checks),
            identities=list(appraisal.identities),
            qualifiers=set(appraisal.qualifiers),
            tcb_status=appraisal.tcb_status,
            confirmed=dict(appraisal.confirmed),
        )

    def require(
        self, check: str, holds: bool, step: Step, code: Code, *, observed: object = "", expected: object = ""
    ) -> bool:
        """Record a check that ran; a failure is a refusing finding with `code`."""
        self.checks.append(Check(check, State.CHECKED, "holds" if holds else f"fails: {observed}"))
        if not holds:
            self.refuse(check, step, code, observed=observed, expected=expected)
        return holds

    def require_path(self, check: str, path: Path) -> bool:
        """Record a certificate path; a false signature inside it is a signature's failure."""
        if path.is_forged:
            return self.require(
                check, False, Step.SIGNATURE, Code.SIGNATURE_INVALID, observed=path.problem, expected="a pinned root"
            )
        holds = path.root is not None
        return self.require(
            check, holds, Step.CHAIN, Code.CHAIN_INVALID, observed=path.problem, expected="a pinned root"
        )

    def require_nonce(self, carried: bytes, wanted: bytes | None) -> None:
        """Record whether the evidence carries the challenge; without one, freshness is not shown."""
        if wanted is None:
            self.waive("nonce", "no challenge given; freshness is not shown")
            return
        holds = hmac.compare_digest(carried, wanted)
        observed, expected = carried.hex() or "none", wanted.hex()
        self.require("nonce", holds, Step.NONCE, Code.NONCE_MISMATCH, observed=observed, expected=expected)

    def refuse(self, check: str, step: Step, code: Code, *, observed: object, expected: object = "") -> None:
        """Add a refusing finding."""
        self.findings.append(
            Finding(check, step, Severity.REFUSE, str(observed), str(expected), remedy(code), code=code)
        )

    def cap(self, check: str, step: Step, tier: int, *, observed: object, expected: object, remedy: str) -> None:
        """Add a finding that keeps the machine at `tier` at most."""
        self.findings.append(Finding(check, step, Severity.CAP, str(observed), str(expected), remedy, cap=tier))

    def note(self, check: str, step: Step, *, observed: object, expected: object = "", remedy: str = "") -> None:
        """Add a finding that informs only."""
        self.findings.append(Finding(check, step, Severity.NOTE, str(observed), str(expected), remedy))

    def waive(self, check: str, reason: str) -> None:
        """Record a check that did not run, and why."""
        self.checks.append(Check(check, State.WAIVED, reason))

    def not_applicable(self, check: str, reason: str) -> None:
        """Record a check that has no meaning for this evidence."""
        self.checks.append(Check(check, State.NOT_APPLICABLE, reason))

    def absorb(self, other: Appraisal, prefix: str) -> None:
        """Take over the findings and checks of a layer below, its ids prefixed."""
        for found in other.findings:
            self.findings.append(
                Finding(
                    f"{prefix}.{found.id}", found.step, found.severity, found.observed, found.expected,
                    found.remedy, code=found.code, cap=found.cap,
                )
            )  # fmt: skip
        self.checks.extend(Check(f"{prefix}.{row.id}", row.state, row.detail) for row in other.checks)
        self.identities.extend(other.identities)
        self.confirmed.update(other.confirmed)

    def close(self) -> Appraisal:
        """Freeze what was collected."""
        return Appraisal(
            kind=self.kind,
            claims=dict(self.claims),
            findings=tuple(self.findings),
            checks=tuple(self.checks),
            identities=tuple(self.identities),
            qualifiers=frozenset(self.qualifiers),
            tcb_status=self.tcb_status,
            confirmed=dict(self.confirmed),
        )


def unreadable(kind: str, error: FormatError) -> Appraisal:
    """Return the appraisal of bytes that did not parse."""
    exam = Examination(kind)
    code = Code.UNSUPPORTED if isinstance(error, UnsupportedFormat) else Code.MALFORMED
    exam.require("parse", False, Step.PARSE, code, observed=str(error), expected=f"{kind} evidence")
    return exam.close()


def missing(kind: str, what: str) -> Appraisal:
    """Return the appraisal of evidence that was asked for and not sent (rule 3)."""
    exam = Examination(kind)
    exam.require("present", False, Step.PARSE, Code.EVIDENCE_MISSING, observed="absent", expected=what)
    return exam.close()
