"""What evidence is judged by: one record, the same for every kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stannary.certify.anchor import report_data

if TYPE_CHECKING:
    from datetime import datetime

    from stannary.certify.evidence.collateral import Collateral
    from stannary.certify.rules import Rules


@dataclass(frozen=True, slots=True)
class BootSession:
    """The counters that change with every reset, restart or clear."""

    reset_count: int
    restart_count: int


@dataclass(frozen=True, slots=True)
class Activation:
    """What a verifier remembers of the credential it made: for which keys, and the secret inside."""

    ak_name: bytes
    ek_certificate: str  # fingerprint
    secret: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What a verifier brings to one piece of evidence.

    `bound` is what the evidence must bind: the anchor, or the nonce derived from it for a device.
    None says that the caller has no challenge; the check is then waived and the tier capped.
    `believes_nonce` takes the nonce from the evidence where no challenge is given. For recorded vectors only;
    anywhere else it would admit any old quote or report.
    """

    bound: bytes | None
    collateral: Collateral
    now: datetime | None
    rules: Rules
    activation: Activation | None = None  # of the credential made for this node's TPM, if one was
    session: BootSession | None = None  # of the appraisal this one renews
    believes_nonce: bool = False

    @property
    def report_data(self) -> bytes | None:
        """What a guest's report must carry in its 64 bytes of data."""
        return None if self.bound is None else report_data(self.bound)
