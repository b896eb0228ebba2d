"""A second reader of certificates, on `cryptography.hazmat.asn1`: an oracle for ours and its peer in `bench/`.

As lax as that library lets one be: DEFAULT is declared OPTIONAL and the serial number left unread, or certificates
that makers of TPMs hand out would not read at all.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, TypeAlias

from cryptography.hazmat import asn1
from cryptography.x509 import ObjectIdentifier
from tests.unit.certify.forge import tlv

from stannary.certify.pki import certificates, der
from stannary.certify.pki.certificates import Certificate, Extension
from stannary.errors import FormatError

Time: TypeAlias = asn1.UTCTime | asn1.GeneralizedTime


@asn1.sequence
class Attribute:
    """One part of a name."""

    kind: ObjectIdentifier
    value: asn1.TLV


@asn1.sequence
class Named:
    """A name, held by a structure: the library reads no bare list."""

    name: list[asn1.SetOf[Attribute]]


@asn1.sequence
class Extended:
    """One extension."""

    oid: ObjectIdentifier
    critical: bool | None
    value: bytes


@asn1.sequence
class Validity:
    """From when until when."""

    not_before: Time
    not_after: Time


@asn1.sequence
class Body:
    """What is signed."""

    version: Annotated[int | None, asn1.Explicit(0)]
    serial: asn1.TLV
    algorithm: asn1.TLV
    issuer: asn1.TLV
    validity: Validity
    subject: asn1.TLV
    spki: asn1.TLV
    issuer_id: Annotated[asn1.BitString | None, asn1.Implicit(1)]
    subject_id: Annotated[asn1.BitString | None, asn1.Implicit(2)]
    extensions: Annotated[list[Extended] | None, asn1.Explicit(3)]


@asn1.sequence
class Whole:
    """A certificate."""

    body: asn1.TLV
    algorithm: asn1.TLV
    signature: asn1.BitString


@asn1.sequence
class BasicConstraints:
    """Whether a key may issue, and how far below."""

    is_ca: bool | None
    path_length: int | None


def read(data: bytes) -> Certificate:
    """Read one certificate; raise FormatError for anything else."""
    try:
        outer = asn1.decode_der(Whole, data)
        body = outer.body.parse(Body)
        extensions = _extensions(body.extensions or [])
        constraints = extensions.get(certificates.BASIC_CONSTRAINTS)
        limits = None if constraints is None else asn1.decode_der(BasicConstraints, constraints.value)
        usage = extensions.get(certificates.KEY_USAGE)
        bits = None if usage is None else asn1.decode_der(asn1.BitString, usage.value).as_bytes()
        algorithm = asn1.encode_der(outer.algorithm)
        if body.version != 2 or body.serial.tag_bytes != bytes([der.INTEGER]) or not body.serial.data:
            raise FormatError("not version 3, or no serial number")
        if asn1.encode_der(body.algorithm) != algorithm or outer.signature.padding_bits():
            raise FormatError("two algorithms, or a signature of odd bits")
        if limits is not None and (limits.path_length or 0) < 0:
            raise FormatError("negative path length")
        return Certificate(
            raw=data,
            tbs=asn1.encode_der(outer.body),
            serial=int.from_bytes(body.serial.data, "big", signed=True),
            issuer=asn1.encode_der(body.issuer),
            subject=asn1.encode_der(body.subject),
            not_before=_moment(body.validity.not_before),
            not_after=_moment(body.validity.not_after),
            spki=asn1.encode_der(body.spki),
            algorithm=algorithm,
            signature=outer.signature.as_bytes(),
            extensions=extensions,
            is_ca=limits is not None and bool(limits.is_ca),
            path_length=None if limits is None else limits.path_length,
            key_usage=None if bits is None else int.from_bytes(bits[:1], "big"),
        )
    except ValueError as err:
        raise FormatError("certificate does not read", why=str(err)) from err


def read_name(data: bytes) -> list[list[Attribute]]:
    """Read a distinguished name."""
    try:
        return [part.as_list() for part in asn1.decode_der(Named, tlv(der.SEQUENCE, data)).name]
    except ValueError as err:
        raise FormatError("name does not read", why=str(err)) from err


def _extensions(listed: list[Extended]) -> dict[str, Extension]:
    found = {item.oid.dotted_string: Extension(bool(item.critical), item.value) for item in listed}
    if len(found) != len(listed):
        raise FormatError("an extension appears twice")
    return found


def _moment(value: Time) -> datetime:
    moment = value.as_datetime()
    if moment.microsecond:
        raise FormatError("a fraction of a second")
    return moment.replace(tzinfo=UTC)
