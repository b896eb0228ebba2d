"""The sealed manifest: files, tensors, shards and key groups of an artifact. Only a key holder reads it.

Rules, checked on every reading (the owner signed it, and is still not believed to be free of bugs):
1. Shards tile every file exactly, in order; no gap, no overlap, no shard over MAX_SHARD_BYTES.
2. Tensors tile the data area of their safetensors file; names, dtypes and lengths keep content/tensors.py.
3. File paths keep content/names.py; a `file` layout has one file without a folder.
4. `stored` is the exact length of what a codec left, `size` the exact length after decoding.
5. The keys of a group are sealed under the group's key and bound to artifact, group id and count; who
   holds the manifest key alone reads the index and no content.

What a codec does with `stored` bytes is in codec.py; where keys come from is in keys.py.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from stannary.errors import FormatError, LimitExceeded
from stannary.formats import canonical, dsse, record
from stannary.formats.canonical import Json
from stannary.formats.digest import Digest
from stannary.seal import message
from stannary.seal.content import names, tensors
from stannary.seal.content.kinds import FileKind
from stannary.seal.content.tensors import Tensor
from stannary.seal.head import MAX_SHARDS, Head

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMAT = "seal/v1 manifest"
MAX_MANIFEST_BYTES = 64 * 1024 * 1024
MAX_FILES = 100_000
MAX_GROUPS = 4096  # the deepest public models have about 130 blocks; datasets have a group per file
MAX_SHARD_BYTES = 64 * 1024 * 1024

_GROUP = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_B3 = re.compile(r"[0-9a-f]{64}")


class Layout(StrEnum):
    """Whether PATH was one file or a folder."""

    FILE = "file"
    FOLDER = "folder"


class Codec(StrEnum):
    """How the stored bytes of a shard become file bytes."""

    RAW = "raw"
    BF16_SPLIT = "bf16-split-zstd"
    XOR_SPARSE = "xor-sparse-zstd"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file. `sha256` is there when a model-signing bundle was asked for."""

    path: str
    size: int
    kind: FileKind
    header: int = 0  # safetensors: bytes before the data area
    sha256: Digest | None = None


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a safetensors file; offsets count from the start of the file."""

    file: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class KeyGroup:
    """Shard keys that are released together: base64 of a message under the group's key."""

    id: str
    keys: str


