"""The Merkle tree of RFC 6962 section 2.1 (RFC 9162 section 2.1): append, root, proofs and their checks.

Rules (docs/receipt.md R3.1, R3.2):
1. Leaf hash = SHA-256(0x00 ‖ leaf), node hash = SHA-256(0x01 ‖ left ‖ right): a leaf never passes for a node.
2. The tree keeps every complete node, level by level, so that an append costs two hashes on average and
   any root or proof of any earlier size is a walk over stored nodes.
3. The checking functions are pure, take whatever an adversary sends, and answer only by raising Refuted.

Files are left to tiles.py, order and durability to log.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from stannary.errors import FormatError, Refuted

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

_sha256 = hashlib.sha256


def leaf_hash(leaf: bytes) -> bytes:
    """Return the hash of a leaf."""
    return _sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return _sha256(b"\x01" + left + right).digest()


class Tree:
    """All complete nodes of a growing tree, 32 bytes each (64 bytes a leaf in all)."""

    __slots__ = ("_frontier", "_levels", "_size")

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[bytearray] = [bytearray()]
        # the left nodes that wait for their right sibling, by level: spares re-reading the rows
        self._frontier: list[bytes] = [b""]
        self._size = 0
        self.extend(leaves)

    @property
    def size(self) -> int:
        """Return the number of leaves."""
        return self._size

    def append(self, leaf: bytes) -> int:
        """Append one leaf and return its index."""
        index = self._size
        self.extend((leaf,))
        return index

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append leaves in order."""
        levels, frontier, sha256 = self._levels, self._frontier, _sha256
        size = self._size
        for leaf in leaves:
            digest = sha256(b"\x00" + leaf).digest()
            levels[0] += digest
            level, carry = 0, size
            while carry & 1:
                digest = sha256(b"\x01" + frontier[level] + digest).digest()
                level += 1
                carry >>= 1
                if level == len(levels):
                    levels.append(bytearray())
                    frontier.append(b"")
                levels[level] += digest
            frontier[level] = digest
            size += 1
        self._size = size

    def truncate(self, size: int) -> None:
        """Forget every leaf from `size` on (leaves whose batch never became durable)."""
        self._check_size(size)
        for level, row in enumerate(self._levels):
            del row[(size >> level) * HASH_BYTES :]
            self._frontier[level] = bytes(row[-HASH_BYTES:])
        self._size = size

    def node(self, level: int, index: int) -> bytes:
        """Return the complete node that covers leaves [index·2^level, (index+1)·2^level)."""
        start = index * HASH_BYTES
        return bytes(self._levels[level][start : start + HASH_BYTES])

    def nodes(self, level: int, start: int, stop: int) -> bytes:
        """Return the complete nodes [start, stop) of a level, concatenated (a tile's bytes)."""
        if level >= len(self._levels):
            return b""
        return bytes(self._levels[level][start * HASH_BYTES : stop * HASH_BYTES])

    def root(self, size: int | None = None) -> bytes:
        """Return the root of the first `size` leaves, of all when None."""
        size = self._size if size is None else size
        self._check_size(size)
        return self._range(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Return the audit path of leaf `index` in the tree of `size` (RFC 9162 section 2.1.3.1)."""
        self._check_size(size)
        if not 0 <= index < size:
            raise FormatError("no such leaf", why=f"index {index}, tree size {size}")
        path: list[bytes] = []
        low, high = 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low = middle
        path.reverse()
        return path

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Return the proof that the tree of `old` is a prefix of the tree of `new` (section 2.1.4.1)."""
        self._check_size(new)
        if not 0 <= old <= new:
            raise FormatError("no such earlier tree", why=f"sizes {old} and {new}")
        if old in (0, new):
            return []
        proof: list[bytes] = []
        low, high, whole = 0, new, True
        while old - low != high - low:
            middle = low + _split(high - low)
            if old <= middle:
                proof.append(self._range(middle, high))
                high = middle
            else:
                proof.append(self._range(low, middle))
                low, whole = middle, False
        if not whole:
            proof.append(self._range(low, high))
        proof.reverse()
        return proof

    def _range(self, low: int, high: int) -> bytes:
        """Hash leaves [low, high), where low is a multiple of the largest power of two below the width."""
        digest = b""
        while high > low:
            # peel complete subtrees from the right: the lowest set bit of the width
            width = high - low
            bit = width & -width
            level = bit.bit_length() - 1
            right = self.node(level, (high - bit) >> level)
            digest = node_hash(right, digest) if digest else right
            high -= bit
        return digest

    def _check_size(self, size: int) -> None:
        if not 0 <= size <= self._size:
            raise FormatError("no such tree size", why=f"{size}, the log has {self._size} leaves")


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Check that `leaf` stands at `index` of the tree of `size` with `root` (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        raise Refuted("inclusion proof does not hold", why=f"index {index}, tree size {size}")
    _check_hashes(path)
    # nodes on the way up that have a sibling: inner ones below the split, border ones above it
    inner = (index ^ (size - 1)).bit_length()
    border = (index >> inner).bit_count()
    if len(path) != inner + border:
        raise Refuted("inclusion proof does not hold", why=f"{len(path)} hashes, expected {inner + border}")
    digest = leaf_hash(leaf)
    for level, sibling in enumerate(path[:inner]):
        digest = node_hash(sibling, digest) if index >> level & 1 else node_hash(digest, sibling)
    for sibling in path[inner:]:
        digest = node_hash(sibling, digest)
    if digest != root:
        raise Refuted(
            "inclusion proof does not hold", why=f"root {digest.hex()[:16]}..., expected {root.hex()[:16]}..."
        )


class InclusionChecker:
    """Checks many leaves of one tree: what a path has proven is compared for the next leaf, not hashed again.

    A node below the split stands for one complete subtree, whichever leaf leads to it: once a path from there has
    reached the root, another path through it holds exactly if node and rest of the path are the same.
    """

    def __init__(self, size: int, root: bytes) -> None:
        self._size, self._root = size, root
        self._proven: dict[tuple[int, int], tuple[bytes, Sequence[bytes]]] = {}

    def verify(self, leaf: bytes, index: int, path: Sequence[bytes]) -> None:
        """Check one leaf as `verify_inclusion` does; Refuted otherwise."""
        inner = (index ^ (self._size - 1)).bit_length() if 0 <= index < self._size else 0
        climbed: list[tuple[tuple[int, int], bytes]] = []
        digest = leaf_hash(leaf)
        for level, sibling in enumerate(path[:inner]):
            place = (level, index >> level)
            known = self._proven.get(place)
            if known is not None and known[0] == digest and known[1][level:] == path[level:]:
                break
            climbed.append((place, digest))
            digest = node_hash(sibling, digest) if index >> level & 1 else node_hash(digest, sibling)
        else:
            verify_inclusion(leaf, index, self._size, path, self._root)
        for place, proven in climbed:
            self._proven[place] = (proven, path)


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree (`old`, `old_root`) is a prefix of (`new`, `new_root`) (section 2.1.4.2)."""
    _check_hashes(proof)
    if not 0 <= old <= new:
        raise Refuted("consistency proof does not hold", why=f"sizes {old} and {new}")
    if old in (0, new):
        expected = EMPTY_ROOT if old == 0 else new_root
        if proof or old_root != expected:
            raise Refuted("consistency proof does not hold", why=f"sizes {old} and {new}")
        return
    hashes = list(proof)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes or not _folds(hashes, old, old_root, new, new_root):
        raise Refuted("consistency proof does not hold", why=f"sizes {old} and {new}")


def _folds(hashes: list[bytes], old: int, old_root: bytes, new: int, new_root: bytes) -> bool:
    position, last = old - 1, new - 1
    while position & 1:
        position >>= 1
        last >>= 1
    left = right = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            left, right = node_hash(sibling, left), node_hash(sibling, right)
            while position and not position & 1:
                position >>= 1
                last >>= 1
        else:
            right = node_hash(right, sibling)
        position >>= 1
        last >>= 1
    return last == 0 and left == old_root and right == new_root


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if set(map(len, hashes)) - {HASH_BYTES}:
        raise Refuted("proof does not hold", why="an element is not a hash")


def _split(width: int) -> int:
    """Return the largest power of two smaller than `width`."""
    return 1 << ((width - 1).bit_length() - 1)
