"""What changed between two artifacts: files and tensors, by name.

Equal shard hashes decide most of it without fetching anything. Where a shard holds several tensors and
its hash differs, the bytes of each tensor are read from both sides and compared: "changed" is never a
guess.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from stannary.seal.content.kinds import FileKind
from stannary.seal.manifest import TensorEntry
from stannary.seal.reader import SealedArtifact

COMPARE_BYTES = 8 * 1024 * 1024


class ChangeKind(StrEnum):
    """What happened to a name."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    RESHAPED = "reshaped"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference."""

    kind: ChangeKind
    what: str  # file | tensor
    name: str
    detail: str = ""
    file: str = ""  # of a tensor, where there are several


def compare(old: SealedArtifact, new: SealedArtifact) -> list[Change]:
    """Return the differences from `old` to `new`, files first, each kind in name order."""
    return [*_compare_files(old, new), *_compare_tensors(old, new)]


def _compare_files(old: SealedArtifact, new: SealedArtifact) -> Iterator[Change]:
    ours = {item.path: number for number, item in enumerate(new.manifest.files)}
    theirs = {item.path: number for number, item in enumerate(old.manifest.files)}
    for path in sorted(ours.keys() | theirs.keys()):
        if path not in theirs:
            yield Change(ChangeKind.ADDED, "file", path, f"{new.manifest.files[ours[path]].size:,} bytes")
        elif path not in ours:
            yield Change(ChangeKind.REMOVED, "file", path, f"{old.manifest.files[theirs[path]].size:,} bytes")
        else:
            before, after = old.manifest.files[theirs[path]], new.manifest.files[ours[path]]
            if FileKind.SAFETENSORS in (before.kind, after.kind) and before.kind is after.kind:
                continue  # tensor by tensor below
            if before.size != after.size:
                yield Change(ChangeKind.CHANGED, "file", path, f"{before.size:,} to {after.size:,} bytes")
            elif not _same_range(old, new, (theirs[path], 0), (ours[path], 0), after.size):
                yield Change(ChangeKind.CHANGED, "file", path, f"{after.size:,} bytes")


def _compare_tensors(old: SealedArtifact, new: SealedArtifact) -> Iterator[Change]:
    ours = _by_name(new)
    theirs = _by_name(old)
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs:
            yield Change(ChangeKind.ADDED, "tensor", name[1], _spell(ours[name]), name[0])
        elif name not in ours:
            yield Change(ChangeKind.REMOVED, "tensor", name[1], _spell(theirs[name]), name[0])
        else:
            before, after = theirs[name], ours[name]
            if (before.dtype, before.shape) != (after.dtype, after.shape):
                yield Change(ChangeKind.RESHAPED, "tensor", name[1], f"{_spell(before)} to {_spell(after)}", name[0])
            elif not _same_range(
                old, new, (before.file, before.begin), (after.file, after.begin), after.end - after.begin
            ):
                yield Change(ChangeKind.CHANGED, "tensor", name[1], _spell(after), name[0])


def _by_name(artifact: SealedArtifact) -> dict[tuple[str, str], TensorEntry]:
    """Key tensors by file and name; one file sealed alone may have another file name in each artifact."""
    files = artifact.manifest.files
    return {(files[item.file].path if len(files) > 1 else "", item.name): item for item in artifact.manifest.tensors}


def _same_range(
    old: SealedArtifact, new: SealedArtifact, before: tuple[int, int], after: tuple[int, int], size: int
) -> bool:
    """Tell whether `size` bytes at (file, offset) are equal, by hashes where they decide it."""
    if _hashes(old, *before, size) == _hashes(new, *after, size):
        return True
    for start in range(0, size, COMPARE_BYTES):
        count = min(COMPARE_BYTES, size - start)
        left, right = bytearray(count), bytearray(count)
        old.read_range(before[0], before[1] + start, memoryview(left))
        new.read_range(after[0], after[1] + start, memoryview(right))
        if left != right:
            return False
    return True


def _hashes(artifact: SealedArtifact, file: int, offset: int, size: int) -> list[tuple[int, int, str]]:
    rows = (artifact.manifest.shards[number] for number in artifact.shards_of(file, offset, offset + size))
    return [(shard.offset - offset, shard.size, shard.plain) for shard in rows]


def _spell(entry: TensorEntry) -> str:
    return f"{entry.dtype} {list(entry.shape)}"
