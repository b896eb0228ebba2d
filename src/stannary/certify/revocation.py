"""Revocation as carried evidence: CRLs (RFC 5280 section 5) and OCSP answers (RFC 6960).

Rules:
1. Nothing is fetched. What is carried must be signed by the issuer (or, for OCSP, by a responder the
   issuer certified for it) and be inside its own window at `now`; a stale good answer is no answer.
2. `unknown` is not `good`: the caller caps the tier.
3. A CRL that names the serial, or an OCSP answer `revoked` (certificateHold included), revokes.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stannary.certify import certificates, der, keys
from stannary.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from stannary.certify.certificates import Certificate

MAX_OCSP_AGE = timedelta(days=7)  # for answers without nextUpdate (RFC 6960 leaves it open)
_OCSP_BASIC = "1.3.6.1.5.5.7.48.1.1"
_OCSP_SIGNING = "1.3.6.1.5.5.7.3.9"
_SHA1, _SHA256 = "1.3.14.3.2.26", "2.16.840.1.101.3.4.2.1"


class Status(StrEnum):
    """What carried evidence says about a certificate."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A parsed CRL."""

    tbs: bytes
    issuer: bytes
    this_update: datetime
    next_update: datetime | None
    serials: frozenset[int]
    algorithm: bytes
    signature: bytes

    def problem(self, issuer: Certificate, now: datetime | None) -> str:
        """Say why this list cannot be used, empty if it can."""
        if self.issuer != issuer.subject:
            return "revocation list of another issuer"
        try:
            signed = keys.verify_x509(issuer.public_key(), self.algorithm, self.signature, self.tbs)
        except FormatError as err:
            return str(err)
        if not signed:
            return "revocation list is not signed by its issuer"
        return window_problem("revocation list", self.this_update, self.next_update, now)


@dataclass(frozen=True, slots=True)
class Answer:
    """One certificate's status inside an OCSP response."""

    hash_oid: str
    name_hash: bytes
    key_hash: bytes
    serial: int
    status: Status
    this_update: datetime
    next_update: datetime | None


@dataclass(frozen=True, slots=True)
class OcspResponse:
    """A parsed basic OCSP response."""

    tbs: bytes
    answers: tuple[Answer, ...]
    algorithm: bytes
    signature: bytes
    certificates: tuple[Certificate, ...]


def window_problem(what: str, start: datetime, end: datetime | None, now: datetime | None) -> str:
    """Say why `now` lies outside a validity window, empty if it does not."""
    if now is None:
        return ""
    if now < start:
        return f"{what} is of {start:%Y-%m-%d %H:%M}, after the evaluation time"
    if end is not None and now > end:
        return f"{what} ended {end:%Y-%m-%d %H:%M}"
    return ""


@functools.lru_cache(maxsize=64)  # vendors publish a handful; every appraisal carries the same
def parse_crl(data: bytes) -> RevocationList:
    """Read a DER CertificateList."""
    outer = der.sequence(data, "revocation list")
    if len(outer) != 3:
        raise FormatError("not a revocation list", why=f"{len(outer)} parts")
    fields = outer[0].expect(der.SEQUENCE, "revocation list body").children()
    if fields and fields[0].tag == der.INTEGER:
        fields = fields[1:]
    if len(fields) < 3 or fields[0].raw != outer[1].raw:
        raise FormatError("revocation list body is not complete")
    rest = fields[3:]
    next_update = None
    if rest and rest[0].tag in {der.UTC_TIME, der.GENERALIZED_TIME}:
        next_update, rest = rest[0].time("nextUpdate"), rest[1:]
    serials: set[int] = set()
    if rest and rest[0].tag == der.SEQUENCE:
        for entry in rest[0].children():
            members = entry.expect(der.SEQUENCE, "revoked entry").children()
            if len(members) < 2:
                raise FormatError("revoked entry is not complete")
            serials.add(members[0].integer("revoked serial"))
    return RevocationList(
        tbs=outer[0].raw,
        issuer=fields[1].raw,
        this_update=fields[2].time("thisUpdate"),
        next_update=next_update,
        serials=frozenset(serials),
        algorithm=outer[1].raw,
        signature=outer[2].bits("revocation list signature"),
    )


