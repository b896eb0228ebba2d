"""Which rows a verifier opens.

In a live exchange the verifier draws after it holds the roots: 66 rows leave a prover who fakes one row
in ten a chance of 0.9**66 < 1e-3; MIN_OPENED leaves 2.2e-4.

In a file nobody can draw afterwards, so the rows follow from the roots (Fiat-Shamir). A cheater could
then try roots until the draw suits him. FILE_OPENED rows leave that chance below 1e-3 even after 2**40
tries: 0.9**330 * 2**40 = 8.8e-4.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_OPENED = 80
FILE_OPENED = 330
GRINDING_BITS = 40


def draw_rows(seed: bytes, roots: Sequence[bytes], n: int, count: int, *, salt: bytes = b"") -> list[tuple[int, int]]:
    """Return `count` (round, row) pairs; `salt` is the verifier's own randomness in a live exchange."""
    key = hashlib.sha256(b"stannary-open-v1" + seed + len(salt).to_bytes(8, "big") + salt + b"".join(roots)).digest()
    stream = hashlib.shake_256(key).digest(16 * count)
    found = []
    for index in range(count):
        # 64-bit words modulo small numbers: the bias is below 2**-45.
        round_word, row_word = stream[16 * index : 16 * index + 8], stream[16 * index + 8 : 16 * index + 16]
        found.append((int.from_bytes(round_word, "big") % len(roots), int.from_bytes(row_word, "big") % n))
    return found


def escape_probability(faked: float, opened: int, *, grinding_bits: int = 0) -> float:
    """Return the chance that a prover who fakes a fraction of the rows is not caught."""
    return min(1.0, (1 - faked) ** opened * math.ldexp(1.0, grinding_bits))
