"""Distinguished names of certificates (RFC 5280 section 7.1).

Two authorities may write one name in two string types or two cases: names are compared by what they say,
types we do not read by their bytes. Names only find an issuer; its signature decides.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import TypeAlias

from stannary.certify.pki import der
from stannary.errors import FormatError

Name: TypeAlias = tuple[frozenset[tuple[bytes, str | bytes]], ...]

_COMMON_NAME = b"\x06\x03\x55\x04\x03"
_CODECS = {
    0x0C: "utf-8",
    0x12: "ascii",
    0x13: "ascii",
    0x14: "latin-1",  # T61String, as everybody wrote it
    0x16: "ascii",
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}


def same(one: bytes, other: bytes) -> bool:
    """Whether two DER names name one party."""
    return one == other or canonical(one) == canonical(other)


@functools.lru_cache(maxsize=2048)
def canonical(name: bytes) -> Name:
    """Return a DER name in the form that comparison needs; one that does not read compares by its bytes."""
    try:
        return tuple(
            frozenset(_pair(pair) for pair in group.expect(der.SET, "name part").children())
            for group in der.sequence(name, "name")
        )
    except FormatError:
        return (frozenset({(b"", name)}),)


@functools.lru_cache(maxsize=1024)
def common_name(name: bytes) -> str:
    """Return the last common name, empty if there is none."""
    found = ""
    for group in der.sequence(name, "name"):
        for pair in group.children():
            fields = pair.children()
            if len(fields) == 2 and fields[0].raw == _COMMON_NAME:
                found = fields[1].body.decode("utf-8", errors="replace")
    return found


def _pair(pair: der.Element) -> tuple[bytes, str | bytes]:
    fields = pair.expect(der.SEQUENCE, "name attribute").children()
    if len(fields) != 2:
        raise FormatError("name attribute is not a type and a value")
    kind, value = fields
    codec = _CODECS.get(value.tag)
    if codec is None:
        return kind.raw, value.raw
    try:
        text = value.body.decode(codec)
    except UnicodeDecodeError:
        return kind.raw, value.raw
    return kind.raw, " ".join(unicodedata.normalize("NFKC", text).casefold().split())
