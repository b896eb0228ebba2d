"""Intel collateral in the one-file form that DCAP tools exchange (QuoteCollateralV3 as JSON).

Its revocation lists are hex text of DER, or PEM as Intel's service sends them unless asked for DER. The chain of the
PCK's list may be left out, as before version 3.1 of that structure: the quote carries those issuers. Without any
other part there is no collateral.
"""

from __future__ import annotations

from stannary.certify.evidence.collateral import IntelCollateral, SignedJson
from stannary.certify.octets import unhex
from stannary.certify.pki import certificates
from stannary.certify.pki.revocation import crl_der
from stannary.errors import FormatError
from stannary.formats import canonical

_PARTS = (
    "tcb_info", "tcb_info_signature", "tcb_info_issuer_chain", "qe_identity", "qe_identity_signature",
    "qe_identity_issuer_chain", "pck_crl", "root_ca_crl",
)  # fmt: skip


def read_intel_collateral(data: bytes) -> IntelCollateral | None:
    """Read the one-file form that DCAP tools exchange; None where a part is withheld, which is like all of it."""
    members = canonical.decode_object(data)
    if any(members.get(name) in (None, "") for name in _PARTS):
        return None

    def text(name: str) -> str:
        value = members.get(name)
        if not isinstance(value, str):
            raise FormatError("Intel collateral's member is not text", why=name)
        return value

    def octets(name: str) -> bytes:
        return text(name).encode("utf-8")

    def chain(name: str) -> tuple[certificates.Certificate, ...]:
        return certificates.load_bundle(octets(name))

    return IntelCollateral(
        tcb_info=SignedJson(
            text("tcb_info"), unhex(members.get("tcb_info_signature"), "signature"), chain("tcb_info_issuer_chain")
        ),
        qe_identity=SignedJson(
            text("qe_identity"),
            unhex(members.get("qe_identity_signature"), "signature"),
            chain("qe_identity_issuer_chain"),
        ),
        pck_crl=crl_der(octets("pck_crl")),
        root_crl=crl_der(octets("root_ca_crl")),
        pck_crl_chain=chain("pck_crl_issuer_chain") if members.get("pck_crl_issuer_chain") else (),
    )
