"""Canonical JSON: the JSON Canonicalization Scheme (JCS, RFC 8785), and a strict reader.

Rules (docs/receipt.md R1.1, R1.2):
1. What we sign holds objects, arrays, strings, booleans, null and integers within +-(2**53 - 1)
   (RFC 8785 section 3.2.2.3 keeps to I-JSON). Fractions travel as decimal strings, so that no two
   languages print one number in two ways: a float is refused on the way out and on the way in.
2. Object members are sorted by UTF-16 code units (section 3.2.3).
3. The reader refuses duplicate names, NaN, lone surrogates, depth over MAX_DEPTH and size over the
   caller's limit, and raises our errors only, whatever the bytes are.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn, TypeAlias, cast

from stannary.errors import FormatError, LimitExceeded

Json: TypeAlias = "bool | int | str | list[Json] | dict[str, Json] | None"

MAX_DEPTH = 32  # our deepest signed object is 11 levels; CVM Attestation v1 refuses depth 33
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024  # a receipt of 10,000 contributions is about 12 MiB
MAX_SAFE_INTEGER = 2**53 - 1  # RFC 7493 (I-JSON) section 2.2
_MAX_DIGITS = len(str(MAX_SAFE_INTEGER))


def encode(value: Json) -> bytes:
    """Return the JCS bytes of `value`.

    Raises:
        FormatError: a float, a non-string name, an integer outside I-JSON, a lone surrogate.
        LimitExceeded: nesting deeper than MAX_DEPTH.
    """
    _check(value, 0)
    # json.dumps with sort_keys sorts by code points, which differs from UTF-16 only outside the BMP;
    # _sorted puts members in UTF-16 order first and dumps keeps insertion order.
    try:
        text = json.dumps(_sorted(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode("utf-8")
    except UnicodeEncodeError as err:
        raise FormatError("cannot write canonical JSON", why="a string holds a lone surrogate") from err


def decode(data: bytes, *, max_bytes: int = MAX_DOCUMENT_BYTES, max_depth: int = MAX_DEPTH) -> Json:
    """Parse JSON bytes strictly (any white space and member order; see rule 3).

    Raises:
        LimitExceeded: more than `max_bytes` or deeper than `max_depth`.
        FormatError: anything else that is not our JSON.
    """
    return _decode(_DECODER, data, max_bytes, max_depth)


def decode_foreign(data: bytes, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> Json:
    """Parse JSON that others sign and we only read: as strict, but with numbers of every kind.

    Fractions, and integers outside I-JSON, come back as the text they are written in; nothing read so may be
    written again.
    """
    return _decode(_FOREIGN, data, max_bytes, MAX_DEPTH)


def _decode(decoder: json.JSONDecoder, data: bytes, max_bytes: int, max_depth: int) -> Json:
    if len(data) > max_bytes:
        raise LimitExceeded("JSON document too large", why=f"{len(data):,} bytes, limit {max_bytes:,}")
    _check_depth(data, max_depth)
    try:
        value = decoder.decode(data.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as err:
        raise FormatError("not JSON", why=str(err)) from err
    if b"\\u" in data:  # only an escape can smuggle in a lone surrogate; all else is checked by the hooks above
        _check(value, 0)
    return cast(Json, value)


def check_members(data: bytes) -> None:
    """Refuse JSON that another parser would read and that names a member of an object twice.

    Most parsers take the last one of two, some the first: what passed one border would say something else behind the
    next.

    Raises:
        FormatError: a doubled member, or no JSON.
    """
    try:
        _MEMBERS.decode(data.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as err:
        raise FormatError("not JSON", why=str(err)) from err


def is_canonical(value: Json, data: bytes) -> bool:
    """Return whether `data` is the canonical JSON of `value`, which `decode` read from it.

    For plain ASCII without escapes, sorting by code point is the order of RFC 8785 and one pass of the C encoder
    decides; anything else takes the long way.
    """
    if data.isascii() and b"\\u" not in data:
        return _ASCII_ENCODER.encode(value).encode() == data
    return encode(value) == data


def decode_object(data: bytes, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> dict[str, Json]:
    """Parse JSON bytes whose top level must be an object."""
    value = decode(data, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise FormatError("not a JSON object", why=f"top level is {type(value).__name__}")
    return value


def _check(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise LimitExceeded("JSON nested too deeply", why=f"more than {MAX_DEPTH} levels")
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int):
        if abs(value) > MAX_SAFE_INTEGER:
            raise FormatError("integer outside I-JSON", why=f"{value}, limit +-(2**53 - 1)")
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise FormatError("JSON member name is not a string", why=repr(name))
            _check_text(name)
            _check(item, depth + 1)
    else:
        raise FormatError("value has no canonical JSON", why=f"{type(value).__name__}; write fractions as strings")


def _check_text(text: str) -> None:
    if not text.isascii() and any(0xD800 <= ord(char) <= 0xDFFF for char in text):
        raise FormatError("not canonical JSON", why="a string holds a lone surrogate")


def _sorted(value: Json) -> Json:
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return {name: _sorted(value[name]) for name in names}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value


# One that never ends is matched to the end: were it no match, each quote in it would be tried, in quadratic time.
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_PAIR = re.compile(rb"\[\]|\{\}")
_CLOSING = re.compile(rb"[\]}]")


def outside_strings(data: bytes, kept: bytes) -> bytes:
    """Return those bytes of JSON that are in `kept` and in no string, to be counted before anything is parsed.

    For what no JSON is, this holds as far as a parser would read it.
    """
    if b"\\" not in data:  # every quote begins or ends a string, so a pair of neighbours hides and shows nothing
        data = data.translate(None, _all_but(kept + b'"')).replace(b'""', b"")
    return _STRINGS.sub(b"", data).translate(None, _all_but(kept))


def _all_but(kept: bytes) -> bytes:
    return bytes(byte for byte in range(256) if byte not in kept)


def _check_depth(data: bytes, max_depth: int) -> None:
    """Bound nesting before json.loads recurses.

    Strings and everything but brackets are dropped; each pass then removes the innermost pairs, so that what has a
    pair left after `max_depth` passes is nested deeper. What never closes is bounded by its leading brackets;
    json.loads refuses it at the first that does not match. No step is a loop over bytes in Python.
    """
    if data.count(b"[") + data.count(b"{") <= max_depth:
        return
    brackets = outside_strings(data, b"[]{}")
    for _ in range(max_depth):
        if not brackets:
            return
        brackets = _PAIR.sub(b"", brackets)
    mismatch = _CLOSING.search(brackets)
    unclosed = mismatch.start() if mismatch else len(brackets)
    if _PAIR.search(brackets) or unclosed > max_depth:
        raise LimitExceeded("JSON nested too deeply", why=f"more than {max_depth} levels")


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise FormatError("duplicate JSON member", why=repr(name))
            seen.add(name)
    return members


def _safe_integer(text: str) -> int:
    if len(text) > _MAX_DIGITS + 1 or text == "-0":
        raise FormatError("not a canonical integer", why=f"{text:.40}")
    number = int(text)
    if abs(number) > MAX_SAFE_INTEGER:
        raise FormatError("integer outside I-JSON", why=f"{text}, limit +-(2**53 - 1)")
    return number


def _any_integer(text: str) -> int | str:
    if len(text) <= _MAX_DIGITS and abs(int(text)) <= MAX_SAFE_INTEGER:
        return int(text)
    return text


def _refuse_float(text: str) -> NoReturn:
    raise FormatError("fraction in signed JSON", why=f"{text:.40}; fractions travel as decimal strings")


# built once: json.loads and json.dumps with options build theirs on every call
_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_members,
    parse_float=_refuse_float,
    parse_constant=_refuse_float,
    parse_int=_safe_integer,
)
_FOREIGN = json.JSONDecoder(
    object_pairs_hook=_unique_members,
    parse_float=str,
    parse_constant=_refuse_float,
    parse_int=_any_integer,
)
_MEMBERS = json.JSONDecoder(object_pairs_hook=_unique_members, parse_int=float)  # float: takes digits without end
_ASCII_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False, ensure_ascii=False)
