"""The one keyed anchor: what every piece of evidence of a machine must bind.

    anchor = SHA-384(len(label) ‖ label ‖ len(nonce) ‖ nonce ‖ len(kind) ‖ kind ‖ len(key) ‖ key)

Lengths are 8-byte big-endian integers. `key` is the hash of the key that will receive secrets, so
that evidence of one machine cannot vouch for the key of another (the cuckoo's relay). SHA-384
because 48 bytes fit the 50-byte `extraData` of TPMs whose largest hash is SHA-384, and because 64
bytes of report data hold it with zeros behind.

Devices that take 32-byte nonces get one derived from the anchor and their own name, so GPU
evidence carries the key too, and the report of GPU 1 is no answer for GPU 2.
The nonce comes from the verifier's challenge and is never read from the evidence.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from stannary.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable
    from hashlib import _Hash as Hash

LABEL = b"stannary-anchor-v1"
KEY_KIND_RAW = b"raw"
NONCE_BYTES = 32
KEY_HASH_BYTES = 32
REPORT_DATA_BYTES = 64  # SNP REPORT_DATA, TDX REPORTDATA
_DEVICE_LABEL = b"stannary-device-v1"


def anchor(nonce: bytes, key_hash: bytes, *, kind: bytes = KEY_KIND_RAW) -> bytes:
    """Return the 48-byte anchor of a verifier's nonce and a SHA-256 key hash."""
    if len(nonce) != NONCE_BYTES:
        raise FormatError("not a challenge nonce", why=f"{len(nonce)} bytes, expected {NONCE_BYTES}")
    if len(key_hash) != KEY_HASH_BYTES:
        raise FormatError("not a key hash", why=f"{len(key_hash)} bytes, expected {KEY_HASH_BYTES}")
    return _hash(hashlib.sha384, LABEL, nonce, kind, key_hash)


def device_nonce(anchor: bytes, ueid: str) -> bytes:
    """Return the 32-byte nonce a device named `ueid` must sign."""
    return _hash(hashlib.sha256, _DEVICE_LABEL, anchor, ueid.encode("utf-8"))


def report_data(anchor: bytes) -> bytes:
    """Return the anchor in a 64-byte field, zeros behind."""
    if len(anchor) > REPORT_DATA_BYTES:
        raise FormatError("anchor does not fit report data", why=f"{len(anchor)} bytes")
    return anchor.ljust(REPORT_DATA_BYTES, b"\0")


def _hash(algorithm: Callable[..., Hash], *parts: bytes) -> bytes:
    state = algorithm()
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.digest()
