"""Intel collateral in the one-file form that DCAP tools exchange (QuoteCollateralV3 as JSON).

Its revocation lists are hex text of DER, or PEM as Intel's service sends them unless asked for DER.
"""

from __future__ import annotations

from stannary.certify import certificates
from stannary.certify.collateral import IntelCollateral, SignedJson, unhex
from stannary.certify.revocation import crl_der
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
        pck_crl_chain=chain("pck_crl_issuer_chain"),
    )
