"""The one shape of an evidence verifier: pure, no clock, no network, no files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from stannary.certify.outcomes import unreadable
from stannary.certify.revocation_notice import judge_identities
from stannary.errors import FormatError, LimitExceeded

if TYPE_CHECKING:
    from stannary.certify.evidence.basis import Basis
    from stannary.certify.evidence.collateral import CollateralKey
    from stannary.certify.outcomes import Appraisal

MAX_EVIDENCE_BYTES = 10 * 1024 * 1024  # CVM Attestation v1; the largest real log is below 100 KiB

Parsed = TypeVar("Parsed")


class EvidenceVerifier(Protocol[Parsed]):
    """What each kind of evidence implements. It keeps nothing between two calls."""

    kind: str
    places: frozenset[str]  # submodules of a node's evidence that may hold it

    def parse(self, blob: bytes) -> Parsed:
        """Read the bytes, trusting nothing; raise FormatError for anything malformed."""
        ...

    def collateral_keys(self, parsed: Parsed) -> tuple[CollateralKey, ...]:
        """Name the collateral an appraisal will need."""
        ...

    def appraise(self, parsed: Parsed, basis: Basis) -> Appraisal:
        """Check everything, collect all findings."""
        ...


def examine(verifier: EvidenceVerifier[Any], blob: bytes, basis: Basis) -> Appraisal:
    """Parse and appraise in one step; what does not parse becomes an appraisal too."""
    try:
        parsed = verifier.parse(limit(blob, f"{verifier.kind} evidence"))
    except FormatError as err:
        return unreadable(verifier.kind, err)
    return examine_parsed(verifier, parsed, basis)


def examine_parsed(verifier: EvidenceVerifier[Parsed], parsed: Parsed, basis: Basis) -> Appraisal:
    """Appraise what was read.

    Revocation notices are judged here, once for every kind: they name hardware, not evidence.
    """
    try:
        return judge_identities(verifier.appraise(parsed, basis), basis.rules.withdrawals, basis.now)
    except FormatError as err:
        return unreadable(verifier.kind, err)


def limit(blob: bytes, what: str, max_bytes: int = MAX_EVIDENCE_BYTES) -> bytes:
    """Return `blob` if it is within the limit."""
    if len(blob) > max_bytes:
        raise LimitExceeded(f"{what} too large", why=f"{len(blob):,} bytes, limit {max_bytes:,}")
    return blob
