"""A Merkle tree over blocks of row digests (RFC 6962 hashing, a power of two of leaves)."""

from __future__ import annotations

import hashlib

from stannary.errors import FormatError

BLOCK_ROWS = 64
DIGEST_BYTES = 4
_LEAF, _NODE = b"\0", b"\1"


def leaf(block: bytes) -> bytes:
    """Return the hash of one block."""
    return hashlib.sha256(_LEAF + block).digest()


def levels(digests: bytes) -> list[list[bytes]]:
    """Return every level, leaves first; short trees are padded with hashes of the empty block."""
    size = BLOCK_ROWS * DIGEST_BYTES
    nodes = [leaf(digests[start : start + size]) for start in range(0, len(digests), size)]
    nodes += [leaf(b"")] * ((1 << (len(nodes) - 1).bit_length()) - len(nodes))
    found = [nodes]
    while len(nodes) > 1:
        nodes = [hashlib.sha256(_NODE + nodes[i] + nodes[i + 1]).digest() for i in range(0, len(nodes), 2)]
        found.append(nodes)
    return found


def path(tree: list[list[bytes]], index: int) -> list[bytes]:
    """Return the siblings from leaf `index` to the root."""
    siblings = []
    for nodes in tree[:-1]:
        siblings.append(nodes[index ^ 1])
        index >>= 1
    return siblings


def root_of(block: bytes, index: int, siblings: list[bytes]) -> bytes:
    """Return the root that a block and its siblings give."""
    if index >> len(siblings):
        raise FormatError("Merkle path too short for its index", why=f"{len(siblings)} siblings for block {index}")
    node = leaf(block)
    for sibling in siblings:
        node = hashlib.sha256(_NODE + (sibling + node if index & 1 else node + sibling)).digest()
        index >>= 1
    return node
