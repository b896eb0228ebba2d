"""A strict reader of DER (ITU-T X.690), the part X.509, CRLs and OCSP need.

Why not the certificate parser of a library: AMD's endorsement keys carry serial number 0 and
NVIDIA's carry names no profile allows; libraries warn about both today and will raise tomorrow.
Evidence must not change its outcome with a library release. Keys and signatures stay with
`cryptography`; why its generic reader of ASN.1 does not take this one's place is in docs/adr/0010-own-der-reader.md.

Rules: definite lengths in their shortest form (section 10.1), low tag numbers, no trailing bytes
inside a structure. Anything else raises FormatError. Nothing recurses: a level is read when its reader asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from stannary.errors import FormatError, LimitExceeded

MAX_DOCUMENT_BYTES = 1 << 20  # Intel's largest PCK CRL is below 64 KiB, OCSP answers below 8 KiB
MAX_CHILDREN = 20_000  # revoked entries of one CRL

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OID = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
ENUMERATED, UTF8_STRING, PRINTABLE_STRING, IA5_STRING = 0x0A, 0x0C, 0x13, 0x16
UTC_TIME, GENERALIZED_TIME, SEQUENCE, SET = 0x17, 0x18, 0x30, 0x31


@dataclass(frozen=True, slots=True)
class Element:
    """One DER element: identifier octet, contents, and the whole encoding."""

    tag: int
    body: bytes
    raw: bytes

    def children(self) -> list[Element]:
        """Return the elements inside a constructed element."""
        items: list[Element] = []
        offset = 0
        while offset < len(self.body):
            item, offset = _read(self.body, offset)
            items.append(item)
            if len(items) > MAX_CHILDREN:
                raise LimitExceeded("DER structure too long", why=f"more than {MAX_CHILDREN:,} elements")
        return items

    def expect(self, tag: int, what: str) -> Element:
        """Return self if the tag is `tag`."""
        if self.tag != tag:
            raise FormatError(f"{what} has another DER type", why=f"tag {self.tag:#04x}, expected {tag:#04x}")
        return self

    def integer(self, what: str) -> int:
        """Read an INTEGER or ENUMERATED."""
        if self.tag not in {INTEGER, ENUMERATED} or not self.body:
            raise FormatError(f"{what} is not a DER integer", why=f"tag {self.tag:#04x}")
        return int.from_bytes(self.body, "big", signed=True)

    def oid(self, what: str) -> str:
        """Read an OBJECT IDENTIFIER as dotted decimal."""
        return _dotted(self.expect(OID, what).body, what)

    def bits(self, what: str) -> bytes:
        """Read a BIT STRING of whole octets."""
        body = self.expect(BIT_STRING, what).body
        if not body or body[0] != 0:
            raise FormatError(f"{what} is not a whole number of octets")
        return body[1:]

    def time(self, what: str) -> datetime:
        """Read a UTCTime or GeneralizedTime (RFC 5280 section 4.1.2.5: seconds, Z)."""
        text = self.body.decode("ascii", errors="replace")
        if self.tag == UTC_TIME and len(text) == 13:
            # Two-digit years: 50-99 are 19xx (RFC 5280 section 4.1.2.5.1).
            text = ("19" if text[:2] >= "50" else "20") + text
        elif self.tag != GENERALIZED_TIME or len(text) != 15:
            raise FormatError(f"{what} is not a certificate time", why=repr(text[:40]))
        try:
            return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
        except ValueError as err:
            raise FormatError(f"{what} is not a certificate time", why=repr(text[:40])) from err


def read(data: bytes, what: str) -> Element:
    """Read exactly one element."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise LimitExceeded(f"{what} too large", why=f"{len(data):,} bytes, limit {MAX_DOCUMENT_BYTES:,}")
    element, end = _read(data, 0)
    if end != len(data):
        raise FormatError(f"{what} has trailing bytes", why=f"{len(data) - end} after the DER structure")
    return element


def first(data: bytes) -> bytes:
    """Return the encoding of the first element; what follows it is the caller's to judge."""
    return _read(data, 0)[0].raw


def series(data: bytes, what: str, max_elements: int) -> list[Element]:
    """Read one SEQUENCE after another to the end of `data`; there must be at least one."""
    found: list[Element] = []
    offset = 0
    while offset < len(data) or not found:
        if len(found) >= max_elements:
            raise LimitExceeded(f"{what} too long", why=f"more than {max_elements} elements")
        element, offset = _read(data, offset)
        found.append(element.expect(SEQUENCE, what))
    return found


def sequence(data: bytes, what: str) -> list[Element]:
    """Read exactly one SEQUENCE and return its elements."""
    return read(data, what).expect(SEQUENCE, what).children()


def _read(data: bytes, offset: int) -> tuple[Element, int]:
    if offset + 2 > len(data):
        raise FormatError("DER ends inside a header")
    tag, first = data[offset], data[offset + 1]
    if tag & 0x1F == 0x1F:
        raise FormatError("DER tag number above 30", why="not used by X.509")
    start, length = offset + 2, first
    if first & 0x80:
        num_octets = first & 0x7F
        if not 1 <= num_octets <= 4 or start + num_octets > len(data):
            raise FormatError("DER length is indefinite or too long", why=f"{num_octets} length octets")
        length = int.from_bytes(data[start : start + num_octets], "big")
        if length < 0x80 or length >> (8 * (num_octets - 1)) == 0:
            raise FormatError("DER length is not in its shortest form")
        start += num_octets
    end = start + length
    if end > len(data):
        raise FormatError("DER ends inside an element", why=f"{length:,} bytes announced, {len(data) - start:,} left")
    return Element(tag, data[start:end], data[offset:end]), end


def _dotted(body: bytes, what: str) -> str:
    if not body or body[-1] & 0x80 or len(body) > 64:
        raise FormatError(f"{what} is not an object identifier")
    arcs: list[int] = []
    value = 0
    for octet in body:
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))
