"""The quick test of a node's power: seconds of integer matrix products that only who computes can answer.

    python -P -m stannary.power NONCE PROCESSORS SECONDS      prints a proof; run in the sandbox that jobs run in

    A, B    N x N int8, streams of SHAKE-256 of the market's nonce       C_r    A @ B[pi_r], int32
    pi_r    an order of B's rows, of the round's seed                    D_r    row digests of C_r: not linear in C_r
    s_r+1   H(s_r, root of D_r): no round can be begun before the one before it is done

One process for each processor does rounds for so many seconds, all at once. The rows that are opened follow from all
roots (nobody can be asked twice in a test that is timed), and the market computes them itself: 60 ms whatever was done.

Rules:
1. Everything follows from the nonce: nothing can be computed before it is known, and no answer serves twice.
2. OPENED rows of all rounds are opened. Who fakes a fifth of the rows escapes with 0.8**128 = 4e-13 a try; a try costs
   hashes, and with 2**32 of them, more than the seconds allow, it is 0.2 %.
3. Integers make the answer the same bits on every machine.
4. What a proof shows is work; the time is the market's to take (rules/grade.py). At most MAX_PROCESSORS are at work.

Shape suffixes: n size of the matrices, k opened rows.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from stannary.errors import EnvironmentProblem, FormatError
from stannary.formats import canonical
from stannary.formats.canonical import Json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SECONDS = 4  # long beside its own start (0.3 s) and a round trip, short beside any job
N = 1024
OPENED = 128
MAX_PROCESSORS = 64
MAX_ROUNDS = 4096  # of one processor: forty times the reference
MAX_PROOF_BYTES = 4 * 1024 * 1024
_EXACT = 512  # so many products of int8 sum to 2**23 at most: exact in float32, in whatever order
_BLOCK = 64  # rows of a leaf
_DIGEST_BYTES = 4
_PATH = (N // _BLOCK).bit_length() - 1
_SHIFT, _MASK = 7, 255
_LEAF, _NODE = b"\0", b"\1"

Digests = Callable[[bytes], bytes]  # of a round's seed: the digests of its rows


@dataclass(frozen=True, slots=True)
class Proof:
    """What a node shows: the roots of each processor's rounds, and what is opened of them, in the order drawn."""

    chains: tuple[tuple[bytes, ...], ...]
    opened: tuple[bytes, ...]  # a leaf and the hashes beside its way to the root

    @property
    def rounds(self) -> int:
        """Rounds of all processors together."""
        return sum(map(len, self.chains))

    def to_bytes(self) -> bytes:
        """Return the proof as it is sent, and named by its digest."""
        chains: list[Json] = [base64.b64encode(b"".join(roots)).decode() for roots in self.chains]
        opened: list[Json] = [base64.b64encode(item).decode() for item in self.opened]
        return canonical.encode({"chains": chains, "opened": opened})


def parse(data: bytes) -> Proof:
    """Read a proof.

    Raises:
        FormatError: it is none, or too large.
    """
    if len(data) > MAX_PROOF_BYTES:
        raise FormatError("a proof of power is too large", why=f"{len(data):,} bytes")
    members = canonical.decode_object(data)
    if set(members) != {"chains", "opened"}:
        raise FormatError("not a proof of power", why=", ".join(sorted(members))[:100])
    chains, opened = _listed(members["chains"], MAX_PROCESSORS), _listed(members["opened"], OPENED)
    roots = [tuple(raw[at : at + 32] for at in range(0, len(raw), 32)) for raw in chains]
    if not roots or not all(raw and len(raw) % 32 == 0 and len(raw) <= 32 * MAX_ROUNDS for raw in chains):
        raise FormatError("a proof of power has no rounds, or too many", why=f"{len(chains)} processors")
    if len(opened) != OPENED or any(len(item) != _BLOCK * _DIGEST_BYTES + 32 * _PATH for item in opened):
        raise FormatError("a proof of power opens too little", why=f"{len(opened)} of {OPENED} rows")
    return Proof(tuple(roots), tuple(opened))


