"""The vectors runner: cases of evidence with expected outcomes, one line a case.

Evidence is appraised under `Rules()`: what is true of it without a policy, and what revocation notices say
(the packaged one unless it is left out). A case that cannot run is a mismatch, never skipped: a file of it
that does not read is malformed evidence, a fault of the manifest itself is `could not check`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stannary.certify.outcomes import Appraisal, unreadable
from stannary.certify.revocation_notice import judge_identities, packaged
from stannary.certify.vectors import kinds
from stannary.errors import FormatError, StannaryError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from stannary.certify.vectors.cases import Case
    from stannary.certify.withdrawals import Withdrawal


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What a case gave beside what it should have given."""

    id: str
    kind: str
    expected: str
    observed: str
    detail: str
    appraisal: Appraisal | None

    @property
    def matches(self) -> bool:
        """Whether the outcome is the expected one."""
        return self.observed == self.expected


def run(
    cases: tuple[Case, ...], now: datetime | None = None, withdrawals: tuple[Withdrawal, ...] | None = None
) -> Iterator[CaseResult]:
    """Run cases one by one; `withdrawals` default to the packaged notice's."""
    for case in cases:
        yield run_case(case, now, withdrawals)


def run_case(case: Case, now: datetime | None = None, withdrawals: tuple[Withdrawal, ...] | None = None) -> CaseResult:
    """Appraise one case; what cannot run is reported as such, never as a pass."""
    name, kind, expected = (str(case.members.get(member, "")) for member in ("id", "kind", "expect"))
    try:
        appraisal = appraise(case, now, packaged().entries if withdrawals is None else withdrawals)
    except StannaryError as err:
        return CaseResult(name, kind, expected, f"could not check: {err}", "", None)
    refusal = appraisal.refusal
    detail = "" if refusal is None else f"{refusal.id}: {refusal.observed}"
    return CaseResult(name, kind, expected, appraisal.outcome, detail[:160], appraisal)


def appraise(case: Case, now: datetime | None = None, withdrawals: tuple[Withdrawal, ...] = ()) -> Appraisal:
    """Appraise one case under the plain rules and what notices say."""
    moment = case.now(now)
    try:
        return judge_identities(kinds.appraise(case, moment), withdrawals, moment)
    except FormatError as err:
        return unreadable(case.text("kind"), err)
