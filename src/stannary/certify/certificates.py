"""X.509 certificates and chains to pinned roots, at a given time.

Rules (RFC 5280 section 6, the part vendor chains use):
1. A path runs from the leaf to a root that the caller pins, by certificate or by the SHA-256 of its
   SubjectPublicKeyInfo. Nothing in the evidence can add a root.
2. Every issuer is a CA, may sign certificates where key usage is present, and keeps its path length;
   every certificate is inside its validity at `now`; the inner and outer signature algorithm agree.
3. Extensions are unique; critical ones we do not understand refuse the certificate. Serial 0 and
   unusual names are read as they are.
4. `now` is an argument. None means that time is not judged, and the caller says so in its checks.

Revocation is in `revocation.py`. Signature checks of chains are memoised: they are pure.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stannary.certify import der, keys
from stannary.errors import FormatError, LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

MAX_CERTIFICATES = 32  # in one bundle; the longest vendor chain has 5
MAX_PATH = 8
MAX_PEM_BYTES = 256 * 1024

BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE = "2.5.29.19", "2.5.29.15", "2.5.29.37"
SUBJECT_ALT_NAME = "2.5.29.17"
_UNDERSTOOD = frozenset(
    {BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE, SUBJECT_ALT_NAME, "2.5.29.14", "2.5.29.35", "2.5.29.31",
     "2.5.29.32"}
)  # fmt: skip
# DICE extensions (TCG DICE Attestation Architecture 1.1): what a device measured of itself.
_UNDERSTOOD_PREFIX = "2.23.133.5.4."
_KEY_CERT_SIGN = 0x04  # bit 5 of KeyUsage, first octet
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension: whether it is critical, and the DER inside."""

    critical: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """The fields of a certificate that verification reads."""

    raw: bytes
    tbs: bytes
    serial: int
    issuer: bytes
    subject: bytes
    not_before: datetime
    not_after: datetime
    spki: bytes
    algorithm: bytes
    signature: bytes
    extensions: dict[str, Extension]
    is_ca: bool
    path_length: int | None
    key_usage: int | None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate in hex."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def key_pin(self) -> str:
        """SHA-256 of the SubjectPublicKeyInfo in hex."""
        return hashlib.sha256(self.spki).hexdigest()

    def public_key(self) -> keys.PublicKey:
        """Load the subject's key."""
        return keys.load(self.spki)

    def common_name(self) -> str:
        """Return the last common name of the subject, empty if there is none."""
        return _common_name(self.subject)


@dataclass(frozen=True, slots=True)
class Anchors:
    """Roots the caller believes: whole certificates, and pins of root keys that may be carried."""

    certificates: tuple[Certificate, ...] = ()
    key_pins: frozenset[str] = frozenset()

    def holds(self, certificate: Certificate) -> bool:
        """Whether the certificate's key is one of the pinned root keys."""
        return certificate.key_pin in self.key_pins or any(
            certificate.spki == root.spki and certificate.subject == root.subject for root in self.certificates
        )


@dataclass(frozen=True, slots=True)
class Path:
    """A path from a leaf to its root, or why there is none.

    `is_forged` says that an issuer of the right name was carried and did not sign: that is a false
    signature, not a missing link.
    """

    certificates: tuple[Certificate, ...]
    problem: str = ""
    is_forged: bool = False

    @property
    def root(self) -> Certificate | None:
        """The root, if the path reaches one."""
        return self.certificates[-1] if self.certificates and not self.problem else None


@functools.lru_cache(maxsize=2048)
def parse(data: bytes) -> Certificate:
    """Read one DER certificate (RFC 5280 section 4.1)."""
    outer = der.sequence(data, "certificate")
    if len(outer) != 3:
        raise FormatError("not a certificate", why=f"{len(outer)} parts, expected 3")
    fields = outer[0].expect(der.SEQUENCE, "certificate body").children()
    if not fields or fields[0].tag != 0xA0:
        raise FormatError("certificate is not version 3")
    if len(fields) < 7:
        raise FormatError("certificate body too short", why=f"{len(fields)} fields")
    serial, algorithm, issuer, validity, subject, spki = fields[1:7]
    times = validity.expect(der.SEQUENCE, "validity").children()
    if len(times) != 2:
        raise FormatError("certificate validity is not two times")
    if algorithm.raw != outer[1].raw:
        raise FormatError("certificate names two signature algorithms")
    extensions = _extensions(fields[7:])
    is_ca, path_length = _basic_constraints(extensions)
    return Certificate(
        raw=data,
        tbs=outer[0].raw,
        serial=serial.integer("serial number"),
        issuer=issuer.raw,
        subject=subject.raw,
        not_before=times[0].time("notBefore"),
        not_after=times[1].time("notAfter"),
        spki=spki.raw,
        algorithm=algorithm.raw,
        signature=outer[2].bits("certificate signature"),
        extensions=extensions,
        is_ca=is_ca,
        path_length=path_length,
        key_usage=_key_usage(extensions),
    )


def load_bundle(data: bytes) -> tuple[Certificate, ...]:
    """Read one DER certificate, several DER certificates in a row, or a PEM bundle."""
    if len(data) > MAX_PEM_BYTES:
        raise LimitExceeded("certificate bundle too large", why=f"{len(data):,} bytes, limit {MAX_PEM_BYTES:,}")
    if b"-----BEGIN" not in data:
        return (parse(data),)
    blocks = _PEM.findall(data)
    if not 1 <= len(blocks) <= MAX_CERTIFICATES:
        raise FormatError("PEM bundle without certificates or with too many", why=f"{len(blocks)} certificates")
    try:
        return tuple(parse(base64.b64decode(b"".join(block.split()), validate=True)) for block in blocks)
    except binascii.Error as err:
        raise FormatError("PEM certificate is not base64", why=str(err)) from err