@dataclass(frozen=True, slots=True)
class DeltaBase:
    """Where the other operand of a delta lies in the parent artifact."""

    file: int
    offset: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard: the range of one file it decodes to. Its ciphertext is the head's entry of the same index."""

    file: int
    offset: int
    size: int
    stored: int
    group: int
    plain: str  # hex BLAKE3 of the decoded bytes: resume, deltas and diff compare it
    codec: Codec = Codec.RAW
    base: DeltaBase | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole of it."""

    artifact: str
    layout: Layout
    name: str  # base name of what was sealed; a proposal, never a path to write to
    files: tuple[FileEntry, ...]
    folders: tuple[str, ...]  # folders with nothing in them
    tensors: tuple[TensorEntry, ...]
    groups: tuple[KeyGroup, ...]
    shards: tuple[Shard, ...]
    signature: str | None = None  # OpenSSF model-signing bundle (oms.py)

    def to_bytes(self) -> bytes:
        """Return the canonical bytes that are sealed."""
        members: dict[str, Json] = {
            "format": FORMAT,
            "artifact": self.artifact,
            "layout": self.layout.value,
            "name": self.name,
            "files": [_row(item) for item in self.files],
            "folders": list(self.folders),
            "tensors": [_row(item) for item in self.tensors],
            "groups": [_row(item) for item in self.groups],
            "shards": [_row(item) for item in self.shards],
        }
        if self.signature is not None:
            members["signature"] = self.signature
        return canonical.encode(members)


def parse(data: bytes, head: Head) -> Manifest:
    """Read manifest bytes and check them against the head and the rules above."""
    members = canonical.decode_object(data, max_bytes=MAX_MANIFEST_BYTES)
    expected = {"format", "artifact", "layout", "name", "files", "folders", "tensors", "groups", "shards"}
    if set(members) - {"signature"} != expected:
        raise FormatError("manifest has missing or unknown members", why=", ".join(sorted(members))[:200])
    if members["format"] != FORMAT or members["artifact"] != head.artifact:
        raise FormatError("manifest of another artifact or format", why=f"{members['artifact']!r:.80}")
    layout = members["layout"]
    if not isinstance(layout, str) or layout not in set(Layout):
        raise FormatError("manifest layout is unknown", why=f"{layout!r:.40}")
    manifest = Manifest(
        artifact=head.artifact,
        layout=Layout(layout),
        name=names.check_path(_text(members["name"], "name")),
        files=_rows(FileEntry, members["files"], "files", MAX_FILES),
        folders=tuple(_text(item, "folder") for item in _list(members["folders"], "folders", MAX_FILES)),
        tensors=_rows(TensorEntry, members["tensors"], "tensors", tensors.MAX_TENSORS),
        groups=_rows(KeyGroup, members["groups"], "groups", MAX_GROUPS),
        shards=_rows(Shard, members["shards"], "shards", MAX_SHARDS),
        signature=_text(members["signature"], "signature") if "signature" in members else None,
    )
    _check(manifest, head)
    return manifest


def group_context(artifact: str, group: str, num_keys: int) -> bytes:
    """Return the context the keys of a group are sealed with (rule 5)."""
    size = num_keys * message.KEY_BYTES
    return message.context(message.GROUP_CONTEXT, size, bytes.fromhex(artifact), group.encode("ascii"))


def seal_group(artifact: str, group: str, keys: list[bytes], group_key: bytes) -> KeyGroup:
    """Seal the shard keys of one group, in the order of their shards."""
    sealed = message.seal(b"".join(keys), group_key, group_context(artifact, group, len(keys)))
    return KeyGroup(group, dsse.encode_base64(sealed))


def group_members(manifest: Manifest) -> list[list[int]]:
    """Return the shards of each group, in order."""
    members: list[list[int]] = [[] for _ in manifest.groups]
    for number, shard in enumerate(manifest.shards):
        members[shard.group].append(number)
    return members


def open_group(manifest: Manifest, index: int, members: list[int], group_key: bytes) -> dict[int, bytes]:
    """Return the keys of one group by shard number; `members` are its shards."""
    group = manifest.groups[index]
    sealed = dsse.decode_base64(group.keys, "group keys")
    ctx = group_context(manifest.artifact, group.id, len(members))
    keys = message.unseal(sealed, group_key, ctx, what=f"key group {group.id!r}")
    if len(keys) != len(members) * message.KEY_BYTES:
        raise FormatError("key group has another number of keys", why=f"group {group.id!r}")
    return {
        number: keys[place * message.KEY_BYTES : (place + 1) * message.KEY_BYTES]
        for place, number in enumerate(members)
    }


def _check(manifest: Manifest, head: Head) -> None:
    if len(manifest.shards) != len(head.shards):
        raise FormatError("manifest and head list different shards", why=f"{len(manifest.shards)}, {len(head.shards)}")
    names.check_paths([item.path for item in manifest.files] + list(manifest.folders))
    if "/" in manifest.name:
        raise FormatError("manifest name is a path", why=f"{manifest.name!r:.80}")
    if manifest.layout is Layout.FILE and (
        len(manifest.files) != 1 or manifest.folders or "/" in manifest.files[0].path
    ):
        raise FormatError("a file layout holds one file", why=f"{len(manifest.files)} files")
    _check_groups(manifest)
    _check_shards(manifest, head)
    _check_tensors(manifest)


def _check_groups(manifest: Manifest) -> None:
    ids = [item.id for item in manifest.groups]
    if len(set(ids)) != len(ids) or not all(_GROUP.fullmatch(item) for item in ids):
        raise FormatError("key group ids are not distinct names", why=", ".join(ids)[:120])
    used = Counter(item.group for item in manifest.shards)
    if set(used) != set(range(len(ids))):
        raise FormatError("a key group has no shards, or a shard no key group")


def _check_shards(manifest: Manifest, head: Head) -> None:
    file, position = 0, 0
    for number, shard in enumerate(manifest.shards):
        while file < len(manifest.files) and position == manifest.files[file].size:
            file, position = file + 1, 0
        if file == len(manifest.files) or (shard.file, shard.offset) != (file, position):
            raise FormatError("shards leave a gap or overlap", why=f"shard {number} at byte {shard.offset}")
        _check_shard(number, shard, head)
        position += shard.size
        if position > manifest.files[file].size:
            raise FormatError("shard passes the end of its file", why=f"shard {number}")
    while file < len(manifest.files) and position == manifest.files[file].size:
        file, position = file + 1, 0
    if file != len(manifest.files):
        raise FormatError("shards do not fill the files", why=f"file {file} ends at byte {position}")


def _check_shard(number: int, shard: Shard, head: Head) -> None:
    if not 1 <= shard.size <= MAX_SHARD_BYTES or not 1 <= shard.stored <= shard.size:
        raise FormatError("shard length refused", why=f"shard {number}: {shard.stored} stored, {shard.size} decoded")
    if _B3.fullmatch(shard.plain) is None:
        raise FormatError("shard has no plaintext hash", why=f"shard {number}")
    if shard.codec is Codec.RAW and shard.stored != shard.size:
        raise FormatError("a raw shard stores another length", why=f"shard {number}")
    if (shard.codec is Codec.XOR_SPARSE) != (shard.base is not None):
        raise FormatError("a delta without a base, or a base without a delta", why=f"shard {number}")
    if shard.base is not None and (head.parent is None or shard.base.file < 0 or shard.base.offset < 0):
        raise FormatError("a delta in an artifact without a parent", why=f"shard {number}")
    if head.shards[number].length != message.sealed_length(message.padded_length(shard.stored)):
        raise FormatError("shard length does not match the head", why=f"shard {number}")


def _check_tensors(manifest: Manifest) -> None:
    by_file: dict[int, list[Tensor]] = {}
    for item in manifest.tensors:
        tensor = tensors.check_tensor(Tensor(item.name, item.dtype, item.shape, item.begin, item.end))
        by_file.setdefault(item.file, []).append(tensor)
    seen = Counter((item.file, item.name) for item in manifest.tensors)
    if any(count > 1 for count in seen.values()):
        raise FormatError("duplicate tensor name", why=f"{seen.most_common(1)[0][0][1]!r:.80}")
    for index, entry in enumerate(manifest.files):
        listed = by_file.pop(index, [])
        if entry.kind is FileKind.SAFETENSORS:
            tensors.check_tiling(listed, entry.header, entry.size)
        elif listed or entry.header:
            raise FormatError("tensors in a file that is not safetensors", why=f"{entry.path!r:.80}")
    if by_file:
        raise FormatError("tensor of a file that is not there", why=f"file {min(by_file)}")


T = TypeVar("T", bound="DataclassInstance")


def _rows(cls: type[T], value: Json, what: str, limit: int) -> tuple[T, ...]:
    return tuple(
        record.from_json(cls, item, what=f"{what}[{index}]") for index, item in enumerate(_list(value, what, limit))
    )


def _row(item: DataclassInstance) -> Json:
    return record.to_json(item)


def _list(value: Json, what: str, limit: int) -> list[Json]:
    if not isinstance(value, list):
        raise FormatError(f"manifest {what} is not a list")
    if len(value) > limit:
        raise LimitExceeded(f"manifest has too many {what}", why=f"{len(value):,}, limit {limit:,}")
    return value


def _text(value: Json, what: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"manifest {what} is not text")
    return value
