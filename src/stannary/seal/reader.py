"""A sealed artifact opened for reading: checked head, manifest and key groups, shards on demand.

Rules:
1. Everything starts from the artifact digest the caller gives (head.py rule 1).
2. A shard counts when the whole of it was checked: name, tag, padding; for a coded shard also the
   BLAKE3 of what it decodes to. A raw shard needs no second hash: its bytes and its key are pinned and
   the cipher commits to its key, so there is one plaintext.
3. Deltas read their base from the parent artifact, opened the same way by the digest in the head, at
   most MAX_CHAIN deep.
4. Memory is bounded by the workers, never by the artifact: one piece and one shard each.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

import blake3

from stannary.errors import FormatError, LimitExceeded, Refuted, UsageError
from stannary.formats.digest import Digest
from stannary.seal import codec as coder
from stannary.seal import manifest as manifest_format
from stannary.seal import message
from stannary.seal.content import tensors
from stannary.seal.head import Head
from stannary.seal.keys import KeyRing
from stannary.seal.manifest import Codec, DeltaBase, Manifest, Shard
from stannary.seal.stores.mirrors import Mirrors
from stannary.seal.stores.source import Source

MAX_CHAIN = 16  # deltas upon deltas; the sealer writes a full artifact long before
MAX_JOBS = 64
DECODERS = 2  # at once, whatever the number of connections: each holds an operand and temporaries

Progress = Callable[[int], object]


class SealedArtifact:
    """One artifact of which the index can be read. Thread safe."""

    def __init__(self, mirrors: Mirrors, keys: KeyRing, *, depth: int = 0) -> None:
        if depth > MAX_CHAIN:
            raise LimitExceeded("too many deltas upon deltas", why=f"more than {MAX_CHAIN}")
        self.mirrors = mirrors
        self.digest: Digest = mirrors.artifact
        self.head: Head = mirrors.head()
        self._keys = keys
        self._depth = depth
        sealed = mirrors.object(self.head.manifest)
        self.manifest: Manifest = manifest_format.parse(_unseal_manifest(self.head, sealed, keys), self.head)
        self._starts = [(shard.file, shard.offset) for shard in self.manifest.shards]
        self._members = manifest_format.group_members(self.manifest)
        self._shard_keys: dict[int, bytes] = {}
        self._parent: SealedArtifact | None = None
        self._lock = threading.Lock()
        self._decoders = threading.BoundedSemaphore(DECODERS)

    @property
    def size_bytes(self) -> int:
        """Decoded length of all files."""
        return sum(item.size for item in self.manifest.files)

    def parent(self) -> SealedArtifact:
        """Return the artifact that deltas refer to, opened once."""
        if self.head.parent is None:
            raise FormatError("artifact has no parent", why=self.digest)
        with self._lock:
            if self._parent is None:
                self._parent = SealedArtifact(self.mirrors.of(self.head.parent), self._keys, depth=self._depth + 1)
            return self._parent

    def shard_key(self, number: int) -> bytes:
        """Return the key of a shard, opening its group on first use; AuthError if it was not released."""
        with self._lock:
            if number not in self._shard_keys:
                index = self.manifest.shards[number].group
                group_key = self._keys.group_key(self.head, self.manifest.groups[index].id)
                opened = manifest_format.open_group(self.manifest, index, self._members[index], group_key)
                self._shard_keys.update(opened)
            return self._shard_keys[number]

    def read_shard(self, number: int, into: memoryview) -> None:
        """Fetch, check, decrypt and decode one shard into `into` (exactly its decoded length)."""
        shard = self.manifest.shards[number]
        sealed = self.head.shards[number]
        if shard.codec is Codec.RAW:
            self.mirrors.open_shard(sealed, self.shard_key(number), into)
            return
        stored = memoryview(bytearray(shard.stored))
        self.mirrors.open_shard(sealed, self.shard_key(number), stored)
        with self._decoders:
            self._decode(shard, stored, into)
        if blake3.blake3(into).hexdigest() != shard.plain:
            raise Refuted("shard decodes to other bytes", why=f"shard {number} of {self.digest}")

    def read_range(self, file: int, offset: int, into: memoryview) -> None:
        """Read bytes of one file, in whole shards, into `into`."""
        end = offset + len(into)
        if not 0 <= file < len(self.manifest.files) or not 0 <= offset <= end <= self.manifest.files[file].size:
            raise FormatError("range outside its file", why=f"file {file}, bytes {offset} to {end}")
        for number in self.shards_of(file, offset, end):
            shard = self.manifest.shards[number]
            first, last = max(offset, shard.offset), min(end, shard.offset + shard.size)
            target = into[first - offset : last - offset]
            if (first, last) == (shard.offset, shard.offset + shard.size):
                self.read_shard(number, target)
            else:
                whole = memoryview(bytearray(shard.size))
                self.read_shard(number, whole)
                target[:] = whole[first - shard.offset : last - shard.offset]

    def shards_of(self, file: int, begin: int, end: int) -> list[int]:
        """Return the numbers of the shards that hold [begin, end) of a file."""
        # Shards tile the files in order (manifest.py rule 1), so those of a range are neighbours.
        first = max(0, bisect.bisect_right(self._starts, (file, begin)) - 1)
        stop = bisect.bisect_left(self._starts, (file, end))
        shards = self.manifest.shards
        return [
            number
            for number in range(first, stop if begin < end else first)
            if shards[number].file == file and begin < shards[number].offset + shards[number].size
        ]

    def read_shards(
        self, wanted: Iterable[tuple[int, memoryview]], *, jobs: int | None = None, done: Progress | None = None
    ) -> None:
        """Read many shards with several threads; the first failure stops the rest and is raised."""

        def one(number: int, into: memoryview) -> None:
            self.read_shard(number, into)
            if done is not None:
                done(number)

        run_all(((one, item) for item in wanted), self.mirrors.default_jobs() if jobs is None else jobs)

    def check_header(self, file: int, header: bytes) -> None:
        """Compare a safetensors header with the index: one truth, not two (Refuted)."""
        entry = self.manifest.files[file]
        length = tensors.header_length(header[: tensors.LENGTH_BYTES], entry.size)
        listed = tensors.parse_header(header[tensors.LENGTH_BYTES :], entry.size)
        theirs = {(item.name, item.dtype, item.shape, item.begin, item.end) for item in listed}
        rows = (item for item in self.manifest.tensors if item.file == file)
        ours = {(item.name, item.dtype, item.shape, item.begin, item.end) for item in rows}
        if theirs != ours or tensors.LENGTH_BYTES + length != entry.header:
            raise Refuted("index and file disagree about tensors", why=f"{entry.path!r:.80}")

    def _decode(self, shard: Shard, stored: memoryview, into: memoryview) -> None:
        if shard.codec is Codec.BF16_SPLIT:
            coder.decode_bf16_split(stored, into)
            return
        base = shard.base or DeltaBase(0, 0)  # the manifest reader refuses a delta without a base
        operand = memoryview(bytearray(shard.size))
        self.parent().read_range(base.file, base.offset, operand)
        coder.decode_xor_sparse(stored, operand, into)


def open_artifact(digest: Digest, sources: Iterable[Source], keys: KeyRing) -> SealedArtifact:
    """Open an artifact by digest from any of `sources`."""
    listed = tuple(sources)
    if not listed:
        raise UsageError("no source to read from", hint="--from DIR or --from URL")
    return SealedArtifact(Mirrors(digest, listed), keys)


def run_all(calls: Iterable[tuple[Callable[..., object], tuple[object, ...]]], jobs: int) -> None:
    """Run calls in a bounded pool; stop at the first failure and raise it."""
    jobs = check_jobs(jobs)
    with ThreadPoolExecutor(jobs, thread_name_prefix="seal") as pool:
        running: set[Future[object]] = set()
        try:
            for call, arguments in calls:
                running.add(pool.submit(call, *arguments))
                if len(running) >= 2 * jobs:
                    finished, running = wait(running, return_when="FIRST_COMPLETED")
                    for future in finished:
                        future.result()
            finished, running = wait(running, return_when=FIRST_EXCEPTION)
            for future in finished:
                future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def check_jobs(jobs: int) -> int:
    """Return a permitted number of threads."""
    if not 1 <= jobs <= MAX_JOBS:
        raise UsageError("number of jobs refused", why=str(jobs), hint=f"--jobs 1 to {MAX_JOBS}")
    return jobs


def _unseal_manifest(head: Head, sealed: bytes, keys: KeyRing) -> bytes:
    plain_bytes = _manifest_plain_bytes(len(sealed))
    ctx = message.context(message.MANIFEST_CONTEXT, plain_bytes, bytes.fromhex(head.artifact))
    return message.unseal(sealed, keys.manifest_key(head), ctx, what="the manifest")


def _manifest_plain_bytes(sealed_bytes: int) -> int:
    """Return the plaintext length of a message of that length (the context names it)."""
    whole, rest = divmod(sealed_bytes - message.PREFIX_BYTES, message.CHUNK_BYTES + message.TAG_BYTES)
    if whole < 0 or rest < message.TAG_BYTES:
        raise Refuted("the manifest is cut", why=f"{sealed_bytes:,} bytes")
    return whole * message.CHUNK_BYTES + rest - message.TAG_BYTES
