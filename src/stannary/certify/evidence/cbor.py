"""A strict reader of the CBOR that Nitro documents use (RFC 8949, deterministic core).

Definite lengths only, no floats, no unknown simple values, unique map keys that are text or
integers, nesting at most MAX_DEPTH, everything bounded by the input's own length. A general
library accepts far more than a signed document should hold.
"""

from __future__ import annotations

from typing import TypeAlias

from stannary.certify.evidence.cursor import Cursor
from stannary.errors import FormatError, LimitExceeded, UnsupportedFormat

Cbor: TypeAlias = "int | bytes | str | bool | list[Cbor] | dict[int | str, Cbor] | Tagged | None"

MAX_DEPTH = 16
MAX_ITEMS = 4096
NULL = b"\xf6"  # the encoded item


class Tagged:
    """A tagged item."""

    __slots__ = ("tag", "value")

    def __init__(self, tag: int, value: Cbor) -> None:
        self.tag = tag
        self.value = value


def read(data: bytes, what: str) -> Cbor:
    """Read exactly one item."""
    cursor = Cursor(data, what)
    value = _item(cursor, 0)
    cursor.finish()
    return value


def encode_bytes(data: bytes) -> bytes:
    """Write a byte string, as COSE's Sig_structure needs it (RFC 9052 section 4.4)."""
    return _head(2, len(data)) + data


def encode_text(text: str) -> bytes:
    """Write a text string."""
    data = text.encode("utf-8")
    return _head(3, len(data)) + data


def encode_map(members: dict[str, bytes]) -> bytes:
    """Write a map of text keys to items that are encoded already, in the order given."""
    return _head(5, len(members)) + b"".join(encode_text(name) + item for name, item in members.items())


def _head(major: int, value: int) -> bytes:
    for size, code in ((1, 24), (2, 25), (4, 26), (8, 27)):
        if value < 24:
            return bytes([major << 5 | value])
        if value < 1 << 8 * size:
            return bytes([major << 5 | code]) + value.to_bytes(size, "big")
    raise LimitExceeded("CBOR length too large", why=str(value))


def _item(cursor: Cursor, depth: int) -> Cbor:
    if depth > MAX_DEPTH:
        raise LimitExceeded("CBOR nested too deeply", why=f"more than {MAX_DEPTH} levels")
    first = cursor.big(1)
    major, minor = first >> 5, first & 0x1F
    if major == 7:
        return _simple(minor)
    value = minor if minor < 24 else cursor.big(_length_bytes(minor))
    if major < 2:
        return value if major == 0 else -1 - value
    if major < 4:
        return cursor.take(value) if major == 2 else _text(cursor.take(value))
    if major == 6:
        return Tagged(value, _item(cursor, depth + 1))
    if value > MAX_ITEMS or value > cursor.remaining:
        raise FormatError("CBOR announces more items than it holds", why=str(value))
    return [_item(cursor, depth + 1) for _ in range(value)] if major == 4 else _map(cursor, value, depth)


def _length_bytes(minor: int) -> int:
    if not 24 <= minor <= 27:
        raise UnsupportedFormat("CBOR indefinite or reserved length", why=str(minor))
    return 1 << (minor - 24)


def _simple(minor: int) -> bool | None:
    values = {20: False, 21: True, 22: None}
    if minor not in values:
        raise UnsupportedFormat("CBOR simple value or float", why=str(minor))
    return values[minor]


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as err:
        raise FormatError("CBOR text is not UTF-8", why=str(err)) from err


def _map(cursor: Cursor, count: int, depth: int) -> dict[int | str, Cbor]:
    members: dict[int | str, Cbor] = {}
    for _ in range(count):
        key = _item(cursor, depth + 1)
        if isinstance(key, bool) or not isinstance(key, int | str):
            raise FormatError("CBOR map key is neither text nor an integer", why=type(key).__name__)
        if key in members:
            raise FormatError("CBOR map key appears twice", why=repr(key)[:60])
        members[key] = _item(cursor, depth + 1)
    return members
