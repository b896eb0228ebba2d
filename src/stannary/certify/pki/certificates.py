"""X.509 certificates and chains to pinned roots, at a given time.

Rules (RFC 5280 section 6, the part vendor chains use):
1. A path runs from the leaf to a root that the caller pins, by certificate or by the SHA-256 of its
   SubjectPublicKeyInfo. Nothing in the evidence can add a root.
2. Every issuer is a CA, may sign certificates where key usage is present, and keeps its path length;
   every certificate is inside its validity at `now`; the inner and outer signature algorithm agree.
3. Extensions are unique; critical ones we do not understand refuse the certificate. Serial 0 and
   unusual names are read as they are.
4. `now` is an argument. None means that time is not judged, and the caller says so in its checks.
5. Where several issuers fit (renewed, cross-signed, of the same name), each is tried: an expired or foreign
   one beside the right one changes nothing. A search costs at most MAX_EDGES signature checks.

Names are compared in `names.py`, revocation is in `revocation.py`. Signature checks are memoised: they are pure.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stannary.certify.pki import der, keys, names
from stannary.errors import FormatError, LimitExceeded, UnsupportedFormat

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

MAX_CERTIFICATES = 32  # in one bundle; the longest vendor chain has 5
MAX_PATH = 8
MAX_EDGES = 64  # signature checks of one search: below 0.1 s even where every issuer has another key
MAX_PEM_BYTES = 256 * 1024
MAX_CERTIFICATE_BYTES = 32 * 1024  # a vendor's are below 4 KiB; what is read is remembered, and memory is bounded by it

BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE = "2.5.29.19", "2.5.29.15", "2.5.29.37"
SUBJECT_ALT_NAME, SUBJECT_KEY_ID, AUTHORITY_KEY_ID = "2.5.29.17", "2.5.29.14", "2.5.29.35"
_UNDERSTOOD = frozenset(
    {BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE, SUBJECT_ALT_NAME, SUBJECT_KEY_ID, AUTHORITY_KEY_ID,
     "2.5.29.31", "2.5.29.32"}
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
        return names.common_name(self.subject)

    @property
    def is_self_issued(self) -> bool:
        """Whether issuer and subject are one name."""
        return names.same(self.issuer, self.subject)


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

    def ends(self, certificate: Certificate) -> bool:
        """Whether a path may end here: a pinned certificate itself, or a copy of a root signed by its pinned key.

        A pin names a key, and whoever carries the certificate chose the rest of it: only the key's own
        signature vouches for its validity and path length.
        """
        if any(certificate.raw == root.raw for root in self.certificates):
            return True
        return self.holds(certificate) and is_issued(certificate, certificate)


@dataclass(frozen=True, slots=True)
class Path:
    """A path from a leaf to its root, or why there is none.

    `is_forged` says that an issuer of the right name was carried and did not sign: that is a false
    signature, not a missing link. `is_open` says that the link is missing: nobody of that name was carried.
    """

    certificates: tuple[Certificate, ...]
    problem: str = ""
    is_forged: bool = False
    is_open: bool = False

    @property
    def root(self) -> Certificate | None:
        """The root, if the path reaches one."""
        return self.certificates[-1] if self.certificates and not self.problem else None


def parse(data: bytes) -> Certificate:
    """Read one DER certificate (RFC 5280 section 4.1)."""
    if len(data) > MAX_CERTIFICATE_BYTES:
        raise LimitExceeded("certificate too large", why=f"{len(data):,} bytes, limit {MAX_CERTIFICATE_BYTES:,}")
    return _parse(data)


@functools.lru_cache(maxsize=2048)
def _parse(data: bytes) -> Certificate:
    outer = der.sequence(data, "certificate")
    if len(outer) != 3:
        raise FormatError("not a certificate", why=f"{len(outer)} parts, expected 3")
    fields = outer[0].expect(der.SEQUENCE, "certificate body").children()
    if not fields or fields[0].tag != 0xA0 or fields[0].body != b"\x02\x01\x02":
        raise UnsupportedFormat("certificate is not version 3", why="older ones cannot say who may issue")
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
        return tuple(parse(item.raw) for item in der.series(data, "certificate bundle", MAX_CERTIFICATES))
    blocks = _PEM.findall(data)
    if not 1 <= len(blocks) <= MAX_CERTIFICATES:
        raise FormatError("PEM bundle without certificates or with too many", why=f"{len(blocks)} certificates")
    # A block with a damaged line must not vanish: every mark belongs to a block that was read.
    marks = (data.count(b"-----BEGIN"), data.count(b"-----END"), data.count(b"CERTIFICATE") / 2)
    if set(marks) != {len(blocks)}:
        raise FormatError("PEM bundle holds a block that does not read", why=f"{len(blocks)} of {max(marks):g} read")
    try:
        return tuple(parse(base64.b64decode(b"".join(block.split()), validate=True)) for block in blocks)
    except binascii.Error as err:
        raise FormatError("PEM certificate is not base64", why=str(err)) from err


def order(bundle: tuple[Certificate, ...]) -> tuple[Certificate, ...]:
    """Return a device's certificates with its own first.

    Collectors write leaf first or root first, and XML-DSig promises no order at all. Only one that is no
    authority can be the device's; where that is not one, the order given stands.
    """
    leaves = [item for item in bundle if not item.is_ca]
    if len(leaves) != 1:
        return bundle
    return (leaves[0], *(item for item in bundle if item is not leaves[0]))


def anchors(*bundles: bytes, pins: Iterable[str] = ()) -> Anchors:
    """Return anchors from certificate bundles and key pins."""
    return Anchors(tuple(item for data in bundles for item in load_bundle(data)), frozenset(pins))


def find_path(leaf: Certificate, pool: Iterable[Certificate], roots: Anchors, now: datetime | None) -> Path:
    """Return the path from `leaf` to a pinned root through `pool` (rules 1 to 5)."""
    search = _Search(roots, now)
    for item in roots.certificates:
        search.offer(item, is_carried=False)
    for item in pool:
        search.offer(item, is_carried=True)
    return search.climb((leaf,)) or search.failure


def find_chain(bundle: tuple[Certificate, ...], roots: Anchors, now: datetime | None) -> Path:
    """Return the path of a device's own chain, its certificate first: every certificate in it must have a part.

    Such a chain is one statement of its maker. A link that was changed and is not needed, because a pinned root
    stands in for it, is still a change.
    """
    path = find_path(bundle[0], bundle[1:], roots, now)
    if path.root is None:
        return path
    used = {item.raw for item in path.certificates}
    spare = next((item for item in bundle if item.raw not in used and not roots.ends(item)), None)
    if spare is None:
        return path
    name = spare.common_name()[:60] or "a certificate"
    return Path(path.certificates, f"carries {name}, which its chain does not use")


@dataclass(slots=True)
class _Search:
    """A depth-first search for a path without a problem; it keeps the failure that says most."""

    roots: Anchors
    now: datetime | None
    issuers: dict[names.Name, dict[bytes, Certificate]] = field(default_factory=dict)  # by subject, then by DER
    carried: set[bytes] = field(default_factory=set)
    edges_left: int = MAX_EDGES
    failure: Path = field(default=Path(()))
    rank: tuple[bool, int] = (False, 0)

    def offer(self, certificate: Certificate, *, is_carried: bool) -> None:
        """Add a possible issuer."""
        self.issuers.setdefault(names.canonical(certificate.subject), {})[certificate.raw] = certificate
        if is_carried:
            self.carried.add(certificate.raw)

    def climb(self, path: tuple[Certificate, ...]) -> Path | None:
        """Return a path that continues `path` and has no problem."""
        tip = path[-1]
        if self.roots.ends(tip):
            problem = _problem(path, self.now)
            if not problem:
                return Path(path)
            self._keep(Path(path, problem), reaches_root=True)
            return None
        if len(path) > MAX_PATH:
            self._keep(Path(path, f"longer than {MAX_PATH} certificates"))
            return None
        named = [item for item in self._named(tip) if item not in path]
        is_signed = False
        for issuer in named:
            if not self.edges_left:
                self._keep(Path(path, f"more than {MAX_EDGES} signatures to check"))
                return None
            self.edges_left -= 1
            if is_issued(tip, issuer):
                is_signed = True
                found = self.climb((*path, issuer))
                if found is not None:
                    return found
        if not is_signed:
            self._keep(self._dead_end(path, named))
        return None

    def _named(self, child: Certificate) -> list[Certificate]:
        """Return certificates with the issuer's name: those that may sign now first, then by the key that is named."""
        wanted = _authority_key(child)
        found = list(self.issuers.get(names.canonical(child.issuer), {}).values())

        def order(item: Certificate) -> tuple[bool, bool]:
            # what has ended or may not sign leads nowhere: it must not use up the signatures that may be checked
            return bool(_problem((item, item), self.now)), not wanted or _subject_key(item) != wanted

        return sorted(found, key=order)

    def _dead_end(self, path: tuple[Certificate, ...], named: list[Certificate]) -> Path:
        tip = path[-1]
        problem = "not signed by the issuer it names" if named else "no issuer carried"
        is_root = is_issued(tip, tip)
        if is_root:
            problem = "ends in a root that is not pinned"
        is_forged = any(item.raw in self.carried for item in named)
        is_open = not named and not is_root
        return Path(path, f"{problem}: {tip.common_name()[:60] or 'certificate'}", is_forged, is_open)

    def _keep(self, failure: Path, *, reaches_root: bool = False) -> None:
        rank = (reaches_root, len(failure.certificates))
        if rank > self.rank:
            self.failure, self.rank = failure, rank