def parse_ocsp(data: bytes) -> OcspResponse:
    """Read a DER OCSPResponse of type basic (RFC 6960 section 4.2.1)."""
    outer = der.sequence(data, "OCSP response")
    if len(outer) != 2 or outer[0].integer("OCSP status") != 0:
        raise FormatError("OCSP response is not successful")
    (typed,) = _exactly(outer[1].children(), 1, "OCSP response bytes")
    kind, octets = _exactly(typed.expect(der.SEQUENCE, "OCSP response bytes").children(), 2, "OCSP response bytes")
    if kind.oid("OCSP response type") != _OCSP_BASIC:
        raise FormatError("OCSP response is not basic")
    basic = der.sequence(octets.expect(der.OCTET_STRING, "OCSP response").body, "basic OCSP response")
    if len(basic) not in {3, 4}:
        raise FormatError("basic OCSP response is not complete")
    carried: tuple[Certificate, ...] = ()
    if len(basic) == 4:
        (listed,) = _exactly(basic[3].children(), 1, "OCSP certificates")
        carried = tuple(certificates.parse(item.raw) for item in listed.children())
    fields = basic[0].expect(der.SEQUENCE, "OCSP response data").children()
    listed_answers = next((item for item in fields if item.tag == der.SEQUENCE), None)
    if listed_answers is None:
        raise FormatError("OCSP response holds no answers")
    return OcspResponse(
        tbs=basic[0].raw,
        answers=tuple(_answer(item) for item in listed_answers.children()),
        algorithm=basic[1].raw,
        signature=basic[2].bits("OCSP signature"),
        certificates=carried,
    )


def ocsp_status(
    subject: Certificate, issuer: Certificate, responses: Iterable[OcspResponse], now: datetime | None
) -> tuple[Status, str]:
    """Return what the carried responses say about `subject`, with the reason if that is nothing."""
    reason = "no OCSP answer carried for it"
    for response in responses:
        for answer in response.answers:
            if answer.serial != subject.serial or not _names(answer, issuer):
                continue
            problem = _responder_problem(response, issuer, now)
            end = answer.next_update or answer.this_update + MAX_OCSP_AGE
            problem = problem or window_problem("OCSP answer", answer.this_update, end, now)
            if not problem:
                return answer.status, f"OCSP answer of {answer.this_update:%Y-%m-%d %H:%M}"
            reason = problem
    return Status.UNKNOWN, reason


def _names(answer: Answer, issuer: Certificate) -> bool:
    key_bits = _key_bits(issuer)
    if answer.hash_oid == _SHA1:  # names the issuer only; RFC 6960 requires responders to know SHA-1
        return (
            hashlib.sha1(issuer.subject, usedforsecurity=False).digest() == answer.name_hash
            and hashlib.sha1(key_bits, usedforsecurity=False).digest() == answer.key_hash
        )
    if answer.hash_oid == _SHA256:
        return (
            hashlib.sha256(issuer.subject).digest() == answer.name_hash
            and hashlib.sha256(key_bits).digest() == answer.key_hash
        )
    return False


def _key_bits(issuer: Certificate) -> bytes:
    key = issuer.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    if isinstance(key, rsa.RSAPublicKey):
        return key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return key.public_bytes_raw()


def _responder_problem(response: OcspResponse, issuer: Certificate, now: datetime | None) -> str:
    for signer in (issuer, *response.certificates):
        if signer is not issuer and not _may_answer(signer, issuer, now):
            continue
        try:
            if keys.verify_x509(signer.public_key(), response.algorithm, response.signature, response.tbs):
                return ""
        except FormatError:
            continue  # this certificate's key is of another kind: it did not sign
    return "OCSP answer is not signed by a responder of the issuer"


def _may_answer(signer: Certificate, issuer: Certificate, now: datetime | None) -> bool:
    usage = signer.extensions.get(certificates.EXTENDED_KEY_USAGE)
    if usage is None or not certificates.is_issued(signer, issuer):
        return False
    if now is not None and not signer.not_before <= now <= signer.not_after:
        return False
    listed = der.sequence(usage.value, "extended key usage")
    return any(item.oid("extended key usage") == _OCSP_SIGNING for item in listed)


def _answer(element: der.Element) -> Answer:
    fields = element.expect(der.SEQUENCE, "OCSP answer").children()
    if len(fields) < 3:
        raise FormatError("OCSP answer is not complete")
    algorithm, name_hash, key_hash, serial = _exactly(fields[0].children(), 4, "OCSP certificate id")
    oids = algorithm.children()
    if not oids:
        raise FormatError("OCSP certificate id names no hash")
    states = {0x80: Status.GOOD, 0xA1: Status.REVOKED}
    next_update = None
    for item in fields[3:]:
        if item.tag == 0xA0:
            (moment,) = _exactly(item.children(), 1, "nextUpdate")
            next_update = moment.time("nextUpdate")
    return Answer(
        hash_oid=oids[0].oid("OCSP hash"),
        name_hash=name_hash.body,
        key_hash=key_hash.body,
        serial=serial.integer("OCSP serial"),
        status=states.get(fields[1].tag, Status.UNKNOWN),
        this_update=fields[2].time("thisUpdate"),
        next_update=next_update,
    )


def _exactly(items: list[der.Element], count: int, what: str) -> list[der.Element]:
    if len(items) != count:
        raise FormatError(f"{what} is not {count} parts", why=f"{len(items)} parts")
    return items