def anchors(*bundles: bytes, pins: Iterable[str] = ()) -> Anchors:
    """Return anchors from certificate bundles and key pins."""
    return Anchors(tuple(item for data in bundles for item in load_bundle(data)), frozenset(pins))


def find_path(leaf: Certificate, pool: Iterable[Certificate], roots: Anchors, now: datetime | None) -> Path:
    """Return the path from `leaf` to a pinned root through `pool` (rules 1 to 4)."""
    carried = list(pool)
    candidates = [*carried, *roots.certificates]
    path = [leaf]
    while not (roots.holds(path[-1]) and is_issued(path[-1], path[-1])):
        if len(path) > MAX_PATH:
            return Path(tuple(path), f"longer than {MAX_PATH} certificates")
        child = path[-1]
        named = [item for item in candidates if item.subject == child.issuer and item not in path]
        parent = next((item for item in named if is_issued(child, item)), None)
        if parent is None:
            problem = "no issuer carried" if not named else "not signed by the issuer it names"
            if is_issued(child, child):
                problem = "ends in a root that is not pinned"
            is_forged = any(item in carried and item is not child for item in named)
            return Path(tuple(path), f"{problem}: {child.common_name()[:60] or 'certificate'}", is_forged)
        path.append(parent)
    return Path(tuple(path), _problem(path, now))


def is_issued(child: Certificate, issuer: Certificate) -> bool:
    """Whether `issuer`'s key signed `child` and the names agree."""
    return child.issuer == issuer.subject and _signed_by(child.raw, issuer.spki)


def forget_validated() -> None:
    """Empty the memo of validated signatures; benches measure cold appraisals with it."""
    _signed_by.cache_clear()
    parse.cache_clear()
    _common_name.cache_clear()
    keys.load.cache_clear()


@functools.lru_cache(maxsize=1024)
def _common_name(subject: bytes) -> str:
    name = ""
    for group in der.sequence(subject, "subject"):
        for pair in group.children():
            fields = pair.children()
            if len(fields) == 2 and fields[0].raw == b"\x06\x03\x55\x04\x03":
                name = fields[1].body.decode("utf-8", errors="replace")
    return name


@functools.lru_cache(maxsize=4096)
def _signed_by(raw: bytes, spki: bytes) -> bool:
    child = parse(raw)
    try:
        return keys.verify_x509(keys.load(spki), child.algorithm, child.signature, child.tbs)
    except FormatError:
        return False  # a key or algorithm we do not accept signs nothing


def _problem(path: list[Certificate], now: datetime | None) -> str:
    for depth, item in enumerate(path):
        name = item.common_name()[:60] or f"certificate {depth}"
        if now is not None and not item.not_before <= now <= item.not_after:
            return f"{name} is valid {item.not_before:%Y-%m-%d}..{item.not_after:%Y-%m-%d}, not at {now:%Y-%m-%d}"
        unknown = [oid for oid, extension in item.extensions.items() if extension.critical and not _understood(oid)]
        if unknown:
            return f"{name} has the critical extension {unknown[0]}"
        if depth == 0:
            continue
        if not item.is_ca:
            return f"{name} is no certificate authority"
        if item.key_usage is not None and not item.key_usage & _KEY_CERT_SIGN:
            return f"{name} may not sign certificates"
        if item.path_length is not None and depth - 1 > item.path_length:
            return f"{name} allows {item.path_length} certificates below it"
    return ""


def _understood(oid: str) -> bool:
    return oid in _UNDERSTOOD or oid.startswith(_UNDERSTOOD_PREFIX)


def _extensions(fields: list[der.Element]) -> dict[str, Extension]:
    found: dict[str, Extension] = {}
    for element in fields:
        if element.tag in {0x81, 0x82, 0xA1, 0xA2}:
            continue  # unique identifiers (RFC 5280 section 4.1.2.8): obsolete and unread
        if element.tag != 0xA3:
            raise FormatError("certificate has an unknown field", why=f"tag {element.tag:#04x}")
        (listed, *rest) = element.children() or [element]
        if rest or listed is element:
            raise FormatError("certificate extensions are not one list")
        for item in listed.expect(der.SEQUENCE, "extensions").children():
            parts = item.expect(der.SEQUENCE, "extension").children()
            if len(parts) not in {2, 3}:
                raise FormatError("certificate extension is not two or three parts")
            oid = parts[0].oid("extension")
            if oid in found:
                raise FormatError("certificate extension appears twice", why=oid)
            critical = len(parts) == 3 and parts[1].expect(der.BOOLEAN, "critical").body != b"\0"
            found[oid] = Extension(critical, parts[-1].expect(der.OCTET_STRING, "extension value").body)
    return found


def _basic_constraints(extensions: dict[str, Extension]) -> tuple[bool, int | None]:
    extension = extensions.get(BASIC_CONSTRAINTS)
    if extension is None:
        return False, None
    fields = der.sequence(extension.value, "basic constraints")
    is_ca, path_length = False, None
    for item in fields:
        if item.tag == der.BOOLEAN:
            is_ca = item.body not in {b"", b"\0"}
        else:
            path_length = item.integer("path length")
    return is_ca, path_length


def _key_usage(extensions: dict[str, Extension]) -> int | None:
    extension = extensions.get(KEY_USAGE)
    if extension is None:
        return None
    body = der.read(extension.value, "key usage").expect(der.BIT_STRING, "key usage").body
    return body[1] if len(body) > 1 else 0
