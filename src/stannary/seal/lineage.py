"""What was sealed before, and can be referred to again or told apart from: the parent, and the private index.

Rules:
1. A shard of the same plaintext is referred to with its old key: same plaintext, same ciphertext, nothing
   new to learn for anybody.
2. A delta has its base where the parent holds tensors of the same name, dtype and shape in one run. After
   half the longest chain no deltas are offered, so that reading stays bounded.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import Protocol

from stannary.errors import ConflictError
from stannary.seal.content import tensors
from stannary.seal.head import SealedObject
from stannary.seal.manifest import Codec, DeltaBase
from stannary.seal.plan import Cut
from stannary.seal.reader import MAX_CHAIN, SealedArtifact


@dataclass(frozen=True, slots=True)
class Known:
    """A shard sealed before: what is needed to refer to it again."""

    sealed: SealedObject
    key: bytes = field(repr=False)
    stored: int
    codec: Codec


class ShardIndex(Protocol):
    """The owner's private memory of shards (index.py); keyed, so that it tells nobody else anything."""

    def find(self, plain: bytes, size: int) -> Known | None:
        """Return what is known of a plaintext by its BLAKE3."""
        ...

    def add(self, plain: bytes, size: int, known: Known) -> None:
        """Remember a shard that the store holds."""
        ...


class Ancestry:
    """What the parent artifact offers: shards to refer to again, and operands for deltas."""

    def __init__(self, parent: SealedArtifact | None) -> None:
        self._parent = parent
        self._by_plain: dict[tuple[str, int], int] = {}
        self._shifts: dict[int, list[tuple[int, int, int, int]]] = {}  # file -> (begin, end, parent file, shift)
        self._deltas_allowed = False
        if parent is None:
            return
        self._deltas_allowed = chain_length(parent) < MAX_CHAIN // 2
        for number, shard in enumerate(parent.manifest.shards):
            if shard.codec is not Codec.XOR_SPARSE:
                self._by_plain.setdefault((shard.plain, shard.size), number)

    def map_file(self, file: int, path: str, listed: tuple[tensors.Tensor, ...]) -> None:
        """Match the tensors of a file with those of the same name, dtype and shape in the parent's file."""
        if self._parent is None or not self._deltas_allowed:
            return
        entries = self._parent.manifest.files
        matches = [number for number, entry in enumerate(entries) if entry.path == path]
        if not matches and len(entries) == 1:
            matches = [0]  # a file sealed alone under another name
        if not matches:
            return
        theirs = {item.name: item for item in self._parent.manifest.tensors if item.file == matches[0]}
        self._shifts[file] = [
            (item.begin, item.end, matches[0], other.begin - item.begin)
            for item in listed
            if (other := theirs.get(item.name)) is not None and (other.dtype, other.shape) == (item.dtype, item.shape)
        ]

    def base_of(self, cut: Cut) -> DeltaBase | None:
        """Return where the parent holds the same tensors as `cut`, if it holds all of them in one run."""
        rows = self._shifts.get(cut.file, [])  # in the order of their bytes, none over another
        first = bisect.bisect_right(rows, cut.offset, key=lambda row: row[1])
        stop = bisect.bisect_left(rows, cut.offset + cut.size, key=lambda row: row[0])
        inside = rows[first:stop]
        covered = sum(min(end, cut.offset + cut.size) - max(begin, cut.offset) for begin, end, _, _ in inside)
        if not inside or covered != cut.size or len({(file, shift) for _, _, file, shift in inside}) != 1:
            return None
        return DeltaBase(inside[0][2], cut.offset + inside[0][3])

    def read(self, base: DeltaBase, size: int) -> memoryview:
        """Return the operand of a delta."""
        if self._parent is None:
            raise ConflictError("delta without a parent")
        operand = memoryview(bytearray(size))
        self._parent.read_range(base.file, base.offset, operand)
        return operand

    def known(self, fingerprint: bytes, size: int) -> Known | None:
        """Return the parent's shard of this very plaintext."""
        number = self._by_plain.get((fingerprint.hex(), size))
        if number is None or self._parent is None:
            return None
        shard = self._parent.manifest.shards[number]
        return Known(self._parent.head.shards[number], self._parent.shard_key(number), shard.stored, shard.codec)


def chain_length(artifact: SealedArtifact) -> int:
    """Return how many deltas lie upon one another in an artifact."""
    length = 0
    while any(shard.codec is Codec.XOR_SPARSE for shard in artifact.manifest.shards):
        length += 1
        artifact = artifact.parent()
    return length