def why_false(proof: Proof, nonce: str) -> str:
    """Return what is wrong with a proof, empty if every opened row is what its rounds come to."""
    import numpy as np

    drawn = _draw(nonce, proof.chains)
    claimed = []
    for (chain, number, row), item in zip(drawn, proof.opened, strict=True):
        leaf, beside = item[: _BLOCK * _DIGEST_BYTES], item[_BLOCK * _DIGEST_BYTES :]
        path = [beside[at : at + 32] for at in range(0, len(beside), 32)]
        if _root_of(leaf, row // _BLOCK, path) != proof.chains[chain][number]:
            return f"row {row} of round {number} of processor {chain} is not under its root"
        inside = _DIGEST_BYTES * (row % _BLOCK)
        claimed.append(int.from_bytes(leaf[inside : inside + _DIGEST_BYTES], "little"))
    wrong = np.flatnonzero(_recomputed(nonce, proof.chains, drawn) != np.array(claimed, dtype=np.uint32))
    return f"{len(wrong)} of {OPENED} opened rows are wrong" if len(wrong) else ""


def prove(nonce: str, digests: Sequence[Digests], seconds: float, clock: Callable[[], float] = time.monotonic) -> Proof:
    """Do rounds for some seconds, each of `digests` in a process of its own, and open what is drawn.

    Raises:
        EnvironmentProblem: a process did not answer.
    """
    until = clock() + seconds
    children = [_begin(_first(nonce, at), each, until, clock) for at, each in enumerate(digests)]
    done = [_end(*child) for child in children]
    chains = [tuple(_levels(data)[-1][0] for data in rounds) for rounds in done]
    opened = []
    for chain, number, row in _draw(nonce, chains):
        data, leaf = done[chain][number], row // _BLOCK
        size = _BLOCK * _DIGEST_BYTES
        opened.append(data[leaf * size : (leaf + 1) * size] + b"".join(_path(_levels(data), leaf)))
    return Proof(tuple(chains), tuple(opened))


def multiplier(nonce: str) -> Digests:
    """Return what computes the row digests of a round."""
    import numpy as np

    left_nn = [part.astype(np.float32) for part in np.split(_matrix(nonce, "A"), N // _EXACT, axis=1)]
    B_nn = _matrix(nonce, "B").astype(np.float32)

    def digests(seed: bytes) -> bytes:
        ordered_nn = B_nn[_order(seed)]
        C_nn = np.zeros((N, N), dtype=np.int32)
        for at, part_nn in enumerate(left_nn):
            C_nn += (part_nn @ ordered_nn[at * _EXACT : (at + 1) * _EXACT]).astype(np.int32)
        return _fold(C_nn, seed).astype("<u4").tobytes()

    return digests


def _begin(seed: bytes, digests: Digests, until: float, clock: Callable[[], float]) -> tuple[int, int]:
    """Start a process that does rounds; return its id and where its digests come from."""
    come, go = os.pipe()
    child = os.fork()
    if child:
        os.close(go)
        return child, come
    code = 1
    try:
        os.close(come)
        done: list[bytes] = []
        while not done or (clock() < until and len(done) < MAX_ROUNDS):
            done.append(digests(seed))
            seed = _next(seed, _levels(done[-1])[-1][0])
        with os.fdopen(go, "wb") as pipe:
            pipe.write(b"".join(done))
        code = 0
    finally:
        os._exit(code)


def _end(child: int, come: int) -> list[bytes]:
    with os.fdopen(come, "rb") as pipe:
        data = pipe.read()
    _, code = os.waitpid(child, 0)
    size = N * _DIGEST_BYTES
    if code or not data or len(data) % size:
        raise EnvironmentProblem("the test of power did not run", why=f"a process of it ended with {code}")
    return [data[at : at + size] for at in range(0, len(data), size)]


def _recomputed(
    nonce: str, chains: Sequence[Sequence[bytes]], drawn: Sequence[tuple[int, int, int]]
) -> NDArray[np.uint32]:
    """Return the digests of the drawn rows, (k,): A[i] @ B[pi] is a @ B where a[pi[j]] = A[i, j]."""
    import numpy as np

    A_nn, seeds = _matrix(nonce, "A"), {}
    for chain in {item[0] for item in drawn}:
        seed = _first(nonce, chain)
        for number, root in enumerate(chains[chain]):
            seeds[chain, number] = seed
            seed = _next(seed, root)
    placed_kn = np.zeros((len(drawn), N), dtype=np.float32)
    for at, (chain, number, row) in enumerate(drawn):
        placed_kn[at, _order(seeds[chain, number])] = A_nn[row]
    B_nn = _matrix(nonce, "B").astype(np.float32)
    C_kn = np.zeros((len(drawn), N), dtype=np.int32)
    for start in range(0, N, _EXACT):
        part = slice(start, start + _EXACT)
        C_kn += (placed_kn[:, part] @ B_nn[part]).astype(np.int32)
    folded = [_fold(C_kn[at : at + 1], seeds[item[0], item[1]])[0] for at, item in enumerate(drawn)]
    return np.array(folded, dtype=np.uint32)


def _draw(nonce: str, chains: Sequence[Sequence[bytes]]) -> list[tuple[int, int, int]]:
    """Return OPENED (processor, round, row), drawn from all roots."""
    state = hashlib.sha256(b"stannary power draw v1" + nonce.encode())
    places = []
    for chain, roots in enumerate(chains):
        state.update(len(roots).to_bytes(8, "big") + b"".join(roots))
        places += [(chain, number) for number in range(len(roots))]
    stream = hashlib.shake_256(state.digest()).digest(16 * OPENED)
    words = [int.from_bytes(stream[at : at + 8], "big") for at in range(0, len(stream), 8)]
    return [(*places[words[2 * at] % len(places)], words[2 * at + 1] % N) for at in range(OPENED)]


def _seed(label: str, *parts: bytes) -> bytes:
    state = hashlib.sha256(b"stannary power v1")
    for part in (label.encode(), *parts):
        state.update(len(part).to_bytes(8, "big") + part)
    return state.digest()


def _first(nonce: str, chain: int) -> bytes:
    return _seed("first", nonce.encode(), chain.to_bytes(8, "big"))


def _next(seed: bytes, root: bytes) -> bytes:
    return _seed("next", seed, root)


def _matrix(nonce: str, name: str) -> NDArray[np.int8]:
    import numpy as np

    stream = hashlib.shake_256(_seed(name, nonce.encode())).digest(N * N)
    return np.frombuffer(stream, dtype=np.int8).reshape(N, N)


def _order(seed: bytes) -> NDArray[np.int64]:
    import numpy as np

    words = np.frombuffer(hashlib.shake_256(_seed("order", seed)).digest(8 * N), dtype="<u8")
    return np.argsort(words, kind="stable")


def _fold(C_kn: NDArray[np.int32], seed: bytes) -> NDArray[np.uint32]:
    """Return the digest of each row: shift and mask keep it from following from a product with a vector."""
    import numpy as np

    u_n = np.frombuffer(hashlib.shake_256(_seed("weights", seed)).digest(4 * N), dtype="<u4")
    return (((C_kn >> _SHIFT) & _MASK).astype(np.uint64) @ u_n.astype(np.uint64)).astype(np.uint32)


def _levels(data: bytes) -> list[list[bytes]]:
    size = _BLOCK * _DIGEST_BYTES
    nodes = [hashlib.sha256(_LEAF + data[at : at + size]).digest() for at in range(0, len(data), size)]
    found = [nodes]
    while len(nodes) > 1:
        nodes = [hashlib.sha256(_NODE + nodes[at] + nodes[at + 1]).digest() for at in range(0, len(nodes), 2)]
        found.append(nodes)
    return found


def _path(levels: Sequence[Sequence[bytes]], leaf: int) -> list[bytes]:
    return [nodes[(leaf >> depth) ^ 1] for depth, nodes in enumerate(levels[:-1])]


def _root_of(leaf: bytes, index: int, path: Sequence[bytes]) -> bytes:
    node = hashlib.sha256(_LEAF + leaf).digest()
    for depth, beside in enumerate(path):
        pair = beside + node if (index >> depth) & 1 else node + beside
        node = hashlib.sha256(_NODE + pair).digest()
    return node


def _listed(value: Json, limit: int) -> list[bytes]:
    if not isinstance(value, list) or len(value) > limit or not all(isinstance(item, str) for item in value):
        raise FormatError("a proof of power lists something else, or too much")
    try:
        return [base64.b64decode(item, validate=True) for item in cast("list[str]", value)]
    except (binascii.Error, ValueError) as err:
        raise FormatError("a proof of power is not in base64") from err


def main(arguments: Sequence[str]) -> None:
    """Print a proof; the threads of the matrix library must be one (OMP_NUM_THREADS), the processes are ours."""
    nonce, processors, seconds = arguments
    each = multiplier(nonce)
    proof = prove(nonce, [each] * min(int(processors), MAX_PROCESSORS), float(seconds))
    sys.stdout.buffer.write(proof.to_bytes())


if __name__ == "__main__":
    main(sys.argv[1:])
