"""A strict reader of the CBOR that Nitro documents use (RFC 8949).

No floats, no unknown simple values, unique map keys that are text or integers, nesting at most
MAX_DEPTH, everything bounded by the input's own length. A general library accepts far more than a
signed document should hold. Integers longer than they need be, and keys in any order, are read: what is
signed is the bytes, and each has one value.

Lengths are definite, but for maps and arrays where the caller allows it: AWS writes the signed payload
as an indefinite map since December 2025 (section 3.2.2). Strings in chunks (section 3.2.3) are never read: one
value could then be written in as many ways as it has cuts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

from stannary.certify.evidence.cursor import Cursor
from stannary.errors import FormatError, LimitExceeded, UnsupportedFormat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Cbor: TypeAlias = "int | bytes | str | bool | list[Cbor] | dict[int | str, Cbor] | Tagged | None"

MAX_DEPTH = 16
MAX_ITEMS = 4096
_INDEFINITE = 31
_BREAK = b"\xff"
NULL = b"\xf6"  # the encoded item


class Tagged:
    """A tagged item."""

    __slots__ = ("tag", "value")

    def __init__(self, tag: int, value: Cbor) -> None:
        self.tag = tag
        self.value = value


def read(data: bytes, what: str, *, indefinite: bool = False) -> Cbor:
    """Read exactly one item; `indefinite` admits maps and arrays that end with a break."""
    cursor = Cursor(data, what)
    value = _Reader(cursor, indefinite).item(0)
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


@dataclass(frozen=True, slots=True)
class _Reader:
    cursor: Cursor
    allows_indefinite: bool

    def item(self, depth: int) -> Cbor:
        """Read one item."""
        if depth > MAX_DEPTH:
            raise LimitExceeded("CBOR nested too deeply", why=f"more than {MAX_DEPTH} levels")
        cursor = self.cursor
        first = cursor.big(1)
        major, minor = first >> 5, first & 0x1F
        if major == 7:
            return _simple(minor)
        if major in {4, 5} and minor == _INDEFINITE and self.allows_indefinite:
            return self.array(self.until_break(), depth) if major == 4 else self.map(self.until_break(), depth)
        value = minor if minor < 24 else cursor.big(_length_bytes(minor))
        if major < 2:
            return value if major == 0 else -1 - value
        if major < 4:
            return cursor.take(value) if major == 2 else _text(cursor.take(value))
        if major == 6:
            return Tagged(value, self.item(depth + 1))
        if value > MAX_ITEMS or value > cursor.remaining:
            raise FormatError("CBOR announces more items than it holds", why=str(value))
        return self.array(range(value), depth) if major == 4 else self.map(range(value), depth)

    def until_break(self) -> Iterator[int]:
        """Count items until the break that ends them, and read it."""
        for number in count():
            if self.cursor.peek() == _BREAK:
                self.cursor.take(1)
                return
            if number == MAX_ITEMS:
                raise LimitExceeded("CBOR holds too many items", why=f"limit {MAX_ITEMS:,}")
            yield number

    def array(self, numbers: Iterable[int], depth: int) -> list[Cbor]:
        """Read the items of an array."""
        return [self.item(depth + 1) for _ in numbers]

    def map(self, numbers: Iterable[int], depth: int) -> dict[int | str, Cbor]:
        """Read pairs; a break in a value's place is no item, so an odd number of items does not read."""
        members: dict[int | str, Cbor] = {}
        for _ in numbers:
            key = self.item(depth + 1)
            if isinstance(key, bool) or not isinstance(key, int | str):
                raise FormatError("CBOR map key is neither text nor an integer", why=type(key).__name__)
            if key in members:
                raise FormatError("CBOR map key appears twice", why=repr(key)[:60])
            members[key] = self.item(depth + 1)
        return members


def _length_bytes(minor: int) -> int:
    if not 24 <= minor <= 27:
        raise UnsupportedFormat("CBOR indefinite or reserved length", why=str(minor))
    return 1 << (minor - 24)


def _simple(minor: int) -> bool | None:
    if minor == _INDEFINITE:
        raise FormatError("CBOR break stands where an item belongs")
    values = {20: False, 21: True, 22: None}
    if minor not in values:
        raise UnsupportedFormat("CBOR simple value or float", why=str(minor))
    return values[minor]


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as err:
        raise FormatError("CBOR text is not UTF-8", why=str(err)) from err
