"""The buyer's beacon: a hash chain whose tip is signed in the job and whose values are revealed one by one.

    value(i) = SHA-256 applied (length - 1 - i) times to the seed,   i = 0 .. length - 1
    SHA-256(value(0)) = tip,   SHA-256(value(i)) = value(i - 1)

Rules (docs/receipt.md R8.1, R8.2):
1. Values come in order, and each proves itself by hashing to its predecessor: the buyer chose all of
   them before he saw any commitment, so he cannot choose what is audited either.
2. The randomness of a draw is H(value, checkpoint): the market could not know the value before it
   logged the commitments, the buyer could not choose the checkpoint.

Keeping the seed is the broker's business (broker/), drawing is rules/draw.py.
"""

from __future__ import annotations

import hashlib

from stannary.errors import FormatError, Refuted
from stannary.formats import digest

LENGTH = 4096  # a few reveals per round; long jobs take a longer chain (rules/shape.py)
MAX_LENGTH = 65_536  # a verifier hashes at most this often
SEED_BYTES = 32


def tip(seed: bytes, length: int) -> str:
    """Return the hex tip of the chain, signed in the job (R8.1)."""
    return _hash(_checked(seed, length), length).hex()


def value(seed: bytes, length: int, index: int) -> str:
    """Return the `index`-th value in hex (R8.1)."""
    if not 0 <= index < length:
        raise FormatError("beacon index outside the chain", why=f"{index}, the chain has {length} values")
    return _hash(_checked(seed, length), length - 1 - index).hex()


def check(previous: str, revealed: str) -> None:
    """Check that `revealed` hashes to its predecessor (the tip for index 0); both hex (R8.2).

    Raises:
        FormatError: not 32 bytes of lower-case hex.
        Refuted: another value.
    """
    if hashlib.sha256(digest.unhex(revealed)).digest() != digest.unhex(previous):
        raise Refuted(
            "beacon value does not belong to the chain", why=f"{revealed[:16]}... does not hash to {previous[:16]}..."
        )


def _hash(data: bytes, times: int) -> bytes:
    for _ in range(times):
        data = hashlib.sha256(data).digest()
    return data


def _checked(seed: bytes, length: int) -> bytes:
    if len(seed) != SEED_BYTES or not 1 <= length <= MAX_LENGTH:
        raise FormatError("not a beacon chain", why=f"seed of {len(seed)} bytes, length {length}")
    return seed
