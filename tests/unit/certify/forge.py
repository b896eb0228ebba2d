"""Certificates written octet by octet, so that a test can make what no library agrees to make."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stannary.certify.pki import certificates
from stannary.certify.pki.certificates import Certificate

UTF8, PRINTABLE, BMP = 0x0C, 0x13, 0x1E
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
CA_TRUE = bytes.fromhex("30030101ff")


def tlv(tag: int, *parts: bytes) -> bytes:
    """One DER element."""
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    size = (len(body).bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + len(body).to_bytes(size, "big") + body


def integer(value: int) -> bytes:
    """A DER INTEGER, negative ones included."""
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def name(text: str, kind: int = UTF8) -> bytes:
    """A name of one common name in a string type of choice."""
    value = text.encode("utf-16-be" if kind == BMP else "utf-8")
    return tlv(0x30, tlv(0x31, tlv(0x30, b"\x06\x03\x55\x04\x03", tlv(kind, value))))


def oid(dotted: str) -> bytes:
    """A DER OBJECT IDENTIFIER."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    body = bytes([40 * first + second])
    for arc in rest:
        octets = [arc & 0x7F]
        while arc := arc >> 7:
            octets.append(0x80 | arc & 0x7F)
        body += bytes(reversed(octets))
    return tlv(0x06, body)


def extension(kind: str, value: bytes, *, critical: bool = False) -> bytes:
    """One extension."""
    return tlv(0x30, oid(kind), b"\x01\x01\xff" if critical else b"", tlv(0x04, value))


def constraints(path_length: int | None = None) -> bytes:
    """Basic constraints of an authority."""
    limit = b"" if path_length is None else integer(path_length)
    return extension(certificates.BASIC_CONSTRAINTS, tlv(0x30, b"\x01\x01\xff", limit), critical=True)


def key_usage(octet: int) -> bytes:
    """Key usage of one octet."""
    return extension(certificates.KEY_USAGE, tlv(0x03, bytes([0, octet])), critical=True)


AUTHORITY = (constraints(),)


@dataclass
class Party:
    """A key that can sign certificates under a name."""

    text: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    kind: int = UTF8

    @property
    def spki(self) -> bytes:
        """The key in DER."""
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def certify(  # every field a test may want to bend
        self,
        subject: Party,
        *extensions: bytes,
        serial: bytes | int = 1,
        start: bytes = tlv(0x17, b"260101000000Z"),
        end: bytes = tlv(0x18, b"99991231235959Z"),
        version: bytes = b"\xa0\x03\x02\x01\x02",
        issuer: bytes | None = None,
        inner: bytes = ECDSA_SHA256,
        spki: bytes | None = None,
    ) -> bytes:
        """Sign a certificate and return its DER."""
        body = tlv(
            0x30,
            version,
            serial if isinstance(serial, bytes) else integer(serial),
            inner,
            issuer or name(self.text, self.kind),
            tlv(0x30, start, end),
            name(subject.text, subject.kind),
            spki or subject.spki,
            tlv(0xA3, tlv(0x30, *extensions)) if extensions else b"",
        )
        signature = self.key.sign(body, ec.ECDSA(hashes.SHA256()))
        return tlv(0x30, body, ECDSA_SHA256, tlv(0x03, b"\0", signature))


def parsed(data: bytes) -> Certificate:
    """Read a certificate made here."""
    return certificates.parse(data)
