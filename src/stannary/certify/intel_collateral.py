"""Intel collateral in the one-file form that DCAP tools exchange (QuoteCollateralV3 as JSON)."""

from __future__ import annotations

from stannary.certify import certificates
from stannary.certify.collateral import IntelCollateral, SignedJson, unhex
from stannary.errors import FormatError
from stannary.formats import canonical


def read_intel_collateral(data: bytes) -> IntelCollateral:
    """Read the one-file form that DCAP tools exchange."""
    members = canonical.decode_object(data)

    def text(name: str) -> str:
        value = members.get(name)
        if not isinstance(value, str):
            raise FormatError("Intel collateral lacks a member", why=name)
        return value

    def chain(name: str) -> tuple[certificates.Certificate, ...]:
        return certificates.load_bundle(text(name).encode("utf-8"))

    return IntelCollateral(
        tcb_info=SignedJson(
            text("tcb_info"), unhex(members.get("tcb_info_signature"), "signature"), chain("tcb_info_issuer_chain")
        ),
        qe_identity=SignedJson(
            text("qe_identity"),
            unhex(members.get("qe_identity_signature"), "signature"),
            chain("qe_identity_issuer_chain"),
        ),
        pck_crl=unhex(members.get("pck_crl"), "PCK revocation list"),
        root_crl=unhex(members.get("root_ca_crl"), "root revocation list"),
        pck_crl_chain=chain("pck_crl_issuer_chain"),
    )
