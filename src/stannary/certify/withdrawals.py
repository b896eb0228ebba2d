"""Hardware a vendor withdrew: which, what was said, by whom and when."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from stannary.certify.moments import parse_moment

if TYPE_CHECKING:
    from datetime import datetime


class CrlReason(StrEnum):
    """Why hardware is withdrawn, as CRLReason spells it; removeFromCRL lifts and has no place here."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    CA_COMPROMISE = "cACompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"
    CERTIFICATE_HOLD = "certificateHold"
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"
    AA_COMPROMISE = "aACompromise"


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """One entry: which hardware, what was said, by which responder, when."""

    identity: str
    status: CrlReason
    source: str
    observed_at: str

    def holds_at(self, now: datetime | None) -> bool:
        """Whether it counts at `now` (rule 2); without an evaluation time it does."""
        return now is None or parse_moment(self.observed_at) <= now

    def words(self) -> str:
        """Say it in one line."""
        return f"{self.identity} {self.status}: {self.source}, observed {self.observed_at}"
