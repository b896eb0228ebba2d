"""Revocation as carried evidence: CRLs (RFC 5280 section 5) and OCSP answers (RFC 6960).

Rules:
1. Nothing is fetched. What is carried must be signed by the issuer (or, for OCSP, by a responder the
   issuer certified for it) and be inside its own window at `now`; a stale good answer is no answer.
2. `unknown` is not `good`: the caller caps the tier.
3. A CRL that names the serial, or an OCSP answer `revoked` (certificateHold included), revokes.
4. Of several usable answers the newest counts: a node may carry an old good one beside the newer one
   that withdraws it. A revocation other than certificateHold is for good (RFC 5280 section 5.3.1), so an
   answer that says it still counts after its window has ended.

What people other than the vendor say about hardware is in `revocation_notice.py`.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stannary.certify.pki import certificates, der, keys
from stannary.errors import FormatError, LimitExceeded, UnsupportedFormat

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stannary.certify.pki.certificates import Certificate

MAX_OCSP_AGE = timedelta(days=7)  # for answers without nextUpdate (RFC 6960 leaves it open)
MAX_RESPONDERS = 8  # certificates in one answer: each may cost two signature checks
_OCSP_BASIC = "1.3.6.1.5.5.7.48.1.1"
_OCSP_SIGNING = "1.3.6.1.5.5.7.3.9"
# How a certificate id names its issuer. SHA-1 is a name here, no proof: RFC 6960 requires responders to know it.
_NAME_HASHES = {
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",  # the one NVIDIA's own verifiers ask with
    "2.16.840.1.101.3.4.2.3": "sha512",
}
_PEM_CRL = re.compile(rb"-----BEGIN X509 CRL-----([A-Za-z0-9+/=\s]+)-----END X509 CRL-----")
_HEX = re.compile(rb"(?:[0-9A-Fa-f]{2})+")
HOLD = "certificateHold"
# CRLReason (RFC 5280 section 5.3.1); 7 is not used.
REASONS = {
    0: "unspecified", 1: "keyCompromise", 2: "cACompromise", 3: "affiliationChanged", 4: "superseded",
    5: "cessationOfOperation", 6: HOLD, 8: "removeFromCRL", 9: "privilegeWithdrawn", 10: "aACompromise",
}  # fmt: skip


class Status(StrEnum):
    """What carried evidence says about a certificate."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Standing:
    """What carried answers add up to: a status, the words for people, and the moment a good one was issued."""

    status: Status
    detail: str
    since: datetime | None = None


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
class SingleResponse:
    """One certificate's status inside an OCSP response."""

    hash_oid: str
    name_hash: bytes
    key_hash: bytes
    serial: int
    status: Status
    reason: str  # of a revocation, empty where none is given
    this_update: datetime
    next_update: datetime | None

    @property
    def ends_at(self) -> datetime:
        """Until when it may be used; at the end of time there is no week to add."""
        age = MAX_OCSP_AGE if self.this_update.year < datetime.max.year else timedelta(0)
        return self.next_update or self.this_update + age

    @property
    def is_final(self) -> bool:
        """Whether it withdraws for good: a hold may be lifted, any other revocation may not."""
        return self.status is Status.REVOKED and self.reason != HOLD


@dataclass(frozen=True, slots=True)
class OcspResponse:
    """A parsed basic OCSP response."""

    tbs: bytes
    answers: tuple[SingleResponse, ...]
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


def crl_der(data: bytes) -> bytes:
    """Return a revocation list as DER. Services and tools hand it out as PEM (RFC 7468 section 7) and hex too."""
    if len(data) > 4 * der.MAX_DOCUMENT_BYTES:  # hex with line breaks is below three bytes for one
        raise LimitExceeded("revocation list too large", why=f"{len(data):,} bytes")
    if b"-----BEGIN" in data:
        found = _PEM_CRL.findall(data)
        if len(found) != 1 or data.count(b"-----BEGIN") != 1 or data.count(b"-----END") != 1:
            raise FormatError("not one revocation list in PEM", why=f"{len(found)} blocks of X509 CRL read")
        try:
            return base64.b64decode(b"".join(found[0].split()), validate=True)
        except binascii.Error as err:
            raise FormatError("PEM revocation list is not base64", why=str(err)) from err
    text = b"".join(data.split()).removeprefix(b"0x").rstrip(b"\0")  # Intel's library ends its text with a zero
    return bytes.fromhex(text.decode("ascii")) if _HEX.fullmatch(text) else data


@functools.lru_cache(maxsize=64)  # vendors publish a handful; every appraisal carries the same
def parse_crl(data: bytes) -> RevocationList:
    """Read a CertificateList in DER, PEM or hex."""
    outer = der.sequence(crl_der(data), "revocation list")
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
        rest = rest[1:]
    _require_plain_list(rest)
    return RevocationList(
        tbs=outer[0].raw,
        issuer=fields[1].raw,
        this_update=fields[2].time("thisUpdate"),
        next_update=next_update,
        serials=frozenset(serials),
        algorithm=outer[1].raw,
        signature=outer[2].bits("revocation list signature"),
    )


