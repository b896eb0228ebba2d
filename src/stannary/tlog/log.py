"""The log writer: group commit, durable before acknowledged, and never two histories.

    log = Log.open(directory, origin, key, cosigner)
    index = await asyncio.wrap_future(log.append(leaf))      # resolved once a published checkpoint covers it
    indexes = await asyncio.wrap_future(log.append_many(leaves))
    log.flush()                                              # commit now instead of after `interval_s`
    note = log.checkpoint()                                  # latest published, cosigned note text
    log.confirm()                                            # has the witness seen no more than this log holds?
    log.size, log.inclusion(index, size), log.consistency(old, new), log.index_of(leaf)
    text = log.proof(index)                                  # tlog-proof text against the latest checkpoint
    log.close()

Rules:
1. One writer: the directory is locked for the life of the process (flock), or two of them would fork the log.
2. Order of one commit: entries and tiles durable; then the signed note durable as `checkpoint.signed`; only then
   does the note leave the process (to the witness); with the cosignatures it becomes `checkpoint`; then
   futures resolve. A kill at any point loses no acknowledged index.
3. What was signed once is kept for ever: after a kill between signing and publishing, opening takes up
   `checkpoint.signed` and publishes it first. Another root of that size is never signed.
4. What was not signed is not history: if tiles cannot be written (full disk), the batch leaves the tree again and
   its futures fail with EnvironmentProblem.
5. Appending a leaf that is in the log returns its index; a retry after a lost answer does not log twice.
6. While the witness is away the batch waits, up to `cosign_patience_s`; then its futures fail with the witness's error.
   The leaves stay (rule 3); the next commit publishes them, and a retry is answered with their indexes.

The map of leaves to indexes is kept in memory (about 170 bytes a leaf); past some ten million leaves it wants a disk.
The network is left to the cosigner, HTTP to the market.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary.errors import ConflictError, FormatError, NotFound, Refuted, StannaryError
from stannary.formats import note
from stannary.formats.dsse import public_bytes
from stannary.formats.note import Checkpoint, VerifierKey
from stannary.tlog.proof import Proof
from stannary.tlog.tiles import LEAF_BYTES, TileDirectory
from stannary.tlog.tree import Tree

INTERVAL_S = 0.05  # group commit: long enough to gather a burst, short beside a task
COSIGN_PATIENCE_S = 10.0  # a witness that restarts is back within this
COSIGN_RETRY_S = 0.2
PUBLISHED = "checkpoint"
SIGNED = "checkpoint.signed"
RESTORE = "put back a whole backup: stannary market restore --from FOLDER"


class Cosigner(Protocol):
    """Gets cosignature lines for a checkpoint; called by the writer thread, outside every lock.

    `consistency(old)` gives the proof from the witness's own last size to `size`. Raises StannaryError if the
    witness does not answer (retried) or refuses.
    """

    def __call__(self, signed_note: str, size: int, consistency: Callable[[int], list[bytes]]) -> Sequence[str]: ...


@dataclass(slots=True)
class _Batch:
    leaves: list[bytes]
    future: Future[list[int]]
    indexes: list[int] = field(default_factory=list)


class Log:
    """A transparency log in a directory. All methods may be called from any thread."""

    def __init__(self, directory: TileDirectory, key: VerifierKey, signer: Ed25519PrivateKey, lock_fd: int) -> None:
        self.key = key
        self._directory = directory
        self._signer = signer
        self._lock_fd = lock_fd
        self._cosigner: Cosigner | None = None
        self._interval_s = INTERVAL_S
        self._cosign_patience_s = COSIGN_PATIENCE_S
        self._tree = Tree()
        self._index: dict[bytes, int] = {}
        self._published = ""
        self._size = 0  # of the published checkpoint
        self._signed_size = 0  # of checkpoint.signed, >= _size
        self._state = threading.Lock()  # guards the tree, the index and the three fields above
        self._wake = threading.Condition()  # guards the queue and the flags below
        self._queue: list[_Batch] = []
        self._hurry = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"log {key.name}", daemon=True)

    @classmethod
    def open(
        cls,
        directory: Path,
        origin: str,
        key: Ed25519PrivateKey,
        cosigner: Cosigner | None = None,
        *,
        interval_s: float = INTERVAL_S,
        cosign_patience_s: float = COSIGN_PATIENCE_S,
    ) -> Log:
        """Open or create the log under `directory`, check all its files, and start the writer.

        Raises:
            ConflictError: another process writes this log.
            EnvironmentProblem: damaged or unreadable files; nothing is repaired silently.
            Refuted: a checkpoint file that this key has not signed.
        """
        verifier = note.parse_vkey(note.format_vkey(origin, public_bytes(key)))
        directory.mkdir(parents=True, exist_ok=True)
        log = cls(TileDirectory(directory), verifier, key, _lock(directory))
        log._cosigner, log._interval_s, log._cosign_patience_s = cosigner, interval_s, cosign_patience_s
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, log._lock_fd)  # the lock of a log nobody opened must be let go
            log._load()
            log._thread.start()
            undo.pop_all()
        return log

    @property
    def vkey(self) -> str:
        """Return the log's verifier key."""
        return str(self.key)

    @property
    def size(self) -> int:
        """Return the size of the published checkpoint."""
        return self._size

    def append(self, leaf: bytes) -> Future[int]:
        """Queue one 32-byte leaf; the future gives its index once a published checkpoint covers it."""
        single: Future[int] = Future()
        single.set_running_or_notify_cancel()

        def unpack(many: Future[list[int]]) -> None:
            error = many.exception()
            if error is not None:
                single.set_exception(error)
            else:
                single.set_result(many.result()[0])

        self.append_many([leaf]).add_done_callback(unpack)
        return single

    def append_many(self, leaves: Sequence[bytes]) -> Future[list[int]]:
        """Queue leaves that are committed together, in order."""
        for leaf in leaves:
            if len(leaf) != LEAF_BYTES:
                raise FormatError("not a log leaf", why=f"{len(leaf)} bytes, expected {LEAF_BYTES}")
        batch = _Batch([bytes(leaf) for leaf in leaves], Future())
        batch.future.set_running_or_notify_cancel()  # a caller that stops waiting does not unqueue
        with self._wake:
            if self._closing:
                raise ConflictError("the log is closed", hint="start the market again")
            self._queue.append(batch)
            if len(self._queue) == 1:  # the writer gathers the rest by itself; waking it each time costs a switch
                self._wake.notify()
        return batch.future

    def flush(self) -> None:
        """Ask for a commit now; returns at once."""
        with self._wake:
            self._hurry = True
            self._wake.notify()

    def checkpoint(self) -> str:
        """Return the latest published note text, with its cosignatures."""
        return self._published

    def index_of(self, leaf: bytes) -> int | None:
        """Return the index of a published leaf, None if it is not in the log."""
        with self._state:
            index = self._index.get(leaf)
            return index if index is not None and index < self._size else None

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Return the audit path of a leaf in the tree of `size`."""
        with self._state:
            return self._tree.inclusion(index, self._checked(size))

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Return the proof that the tree of `old` is a prefix of the tree of `new`."""
        with self._state:
            return self._tree.consistency(old, self._checked(new))

    def proof(self, index: int) -> str:
        """Return the tlog-proof text of a leaf against the latest published checkpoint."""
        with self._state:
            return Proof(index, tuple(self._tree.inclusion(index, self._size)), self._published).to_text()

    def confirm(self) -> None:
        """Have the newest checkpoint cosigned again, before anything is appended: a witness has no older one by heart.

        Raises:
            StannaryError: the witness does not answer, or has cosigned what this log does not hold.
        """
        size = self._signed_size
        if self._cosigner is not None and size:
            signed = note.sign_checkpoint(self.key.name, size, self._tree.root(size), self._signer)
            self._cosigner(signed, size, lambda old: self._consistency_of_signed(old, size))

    def close(self) -> None:
        """Commit what is queued, stop the writer, and let the directory go."""
        with self._wake:
            if self._closing:
                return
            self._closing = True
            self._wake.notify()
        self._thread.join()
        os.close(self._lock_fd)

    def _checked(self, size: int) -> int:
        if not 0 <= size <= self._size:
            raise NotFound("no such tree size", why=f"{size}, the published log has {self._size} leaves")
        return size

    # --- opening ---

    def _load(self) -> None:
        published, signed = self._read_note(PUBLISHED), self._read_note(SIGNED)
        latest = signed if signed and (not published or signed[1].size > published[1].size) else published
        if latest:
            self._rebuild(latest[1])
        if published:
            self._published, self._size = published[0], published[1].size
            if self._tree.root(self._size) != published[1].root:
                raise ConflictError(
                    "the log has two histories", why="checkpoint and checkpoint.signed disagree", hint=RESTORE
                )
        if not latest:
            # an empty tree holds nothing to witness; published so that readers always find a checkpoint
            self._published = note.sign_checkpoint(self.key.name, 0, self._tree.root(), self._signer)
            self._directory.write(PUBLISHED, self._published.encode())
        self._hurry = self._signed_size > self._size  # rule 3

    def _read_note(self, name: str) -> tuple[str, Checkpoint] | None:
        data = self._directory.read(name)
        if data is None:
            return None
        try:
            return data.decode("utf-8", "replace"), note.verify_checkpoint(data, self.key)
        except (Refuted, FormatError) as err:
            raise type(err)(
                "the log's checkpoint is damaged, or another's", why=f"{name}: {err}", hint=RESTORE
            ) from err

    def _rebuild(self, checkpoint: Checkpoint) -> None:
        leaves = list(self._directory.leaves(checkpoint.size))
        self._tree.extend(leaves)
        if self._tree.root() != checkpoint.root:
            raise ConflictError(
                "the log's entries are not those of its checkpoint",
                why=f"size {checkpoint.size}",
                hint=RESTORE,
            )
        self._directory.check_tiles(self._tree)
        self._index = {leaf: index for index, leaf in enumerate(leaves)}
        self._signed_size = checkpoint.size

    # --- the writer thread ---

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._queue or self._hurry or self._closing):
                    self._wake.wait()
                if not (self._hurry or self._closing):
                    # gather a burst; flush() or close() cuts it short
                    self._wake.wait_for(lambda: self._hurry or self._closing, timeout=self._interval_s)
                queue, self._queue, self._hurry = self._queue, [], False
                closing = self._closing
            if queue or self._signed_size > self._size:
                self._commit(queue)
            if closing:
                with self._wake:
                    if not self._queue:
                        return

    def _commit(self, queue: list[_Batch]) -> None:
        try:
            self._store(queue)
            if self._signed_size > self._size:
                self._publish(self._signed_size)
        except Exception as err:  # noqa: BLE001  a thread's edge: it belongs to the callers, and the writer must live on
            for batch in queue:
                batch.future.set_exception(err)
            return
        for batch in queue:
            batch.future.set_result(batch.indexes)

    def _store(self, queue: list[_Batch]) -> None:
        """Give indexes, make tiles durable, sign; undo in memory if the disk refuses (rule 4)."""
        start = self._signed_size
        fresh: list[bytes] = []
        with self._state:
            for batch in queue:
                for leaf in batch.leaves:
                    index = self._index.get(leaf)
                    if index is None:
                        index = start + len(fresh)
                        self._index[leaf] = index
                        fresh.append(leaf)
                    batch.indexes.append(index)
            self._tree.extend(fresh)
        if not fresh:
            return
        with contextlib.ExitStack() as undo:
            undo.callback(self._forget, fresh, start)  # memory must not hold leaves the disk does not (rule 4)
            self._directory.write_range(self._tree, fresh, start)
            self._write_signed()
            undo.pop_all()
        self._signed_size = start + len(fresh)

    def _forget(self, fresh: list[bytes], start: int) -> None:
        with self._state:
            self._tree.truncate(start)
            for leaf in fresh:
                del self._index[leaf]

    def _write_signed(self) -> None:
        size = self._tree.size
        signed = note.sign_checkpoint(self.key.name, size, self._tree.root(size), self._signer)
        self._directory.write(SIGNED, signed.encode())

    def _publish(self, size: int) -> None:
        signed = note.sign_checkpoint(self.key.name, size, self._tree.root(size), self._signer)  # Ed25519: same bytes
        cosigned = note.add_cosignatures(signed, self._cosignatures(signed, size))
        self._directory.write(PUBLISHED, cosigned.encode())
        with self._state:
            old, self._size, self._published = self._size, size, cosigned
        with contextlib.suppress(OSError):  # a partial tile that stays harms nobody
            self._directory.prune(old, size)

    def _cosignatures(self, signed: str, size: int) -> Sequence[str]:
        if self._cosigner is None:
            return ()
        deadline = time.monotonic() + self._cosign_patience_s
        while True:
            try:
                return self._cosigner(signed, size, lambda old: self._consistency_of_signed(old, size))
            except StannaryError:
                with self._wake:
                    remaining = deadline - time.monotonic()
                    if remaining <= 0 or self._closing:
                        raise
                    self._wake.wait_for(lambda: self._closing, timeout=min(COSIGN_RETRY_S, remaining))

    def _consistency_of_signed(self, old: int, size: int) -> list[bytes]:
        with self._state:  # a witness that is late may ask while the next commit is made
            return self._tree.consistency(old, size)


def _lock(directory: Path) -> int:
    handle = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        os.close(handle)
        raise ConflictError(
            "another process writes this log", why=str(directory), hint="stop the other market first"
        ) from err
    return handle
