"""Revocation lists and OCSP answers that are only a part of the truth, or too much of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import OCSPCertStatus, OCSPResponderEncoding, OCSPResponseBuilder
from tests.unit.certify import world

from stannary.certify.pki import revocation
from stannary.certify.pki.revocation import Status
from stannary.errors import LimitExceeded, UnsupportedFormat

ROOT = world.issue("Root", ca=True)
LEAF = world.issue("Leaf", ROOT)


def _list(*extensions: tuple[x509.ExtensionType, bool]) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ROOT.built.subject)
        .last_update(world.NOW.replace(tzinfo=None))
        .next_update((world.NOW + timedelta(days=1)).replace(tzinfo=None))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(ROOT.key, hashes.SHA384()).public_bytes(Encoding.DER)


def _part() -> x509.IssuingDistributionPoint:
    point = [x509.UniformResourceIdentifier("https://crl.example/1")]
    return x509.IssuingDistributionPoint(point, None, True, False, None, False, False)


def test_list_that_is_only_a_part_is_unsupported():
    """A delta list, or one of some certificates only, says so critically: it must not stand for the whole."""
    number = (x509.CRLNumber(7), False)
    assert revocation.parse_crl(_list(number)).problem(ROOT.certificate, world.NOW) == ""
    assert revocation.parse_crl(_list()).serials == frozenset()
    for extension in (x509.DeltaCRLIndicator(6), _part()):
        with pytest.raises(UnsupportedFormat, match="critical"):
            revocation.parse_crl(_list(number, (extension, True)))


def _answer(at: datetime, carried: tuple[world.Issued, ...] = (), responder: world.Issued = ROOT) -> bytes:
    builder = OCSPResponseBuilder().add_response(
        cert=LEAF.built, issuer=ROOT.built, algorithm=hashes.SHA384(), cert_status=OCSPCertStatus.GOOD,
        this_update=at.replace(tzinfo=None), next_update=None, revocation_time=None, revocation_reason=None,
    )  # fmt: skip
    builder = builder.responder_id(OCSPResponderEncoding.NAME, responder.built)
    if carried:
        builder = builder.certificates([item.built for item in carried])
    return builder.sign(responder.key, hashes.SHA384()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("days", "status"), [(0, Status.GOOD), (7, Status.GOOD), (8, Status.UNKNOWN), (-1, Status.UNKNOWN)]
)
def test_answer_without_an_end_lives_a_week(days, status):
    """An answer that names no end is used for seven days, and not before it was given."""
    response = revocation.parse_ocsp(_answer(world.NOW))
    now = world.NOW + timedelta(days=days)
    assert revocation.ocsp_status(LEAF.certificate, ROOT.certificate, [response], now).status is status


def test_answer_at_the_end_of_time_is_no_answer_and_no_crash():
    """An answer dated 9999-12-31 is of the future, whatever a week after it would be."""
    response = revocation.parse_ocsp(_answer(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)))
    told = revocation.ocsp_status(LEAF.certificate, ROOT.certificate, [response], world.NOW)
    assert told.status is Status.UNKNOWN


def test_crowd_of_responders_is_refused():
    """A response may carry a few certificates; hundreds, each to be checked, are over the limit."""
    crowd = tuple(world.issue(f"R{number}", ROOT, usages=("1.3.6.1.5.5.7.3.9",)) for number in range(9))
    few = revocation.parse_ocsp(_answer(world.NOW, crowd[:8], crowd[0]))
    assert revocation.ocsp_status(LEAF.certificate, ROOT.certificate, [few], world.NOW).status is Status.GOOD
    started = time.process_time()
    with pytest.raises(LimitExceeded):
        revocation.parse_ocsp(_answer(world.NOW, crowd, crowd[0]))
    assert time.process_time() - started < 1.0