def _require_plain_list(rest: list[der.Element]) -> None:
    """Refuse lists that are only a part: delta lists, and lists of one reason or kind, say so critically."""
    for element in rest:
        (listed,) = _exactly(element.expect(0xA0, "revocation list extensions").children(), 1, "CRL extensions")
        for item in listed.children():
            parts = item.expect(der.SEQUENCE, "extension").children()
            if len(parts) == 3 and parts[1].expect(der.BOOLEAN, "critical").body != b"\0":
                raise UnsupportedFormat("revocation list has a critical extension", why=parts[0].oid("extension"))


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
        if len(listed.children()) > MAX_RESPONDERS:
            raise LimitExceeded("OCSP response carries too many certificates", why=f"limit {MAX_RESPONDERS}")
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
) -> Standing:
    """Return what the carried responses say about `subject` (rule 4), with the reason if that is nothing."""
    reason = "no OCSP answer carried for it"
    usable: list[SingleResponse] = []
    for response in responses:
        for answer in response.answers:
            if answer.serial != subject.serial or not is_about(answer, issuer):
                continue
            end = None if answer.is_final else answer.ends_at
            problem = _responder_problem(response, issuer, answer.this_update if answer.is_final else now)
            problem = problem or window_problem("OCSP answer", answer.this_update, end, now)
            if problem:
                reason = problem
            else:
                usable.append(answer)
    if not usable:
        return Standing(Status.UNKNOWN, reason)
    # One that withdraws wins over one that does not; then the newest, and of two at once the worse.
    told = max(usable, key=lambda item: (item.is_final, item.this_update, item.status is not Status.GOOD))
    words = f"OCSP answer of {told.this_update:%Y-%m-%d %H:%M}"
    detail = f"{words}: {told.reason or told.status}" if told.status is not Status.GOOD else words
    return Standing(told.status, detail, told.this_update if told.status is Status.GOOD else None)


def is_about(answer: SingleResponse, issuer: Certificate) -> bool:
    """Whether an answer names this issuer."""
    algorithm = _NAME_HASHES.get(answer.hash_oid)
    if algorithm is None:
        return False
    name_hash, key_hash = issuer_hashes(issuer, algorithm)
    return (name_hash, key_hash) == (answer.name_hash, answer.key_hash)


def issuer_hashes(issuer: Certificate, algorithm: str) -> tuple[bytes, bytes]:
    """Return how an OCSP certificate id names an issuer: the hashes of its name and of its key's bits."""
    name = hashlib.new(algorithm, issuer.subject, usedforsecurity=False).digest()
    return name, hashlib.new(algorithm, _key_bits(issuer), usedforsecurity=False).digest()


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
        if _is_signed_by(signer.spki, response.algorithm, response.signature, response.tbs):
            return ""
    return "OCSP answer is not signed by a responder of the issuer"


@functools.lru_cache(maxsize=512)  # devices of one kind share issuers and manifests, so also their answers
def _is_signed_by(spki: bytes, algorithm: bytes, signature: bytes, tbs: bytes) -> bool:
    try:
        return keys.verify_x509(keys.load(spki), algorithm, signature, tbs)
    except FormatError:
        return False  # this certificate's key is of another kind: it did not sign


def forget_validated() -> None:
    """Empty the memo of lists and signatures; benches measure cold appraisals with it."""
    parse_crl.cache_clear()
    _is_signed_by.cache_clear()


def _may_answer(signer: Certificate, issuer: Certificate, now: datetime | None) -> bool:
    usage = signer.extensions.get(certificates.EXTENDED_KEY_USAGE)
    if usage is None or not certificates.is_issued(signer, issuer):
        return False
    if now is not None and not signer.not_before <= now <= signer.not_after:
        return False
    listed = der.sequence(usage.value, "extended key usage")
    return any(item.oid("extended key usage") == _OCSP_SIGNING for item in listed)


def _answer(element: der.Element) -> SingleResponse:
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
    return SingleResponse(
        hash_oid=oids[0].oid("OCSP hash"),
        name_hash=name_hash.body,
        key_hash=key_hash.body,
        serial=serial.integer("OCSP serial"),
        status=states.get(fields[1].tag, Status.UNKNOWN),
        reason=_reason(fields[1]),
        this_update=fields[2].time("thisUpdate"),
        next_update=next_update,
    )


def _reason(status: der.Element) -> str:
    """RevokedInfo: when, and perhaps why (RFC 6960 section 4.2.1)."""
    if status.tag != 0xA1:
        return ""
    for item in status.children()[1:]:
        if item.tag == 0xA0:
            (value,) = _exactly(item.children(), 1, "revocation reason")
            return REASONS.get(value.integer("revocation reason"), "unspecified")
    return ""


def _exactly(items: list[der.Element], count: int, what: str) -> list[der.Element]:
    if len(items) != count:
        raise FormatError(f"{what} is not {count} parts", why=f"{len(items)} parts")
    return items
