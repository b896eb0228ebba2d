"""A small world for sealing: one owner, models of a few kilobytes, a folder as the store."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from stannary.formats.digest import Digest
from stannary.seal.keys import OwnerKey
from stannary.seal.reader import SealedArtifact
from stannary.seal.sealing import SealReport
from stannary.seal.stores.directory import DirectoryStore
from stannary.seal.stores.mirrors import Mirrors

SMALL_SHARD_BYTES = 64 * 1024
Entries = dict[str, tuple[str, list[int], bytes]]


def safetensors_bytes(entries: Entries, metadata: dict[str, str] | None = None) -> bytes:
    """Write a safetensors file by hand, without the library."""
    header: dict[str, object] = {}
    if metadata is not None:
        header["__metadata__"] = metadata
    position = 0
    for name, (dtype, shape, data) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + len(data)]}
        position += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in entries.values())


def pattern(num_bytes: int, seed: int = 1) -> bytes:
    """Return bytes that repeat with a period no shard shares."""
    import random

    return random.Random(seed).randbytes(num_bytes)


def small_model(seed: int = 1) -> bytes:
    """Return a model with two blocks, an embedding larger than a shard and a scalar."""
    return safetensors_bytes(
        {
            "embed.weight": ("BF16", [300, 256], pattern(300 * 256 * 2, seed)),
            "model.layers.0.w": ("F32", [16, 64], pattern(16 * 64 * 4, seed + 1)),
            "model.layers.1.w": ("F32", [16, 64], pattern(16 * 64 * 4, seed + 2)),
            "scale": ("F32", [], pattern(4, seed + 3)),
        },
        {"format": "pt"},
    )


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed thing and the way back to it."""

    report: SealReport
    root: Path
    owner: OwnerKey

    @property
    def digest(self) -> Digest:
        """Its digest."""
        return self.report.digest

    def open(self, *roots: Path) -> SealedArtifact:
        """Open it as the owner, from its store or from mirrors, without pauses."""
        sources = tuple(DirectoryStore(root) for root in roots or (self.root,))
        return SealedArtifact(Mirrors(self.digest, sources, pause=lambda _: None), self.owner)


def edit(case: dict[str, str | int], places: dict[str, Path]) -> None:
    """Do to a store what a tampered vector says (tests/vectors/seal/vectors.json)."""
    target, argument = places[str(case["object"])], int(case["argument"])
    data = bytearray(target.read_bytes())
    if case["operation"] == "flip":
        data[argument] ^= 1
    elif case["operation"] == "cut":
        del data[argument:]
    elif case["operation"] == "append":
        data += bytes(argument)
    else:
        data[:] = places[f"shard {argument}"].read_bytes()
    target.write_bytes(data)
