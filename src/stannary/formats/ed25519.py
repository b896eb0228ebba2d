"""Ed25519 public keys that may stand for somebody: nodes, buyers, markets' logs, witnesses, verifiers.

Rules (docs/receipt.md R1.9):
1. Under a key of small order one signature holds for many messages, and anybody can make it: such a key proves
   nothing about its holder. All eight points are refused (RFC 8032 leaves it open; the list is that of libsodium's
   `ge25519_has_small_order`).
2. A key has one spelling: a y coordinate of p or more is refused, else one holder had two ids.
OpenSSL, which does the arithmetic, checks neither.
"""

from __future__ import annotations

import functools

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from stannary.errors import FormatError

PUBLIC_KEY_BYTES = 32
PRIME = 2**255 - 19
ORDER_8_Y = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
SMALL_ORDER_Y = frozenset({0, 1, PRIME - 1, ORDER_8_Y, PRIME - ORDER_8_Y})  # either sign of x
_SIGN_BIT = 1 << 255


def check(raw: bytes) -> bytes:
    """Return the bytes of a key that may stand for somebody.

    Raises:
        FormatError: another length, a second spelling, a point of small order.
    """
    if len(raw) != PUBLIC_KEY_BYTES:
        raise FormatError("not an Ed25519 public key", why=f"{len(raw)} bytes")
    y = int.from_bytes(raw, "little") & ~_SIGN_BIT
    if y >= PRIME:
        raise FormatError("not an Ed25519 public key", why=f"{raw.hex()} is not the one spelling of a point")
    if y in SMALL_ORDER_Y:
        raise FormatError("this Ed25519 key proves nothing", why=f"{raw.hex()} is a point of small order")
    return raw


@functools.lru_cache(maxsize=4096)  # a market checks many statements of few keys; loading one is a fifth of a check
def load(raw: bytes) -> Ed25519PublicKey:
    """Return a checked key, ready to verify.

    Raises:
        FormatError: as `check`.
    """
    return Ed25519PublicKey.from_public_bytes(check(raw))