def is_issued(child: Certificate, issuer: Certificate) -> bool:
    """Whether `issuer`'s key signed `child` and the names agree."""
    return names.same(child.issuer, issuer.subject) and _signed_by(child.raw, issuer.spki)


def forget_validated() -> None:
    """Empty the memo of validated signatures; benches measure cold appraisals with it."""
    _signed_by.cache_clear()
    _parse.cache_clear()
    names.common_name.cache_clear()
    names.canonical.cache_clear()
    keys.load.cache_clear()


@functools.lru_cache(maxsize=4096)
def _signed_by(raw: bytes, spki: bytes) -> bool:
    child = parse(raw)
    try:
        return keys.verify_x509(keys.load(spki), child.algorithm, child.signature, child.tbs)
    except FormatError:
        return False  # a key or algorithm we do not accept signs nothing


def _problem(path: tuple[Certificate, ...], now: datetime | None) -> str:
    num_below = 0  # intermediates between here and the leaf; self-issued ones do not count (RFC 5280 section 6.1.4)
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
        if item.path_length is not None and num_below > item.path_length:
            return f"{name} allows {item.path_length} certificates below it"
        num_below += not item.is_self_issued
    return ""


def _understood(oid: str) -> bool:
    return oid in _UNDERSTOOD or oid.startswith(_UNDERSTOOD_PREFIX)


def _subject_key(certificate: Certificate) -> bytes:
    extension = certificate.extensions.get(SUBJECT_KEY_ID)
    return b"" if extension is None else extension.value[2:]


def _authority_key(certificate: Certificate) -> bytes:
    """Return the key identifier of the issuer, empty if there is none. A hint only: signatures decide."""
    extension = certificate.extensions.get(AUTHORITY_KEY_ID)
    value = b"" if extension is None else extension.value
    # SEQUENCE { [0] key identifier, ... } with short lengths (RFC 5280 section 4.2.1.1)
    return value[4 : 4 + value[3]] if len(value) > 4 and value[2] == 0x80 else b""


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
            if path_length < 0:
                raise FormatError("certificate's path length is negative", why=str(path_length))
    return is_ca, path_length


def _key_usage(extensions: dict[str, Extension]) -> int | None:
    extension = extensions.get(KEY_USAGE)
    if extension is None:
        return None
    body = der.read(extension.value, "key usage").expect(der.BIT_STRING, "key usage").body
    return body[1] if len(body) > 1 else 0
