"""SHA-256 digests in the one spelling used everywhere: `sha256:<64 hex digits>` (docs/receipt.md R1.4).

Raw 32-byte values appear only inside trees and hash chains; at every border (JSON, file names,
HTTP paths) the spelled form is used, so that a digest can never be mistaken for another string.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NewType

from stannary.errors import FormatError

Digest = NewType("Digest", str)

PREFIX = "sha256:"
SIZE_BYTES = 32
HEX_PATTERN = "[0-9a-f]{64}"
PATTERN = PREFIX + HEX_PATTERN
_PATTERN, _HEX = re.compile(PATTERN), re.compile(HEX_PATTERN)


def digest(data: bytes) -> Digest:
    """Return the digest of `data`."""
    return Digest(PREFIX + hashlib.sha256(data).hexdigest())


def from_raw(raw: bytes) -> Digest:
    """Spell a raw 32-byte hash."""
    if len(raw) != SIZE_BYTES:
        raise FormatError("not a SHA-256 value", why=f"{len(raw)} bytes, expected {SIZE_BYTES}")
    return Digest(PREFIX + raw.hex())


def parse(text: object) -> Digest:
    """Return `text` as a digest; raise FormatError for anything else, upper case included."""
    if not isinstance(text, str) or _PATTERN.fullmatch(text) is None:
        raise FormatError("not a digest", why=f"{text!r:.80}, expected sha256:<64 hex digits>")
    return Digest(text)


def raw(value: Digest) -> bytes:
    """Return the 32 bytes behind a spelled digest."""
    return bytes.fromhex(parse(value)[len(PREFIX) :])


def unhex(text: str) -> bytes:
    """Return the 32 bytes that 64 lower-case hex digits spell; raise FormatError for any other spelling (R1.4)."""
    if _HEX.fullmatch(text) is None:
        raise FormatError("not 32 bytes of lower-case hex", why=f"{text!r:.80}")
    return bytes.fromhex(text)


def hash_parts(label: str, *parts: bytes) -> bytes:
    """Hash length-prefixed `parts` under a domain `label`, so that no two part lists collide (R1.5).

    Returns the raw 32 bytes of SHA-256(len(label) ‖ label ‖ len(p1) ‖ p1 ‖ ...), lengths as
    8-byte big-endian integers.
    """
    return _hashed(label, parts).digest()


def hash_before(label: str, *parts: bytes, num_last_bytes: int) -> hashlib._Hash:
    """Return the hash of `hash_parts` up to a last part of this length, whose bytes are to follow."""
    state = _hashed(label, parts)
    state.update(num_last_bytes.to_bytes(8, "big"))
    return state


def _hashed(label: str, parts: Iterable[bytes]) -> hashlib._Hash:
    state = hashlib.sha256()
    for part in (label.encode("ascii"), *parts):
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state
