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


def draw_rows(
    anchor: bytes, chains: Sequence[Sequence[bytes]], n: int, count: int, *, salt: bytes = b""
) -> list[tuple[int, int, int]]:
    """Return `count` (chain, round, row) triples over all chains' roots.

    `salt` is the verifier's own randomness in a live exchange. Rounds are drawn, not chains: a device
    that did more work is opened more often.
    """
    state = hashlib.sha256(b"stannary-open-v1" + len(anchor).to_bytes(8, "big") + anchor)
    state.update(len(salt).to_bytes(8, "big") + salt)
    places = []
    for index, roots in enumerate(chains):
        state.update(len(roots).to_bytes(8, "big") + b"".join(roots))
        places += [(index, number) for number in range(len(roots))]
    stream = hashlib.shake_256(state.digest()).digest(16 * count)
    found = []
    for index in range(count):
        # 64-bit words modulo small numbers: the bias is below 2**-40.
        place, row = stream[16 * index : 16 * index + 8], stream[16 * index + 8 : 16 * index + 16]
        found.append((*places[int.from_bytes(place, "big") % len(places)], int.from_bytes(row, "big") % n))
    return found


def escape_probability(faked: float, opened: int, *, grinding_bits: int = 0) -> float:
    """Return the chance that a prover who fakes a fraction of the rows is not caught."""
    return min(1.0, (1 - faked) ** opened * math.ldexp(1.0, grinding_bits))
