"""A reader of the Protocol Buffers wire format, as far as attestations of other tools need it.

Fields come back by number, in order, unread by type: a length-delimited field as bytes, a varint as an
integer. Groups are refused (nobody writes them any more), everything is bounded by the input's length.
"""

from __future__ import annotations

from stannary.certify.evidence.cursor import Cursor
from stannary.errors import FormatError, LimitExceeded

Fields = dict[int, list[int | bytes]]

MAX_FIELDS = 4096
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read(data: bytes, what: str) -> Fields:
    """Read one message."""
    cursor = Cursor(data, what)
    found: Fields = {}
    count = 0
    while cursor.remaining:
        count += 1
        if count > MAX_FIELDS:
            raise LimitExceeded(f"{what} has too many fields", why=f"more than {MAX_FIELDS:,}")
        key = _varint(cursor)
        number, kind = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise FormatError(f"{what} has a field of no number", why=str(number))
        found.setdefault(number, []).append(_value(cursor, kind, what))
    return found


def octets(fields: Fields, number: int) -> list[bytes]:
    """Return every length-delimited value of a field."""
    values = fields.get(number, [])
    if not all(isinstance(item, bytes) for item in values):
        raise FormatError("protobuf field has another type", why=f"field {number}")
    return [item for item in values if isinstance(item, bytes)]


def single(fields: Fields, number: int) -> bytes:
    """Return a length-delimited field, empty if absent. The last one counts, as the format says."""
    return (octets(fields, number) or [b""])[-1]


def integer(fields: Fields, number: int) -> int:
    """Return a varint field, zero if absent."""
    value = (fields.get(number) or [0])[-1]
    if not isinstance(value, int):
        raise FormatError("protobuf field has another type", why=f"field {number}")
    return value


def _value(cursor: Cursor, kind: int, what: str) -> int | bytes:
    if kind == _VARINT:
        return _varint(cursor)
    if kind == _BYTES:
        return cursor.take(_varint(cursor))
    if kind in {_FIXED32, _FIXED64}:
        return cursor.take(4 if kind == _FIXED32 else 8)
    raise FormatError(f"{what} has a field of a wire type nobody writes", why=str(kind))


def _varint(cursor: Cursor) -> int:
    value = 0
    for shift in range(0, 70, 7):
        octet = cursor.little(1)
        value |= (octet & 0x7F) << shift
        if not octet & 0x80:
            return value & (1 << 64) - 1
    raise FormatError("protobuf number is too long")
