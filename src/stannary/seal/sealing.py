"""Seal a file or folder into a store: plan, encrypt shard by shard, publish the signed head last.

Rules:
1. Streams: each worker holds one shard of plaintext and one of ciphertext, whatever the size of PATH.
2. Every shard that is encrypted gets a fresh random key. A shard whose plaintext the owner sealed
   before (private keyed index, or the parent artifact) is referenced again with its old key, if the
   store still holds it: same plaintext, same ciphertext, nothing new to learn.
3. The head's signature is written last. Before that there is no artifact, only nameless ciphertext.
   A killed run leaves its shards in the store and in the index, so the next run finds and keeps them.
4. Content is admitted before its first byte is encrypted (content/, tree.py).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import blake3

from stannary.errors import ConflictError, UsageError
from stannary.formats import digest
from stannary.formats.digest import Digest
from stannary.seal import codec, exclude, head, manifest, message, plan, tree
from stannary.seal.content import admission, file_bytes, tensors, weight_index
from stannary.seal.content.kinds import FileKind
from stannary.seal.head import Head, SealedObject
from stannary.seal.keys import OwnerKey
from stannary.seal.lineage import Ancestry, Known, ShardIndex
from stannary.seal.manifest import Codec, DeltaBase, FileEntry, KeyGroup, Manifest, Shard, TensorEntry
from stannary.seal.plan import Cut
from stannary.seal.reader import SealedArtifact, run_all
from stannary.seal.stores.link import LinkMeter
from stannary.seal.stores.source import Store, envelope_name, head_name, object_name

LOCAL_JOBS = 2
REMOTE_JOBS = 8  # connections; two shard buffers each stay below the memory promised (docs/seal-v1.md)
CODERS = 2  # at once: each holds an operand and temporaries
HASH_PIECE_BYTES = 1024 * 1024

WORD_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "U32": 4, "I16": 2, "U16": 2}


class CodecPolicy(StrEnum):
    """Which shards are coded when no parent is given."""

    RAW = "raw"  # disk and fast links
    SMALL = "small"  # bf16 split whenever it helps
    AUTO = "auto"  # split while the store takes bytes slower than the coder makes them


@dataclass(frozen=True, slots=True)
class SealOptions:
    """How to seal; the defaults are right for a disk or a fast store."""

    shard_bytes: int = plan.SHARD_BYTES
    jobs: int | None = None  # LOCAL_JOBS or REMOTE_JOBS
    codec: CodecPolicy = CodecPolicy.RAW
    parent: SealedArtifact | None = None
    index: ShardIndex | None = None
    sign_model: bool = False
    exclude: tuple[str, ...] = ()  # patterns beside those of the folder's ignore file (exclude.py)
    progress: Callable[[int], object] | None = None  # bytes of plaintext done


@dataclass(frozen=True, slots=True)
class SealReport:
    """What was made."""

    digest: Digest
    size_bytes: int
    sealed_bytes: int
    written_bytes: int
    num_shards: int
    reused_shards: int
    delta_shards: int
    coded_shards: int


@dataclass(slots=True)
class _Done:
    """One finished shard."""

    shard: Shard
    sealed: SealedObject
    key: bytes = field(repr=False)
    reused: bool


def seal(path: Path, store: Store, owner: OwnerKey, options: SealOptions | None = None) -> SealReport:
    """Seal `path` into `store` and return the artifact digest.

    Raises:
        FormatError: content or a name that is refused (see rule 4).
        ConflictError: a file changed meanwhile.
        EnvironmentProblem, SourceFailure: the store does not take the bytes.
    """
    return _Sealer(path, store, owner, options or SealOptions()).run()


class _Sealer:
    """One run of `seal`."""

    def __init__(self, path: Path, store: Store, owner: OwnerKey, options: SealOptions) -> None:
        plan.check_shard_bytes(options.shard_bytes)
        self._tree = tree.scan(path, exclude.read(path, options.exclude))
        self._paths = {leaf.path for leaf in self._tree.leaves}
        self._store = store
        self._owner = owner
        self._options = options
        self._artifact = secrets.token_bytes(32).hex()
        self._files: list[FileEntry] = []
        self._tensors: list[TensorEntry] = []
        self._cuts: list[Cut] = []
        self._lineage = Ancestry(options.parent)
        self._meter = LinkMeter()
        self._local = threading.local()
        self._coders = threading.BoundedSemaphore(CODERS)
        self._written_bytes = 0
        self._lock = threading.Lock()

    def run(self) -> SealReport:
        for number, leaf in enumerate(self._tree.leaves):
            self._admit(number, leaf)
        if len(self._cuts) > head.MAX_SHARDS:
            raise UsageError(
                "too many shards", why=f"{len(self._cuts):,}, limit {head.MAX_SHARDS:,}", hint="--shard-bytes 67108864"
            )
        groups = list(dict.fromkeys(cut.group for cut in self._cuts))
        places = {group: index for index, group in enumerate(groups)}
        done: dict[int, _Done] = {}

        def one(number: int, cut: Cut) -> None:
            done[number] = self._seal_cut(cut, places[cut.group])

        default = REMOTE_JOBS if "://" in self._store.url else LOCAL_JOBS
        jobs = default if self._options.jobs is None else self._options.jobs
        run_all(((one, item) for item in enumerate(self._cuts)), jobs)
        finished = [done[number] for number in range(len(self._cuts))]
        return self._publish(groups, finished)

    def _admit(self, number: int, leaf: tree.Leaf) -> None:
        """Check one file and plan its shards."""
        kind = admission.kind_of(leaf.path)
        descriptor = self._tree.open(leaf)
        try:
            admission.check_content(leaf.path, kind, descriptor, leaf.size)
            whole = _sha256(descriptor) if self._options.sign_model else None
            if kind is FileKind.SAFETENSORS:
                header, listed = _read_header(descriptor, leaf.size)
                self._tensors += [
                    TensorEntry(number, item.name, item.dtype, item.shape, item.begin, item.end) for item in listed
                ]
                self._cuts += plan.cut_tensors(number, header, listed, self._options.shard_bytes)
                self._lineage.map_file(number, leaf.path, listed)
            else:
                header = 0
                weight_index.check(leaf.path, file_bytes.of_file(descriptor, leaf.size), self._paths)
                self._cuts += plan.cut_file(number, kind, leaf.size, self._options.shard_bytes)
            tree.check_unchanged(descriptor, leaf)
        finally:
            os.close(descriptor)
        self._files.append(FileEntry(leaf.path, leaf.size, kind, header, whole))

    def _seal_cut(self, cut: Cut, group: int) -> _Done:
        plain = self._read(cut)
        fingerprint = blake3.blake3(plain).digest()
        known = self._known(fingerprint, cut.size)
        if known is not None:
            shard = Shard(cut.file, cut.offset, cut.size, known.stored, group, fingerprint.hex(), known.codec)
            self._progress(cut.size)
            return _Done(shard, known.sealed, known.key, reused=True)
        with self._coders:
            stored, kind, base = self._code(cut, plain)
        key = message.generate_key()
        sealed, name = self._sealer().seal(stored, key)
        with self._meter.putting(len(sealed)):
            self._store.put(object_name(name), sealed)
        with self._lock:
            self._written_bytes += len(sealed)
        if self._options.index is not None and kind is not Codec.XOR_SPARSE:
            self._options.index.add(fingerprint, cut.size, Known(name, key, len(stored), kind))
        self._progress(cut.size)
        shard = Shard(cut.file, cut.offset, cut.size, len(stored), group, fingerprint.hex(), kind, base)
        return _Done(shard, name, key, reused=False)

    def _known(self, fingerprint: bytes, size: int) -> Known | None:
        """Return a shard to refer to again, if the store holds it (rule 2)."""
        known = self._lineage.known(fingerprint, size)
        if known is None and self._options.index is not None:
            known = self._options.index.find(fingerprint, size)
        if known is None or self._store.size(object_name(known.sealed)) != known.sealed.length:
            return None
        return known

    def _code(self, cut: Cut, plain: memoryview) -> tuple[memoryview, Codec, DeltaBase | None]:
        """Return what to store for a cut: the shortest of delta, split and raw that is worth it."""
        width = WORD_BYTES.get(cut.dtype, 1)
        base = self._lineage.base_of(cut)
        if base is not None:
            coded = codec.encode_xor_sparse(plain, self._lineage.read(base, cut.size), width)
            if codec.worth(len(coded), cut.size):
                return memoryview(coded), Codec.XOR_SPARSE, base
        if cut.dtype == "BF16" and cut.size % 2 == 0 and self._wants_split():
            with self._meter.coding(cut.size) as coding:
                coded = codec.encode_bf16_split(plain)
                coding.coded_bytes = len(coded)
            if codec.worth(len(coded), cut.size):
                return memoryview(coded), Codec.BF16_SPLIT, None
        return plain, Codec.RAW, None

    def _wants_split(self) -> bool:
        policy = self._options.codec
        return policy is CodecPolicy.SMALL or (policy is CodecPolicy.AUTO and self._meter.coder_pays())

    def _publish(self, groups: list[str], finished: list[_Done]) -> SealReport:
        parent = self._options.parent
        objects = tuple(item.sealed for item in finished)
        draft = Head(self._artifact, self._owner.public.hex(), SealedObject("0" * 64, 1), objects)
        sealed_groups: list[KeyGroup] = []
        for index, group in enumerate(groups):
            keys = [item.key for item in finished if item.shard.group == index]
            group_key = self._owner.group_key(draft, group)
            sealed_groups.append(manifest.seal_group(self._artifact, group, keys, group_key))
        listing = Manifest(
            artifact=self._artifact,
            layout=self._tree.layout,
            name=self._tree.name,
            files=tuple(self._files),
            folders=self._tree.empty,
            tensors=tuple(self._tensors),
            groups=tuple(sealed_groups),
            shards=tuple(item.shard for item in finished),
            signature=self._model_signature(),
        )
        plain = listing.to_bytes()
        ctx = message.context(message.MANIFEST_CONTEXT, len(plain), bytes.fromhex(self._artifact))
        sealed = message.seal(plain, self._owner.manifest_key(draft), ctx)
        final = Head(
            self._artifact,
            draft.owner,
            message.name_of(sealed),
            objects,
            parent.digest if parent is not None else None,
        )
        manifest.parse(plain, final)  # what we publish must pass the reader's own checks
        self._store.put(object_name(final.manifest), sealed)
        name = digest.digest(final.to_bytes())
        self._store.put(head_name(name), final.to_bytes())
        self._store.put(envelope_name(name), head.sign(final, self._owner.signing).to_bytes())
        return self._report(name, finished, len(sealed))

    def _report(self, name: Digest, finished: list[_Done], manifest_bytes: int) -> SealReport:
        return SealReport(
            digest=name,
            size_bytes=sum(item.size for item in self._files),
            sealed_bytes=manifest_bytes + sum(item.sealed.length for item in finished),
            written_bytes=manifest_bytes + self._written_bytes,
            num_shards=len(finished),
            reused_shards=sum(item.reused for item in finished),
            delta_shards=sum(item.shard.codec is Codec.XOR_SPARSE for item in finished),
            coded_shards=sum(item.shard.codec is Codec.BF16_SPLIT for item in finished),
        )

    def _model_signature(self) -> str | None:
        if not self._options.sign_model:
            return None
        from stannary.seal import oms

        whole = self._tree.layout is manifest.Layout.FILE
        listed = {oms.WHOLE if whole else item.path: item.sha256 for item in self._files if item.sha256 is not None}
        return oms.sign(self._tree.name, listed, self._owner.model_signing)

    def _read(self, cut: Cut) -> memoryview:
        leaf = self._tree.leaves[cut.file]
        plain = self._buffer()[: cut.size]
        descriptor = self._tree.open(leaf)
        try:
            read_exactly(descriptor, plain, cut.offset)
            tree.check_unchanged(descriptor, leaf)
        finally:
            os.close(descriptor)
        return plain

    def _buffer(self) -> memoryview:
        if not hasattr(self._local, "buffer"):
            self._local.buffer = memoryview(bytearray(self._options.shard_bytes))
        buffer: memoryview = self._local.buffer
        return buffer

    def _sealer(self) -> message.ShardSealer:
        if not hasattr(self._local, "sealer"):
            self._local.sealer = message.ShardSealer(self._options.shard_bytes)
        sealer: message.ShardSealer = self._local.sealer
        return sealer

    def _progress(self, num_bytes: int) -> None:
        if self._options.progress is not None:
            self._options.progress(num_bytes)


def read_exactly(descriptor: int, into: memoryview, offset: int) -> None:
    """Fill `into` from a file; ConflictError if it is shorter than it was."""
    filled = 0
    while filled < len(into):
        count = os.preadv(descriptor, [into[filled:]], offset + filled)
        if count == 0:
            raise ConflictError("a file became shorter while it was read", why=f"at byte {offset + filled}")
        filled += count


def _read_header(descriptor: int, size: int) -> tuple[int, tuple[tensors.Tensor, ...]]:
    length = tensors.header_length(os.pread(descriptor, tensors.LENGTH_BYTES, 0), size)
    header = bytearray(length)
    read_exactly(descriptor, memoryview(header), tensors.LENGTH_BYTES)
    return tensors.LENGTH_BYTES + length, tensors.parse_header(bytes(header), size)


def _sha256(descriptor: int) -> Digest:
    state = hashlib.sha256()
    piece = memoryview(bytearray(HASH_PIECE_BYTES))
    offset = 0
    while count := os.preadv(descriptor, [piece], offset):
        state.update(piece[:count])
        offset += count
    return digest.from_raw(state.digest())
