"""The one shape of an evidence verifier: pure, no clock, no network, no files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from stannary.certify.outcomes import unreadable
from stannary.certify.revocation_notice import judge_identities
from stannary.errors import FormatError, LimitExceeded

if TYPE_CHECKING:
    from datetime import datetime

    from stannary.certify.evidence.collateral import Collateral, CollateralKey
    from stannary.certify.outcomes import Appraisal
    from stannary.certify.rules import Rules

MAX_EVIDENCE_BYTES = 10 * 1024 * 1024  # CVM Attestation v1; the largest real log is below 100 KiB

Parsed = TypeVar("Parsed")


class EvidenceVerifier(Protocol[Parsed]):
    """What each kind of evidence implements.

    `bound` is what the evidence must bind: the anchor, or the nonce derived from it for a device.
    None says that the caller has no challenge; the check is then waived and the tier capped.
    """

    kind: str
    media_types: frozenset[str]

    def parse(self, blob: bytes) -> Parsed:
        """Read the bytes, trusting nothing; raise FormatError for anything malformed."""
        ...

    def collateral_keys(self, parsed: Parsed) -> tuple[CollateralKey, ...]:
        """Name the collateral an appraisal will need."""
        ...

    def appraise(
        self, parsed: Parsed, *, bound: bytes | None, collateral: Collateral, now: datetime | None, rules: Rules
    ) -> Appraisal:
        """Check everything, collect all findings."""
        ...


def examine(
    verifier: EvidenceVerifier[Any],
    blob: bytes,
    *,
    bound: bytes | None,
    collateral: Collateral,
    now: datetime | None,
    rules: Rules,
) -> Appraisal:
    """Parse and appraise in one step; what does not parse becomes an appraisal too.

    Revocation notices are judged here, once for every kind: they name hardware, not evidence.
    """
    try:
        parsed = verifier.parse(limit(blob, f"{verifier.kind} evidence"))
        appraisal = verifier.appraise(parsed, bound=bound, collateral=collateral, now=now, rules=rules)
        return judge_identities(appraisal, rules.withdrawals, now)
    except FormatError as err:
        return unreadable(verifier.kind, err)


def limit(blob: bytes, what: str, max_bytes: int = MAX_EVIDENCE_BYTES) -> bytes:
    """Return `blob` if it is within the limit."""
    if len(blob) > max_bytes:
        raise LimitExceeded(f"{what} too large", why=f"{len(blob):,} bytes, limit {max_bytes:,}")
    return blob
