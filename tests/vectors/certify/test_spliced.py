"""Parts of genuine Intel quotes put together into one that no platform made."""

from __future__ import annotations

import struct

import pytest
from tests.vectors.certify.evidence_vectors import case, needs_vectors, outcome

from stannary.certify.evidence.quote import ENCLAVE_BYTES, HEADER_BYTES, TD10_BYTES

pytestmark = needs_vectors
QUOTE = "tdx-v4-uptodate"
# Version 4: header, TD 1.0 body, section size (4), signature (64), key (64), certification type (2), size (4).
KEY = HEADER_BYTES + TD10_BYTES + 4 + 64
QE_REPORT = KEY + 64 + 6


def _donor() -> bytes:
    return case("sgx-sw-hardening").evidence()


def _donor_report(blob: bytes) -> int:
    """Where the quoting enclave's report lies in an SGX version 3 quote."""
    assert struct.unpack_from("<H", blob)[0] == 3
    return HEADER_BYTES + ENCLAVE_BYTES + 4 + 128


def test_quoting_enclave_report_of_another_platform_vouches_for_nothing():
    """A genuine report of another platform's quoting enclave, with its signature, is refused."""
    blob, donor = bytearray(case(QUOTE).evidence()), _donor()
    start, size = _donor_report(donor), ENCLAVE_BYTES + 64
    blob[QE_REPORT : QE_REPORT + size] = donor[start : start + size]
    assert outcome(QUOTE, bytes(blob)) == "refuse:signature-invalid"


@pytest.mark.parametrize("what", ["key", "body"])
def test_attestation_key_or_body_of_another_quote_is_refused(what):
    """Another attestation key under a genuine enclave report, or another TD's body, is refused."""
    blob, donor = bytearray(case(QUOTE).evidence()), _donor()
    if what == "key":
        blob[KEY : KEY + 64] = donor[HEADER_BYTES + ENCLAVE_BYTES + 4 + 64 :][:64]
    else:
        blob[HEADER_BYTES + 100 : HEADER_BYTES + 148] = donor[HEADER_BYTES : HEADER_BYTES + 48]
    assert outcome(QUOTE, bytes(blob)) == "refuse:signature-invalid"


def test_migratable_domain_is_refused():
    """MIGRATABLE in a TD's attributes lets a migration TD carry its memory away: named beside the broken signature."""
    from dataclasses import replace

    from stannary.certify.evidence import intel
    from stannary.certify.outcomes import Examination

    parsed = intel.IntelVerifier("tdx").parse(case(QUOTE).evidence())
    for bit, expected in ((0, True), (intel.TD_MIGRATABLE, False)):
        exam = Examination("tdx")
        body = replace(parsed.body, td_attributes=parsed.body.td_attributes | bit)
        intel.check_guest(exam, replace(parsed, body=body))
        assert exam.close().valid is expected
