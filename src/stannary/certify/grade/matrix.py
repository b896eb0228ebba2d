"""The matrices of the power test: a keyed PRF, random access by row, the same bytes everywhere.

    A, B    n x n int8, keystreams of AES-256 in counter mode; row i starts at byte i*n
    pi_r    the order of B's rows in round r, from that round's seed
    u_r     n unsigned 32-bit weights of the row digest in round r
    C_r     A @ B[pi_r], int32; |C| < 2**31 needs n <= 2**17
    D_r[i]  sum_j ((C_r[i, j] >> 7) & 255) * u_r[j]  mod 2**32

Why so: a generator of the form f(seed + i + j) makes a Hankel matrix whose product follows from a
recurrence in O(n^2). Shift and mask make the digest non-linear, so it cannot be had from A @ (B @ u).
Integers make the answer bit-exact on every machine, and an int4, fp8 or bf16 product wrong in the
very bits that are kept. B is fixed and shared by all devices, so that a verifier opens rows of many
rounds and devices in one product; its order changes with the previous root, so that rounds cannot
be computed ahead.

Shape suffixes: n size of the matrices, k opened rows.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from stannary.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_N, MAX_N = 256, 8192  # above it a verification would cost more than two CPU-seconds
SHIFT, MASK = 7, 255
EXACT_K = 512  # 512 products of int8 sum to at most 2**23: exact in float32, whatever the order
_AES_BLOCK_BYTES = 16


def derive(label: str, *parts: bytes) -> bytes:
    """Return a 32-byte seed."""
    state = hashlib.sha256(b"stannary-gemm-v1")
    for part in (label.encode("ascii"), *parts):
        state.update(len(part).to_bytes(8, "big") + part)
    return state.digest()


def first_seed(anchor: bytes, device: str) -> bytes:
    """Return the seed of round 0: bound to the anchor, hence to the nonce and the attested key."""
    return derive("first", anchor, device.encode("utf-8"))


def shared_seed(anchor: bytes) -> bytes:
    """Return the seed of B, one for all devices: rows of every chain are opened in one product."""
    return derive("shared", anchor)


def next_seed(seed: bytes, root: bytes) -> bytes:
    """Return the seed of the round after `root`."""
    return derive("next", seed, root)


def check_size(n: int) -> int:
    """Return n if it is a size the test allows."""
    if not MIN_N <= n <= MAX_N or (n % EXACT_K and n != MIN_N):
        raise FormatError("matrix size is not allowed", why=f"{n}, multiples of {EXACT_K} up to {MAX_N}")
    return n


def keystream(key: bytes, offset: int, count: int) -> bytes:
    """Return `count` PRF bytes from `offset`, a multiple of 16."""
    counter = (offset // _AES_BLOCK_BYTES).to_bytes(_AES_BLOCK_BYTES, "big")
    return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(bytes(count))


def matrix(seed: bytes, name: str, n: int) -> NDArray[np.int8]:
    """Return the whole matrix `name` ("A" or "B"), (n, n)."""
    return np.frombuffer(keystream(derive(name, seed), 0, n * n), dtype=np.int8).reshape(n, n)


def rows(seed: bytes, name: str, n: int, indices: list[int]) -> NDArray[np.int8]:
    """Return chosen rows, (k, n), without making the rest."""
    key = derive(name, seed)
    return np.stack([np.frombuffer(keystream(key, index * n, n), dtype=np.int8) for index in indices])


def order(round_seed: bytes, n: int) -> NDArray[np.int64]:
    """Return pi_r, (n,): the sort order of 64-bit PRF words, ties (never seen) by index."""
    words = np.frombuffer(keystream(derive("order", round_seed), 0, 8 * n), dtype="<u8")
    return np.argsort(words, kind="stable")


def weights(round_seed: bytes, n: int) -> NDArray[np.uint32]:
    """Return u_r, (n,)."""
    return np.frombuffer(keystream(derive("weights", round_seed), 0, 4 * n), dtype="<u4")


def digest_rows(C_kn: NDArray[np.int32], u_n: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the non-linear digest of each row, (k,)."""
    kept = ((C_kn >> SHIFT) & MASK).astype(np.uint64)
    return (kept @ u_n.astype(np.uint64)).astype(np.uint32)


def product(A_kn: NDArray[np.int8], B_nn: NDArray[np.int8]) -> NDArray[np.int32]:
    """Return A @ B exactly, (k, n), by float32 products of EXACT_K terms each."""
    n = B_nn.shape[0]
    total = np.zeros((A_kn.shape[0], B_nn.shape[1]), dtype=np.int32)
    left = A_kn.astype(np.float32)
    for start in range(0, n, EXACT_K):
        stop = min(start + EXACT_K, n)
        total += (left[:, start:stop] @ B_nn[start:stop].astype(np.float32)).astype(np.int32)
    return total
