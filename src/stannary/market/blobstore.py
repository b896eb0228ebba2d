"""Blob files: content-addressed, written once, all or nothing.

    DIR/blobs/sha256/<2 hex>/<64 hex>

Rules:
- Bytes go to a temporary file, are hashed on the way, synced, and renamed only if they are what their
  name says. A full disk, a cut connection or a wrong digest leaves nothing behind.
- Temporary files of a market that was killed are removed at the next start.

Who may read what is left to http/access.py; sizes and owners are in the store.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

from stannary.errors import EnvironmentProblem, FormatError, LimitExceeded, NotFound
from stannary.formats import bounds, digest
from stannary.formats.digest import Digest
from stannary.wire import errors as wire_errors
from stannary.wire.limits import BLOB_CHUNK_BYTES, MAX_BLOB_BYTES

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_WHOLE_READ_BYTES = 64 * 1024 * 1024  # receipts and manifests; larger objects are only streamed

log = logging.getLogger("stannary.market")


class BlobStore:
    """The blob files of one market."""

    def __init__(self, directory: Path) -> None:
        self._root = directory / "sha256"
        self._incoming = directory / "incoming"
        self._root.mkdir(parents=True, exist_ok=True)
        self._incoming.mkdir(exist_ok=True)
        for leftover in self._incoming.iterdir():
            leftover.unlink()

    def path(self, name: Digest) -> Path:
        """Return where a blob lies, or would lie."""
        hexadecimal = digest.parse(name)[len(digest.PREFIX) :]
        return self._root / hexadecimal[:2] / hexadecimal

    def found(self, name: Digest) -> Path:
        """Return where the file of a blob lies that the database knows.

        Raises:
            NotFound: a restored or damaged disk has lost it; the log says so to the operator.
        """
        path = self.path(name)
        if not path.is_file():
            log.error("blob %s is known, and its file is gone", name)
            raise NotFound("the market has lost this blob", why=name, hint="send it again if you have it")
        return path

    def size(self, name: Digest) -> int | None:
        """Return a blob's size, None if it is not here."""
        try:
            return self.path(name).stat().st_size
        except FileNotFoundError:
            return None

    async def receive(self, name: Digest, chunks: AsyncIterator[bytes], *, left_bytes: int = MAX_BLOB_BYTES) -> int:
        """Store a stream under its digest; return its size.

        Args:
            name: the digest its bytes must have.
            chunks: the bytes; no more are read than may be kept.
            left_bytes: what room is held for.

        Raises:
            FormatError: the bytes have another digest.
            LimitExceeded: more than MAX_BLOB_BYTES, or (detail `quota`) than `left_bytes`.
            EnvironmentProblem: the disk is full (507); nothing is kept.
        """
        staged = self._incoming / secrets.token_hex(16)
        try:
            with staged.open("wb") as handle:
                size = await self._drain(name, chunks, handle, left_bytes)
                await asyncio.to_thread(_sync, handle)
            await asyncio.to_thread(self._publish, staged, name)
        except OSError as err:
            raise _problem(err) from err
        finally:
            staged.unlink(missing_ok=True)
        return size

    def put(self, data: bytes) -> Digest:
        """Store bytes of our own (a receipt file); return their digest."""
        name = digest.digest(data)
        staged = self._incoming / secrets.token_hex(16)
        try:
            with staged.open("wb") as handle:
                handle.write(data)
                _sync(handle)
            self._publish(staged, name)
        except OSError as err:
            raise _problem(err) from err
        finally:
            staged.unlink(missing_ok=True)
        return name

    def remove(self, name: Digest) -> None:
        """Delete a blob's file, if it is here."""
        self.path(name).unlink(missing_ok=True)

    def folders(self) -> Iterator[tuple[str, list[Digest]]]:
        """Yield what lies here: each first byte, as two hex digits, and the digests that begin with it."""
        for first in (f"{number:02x}" for number in range(256)):
            if (self._root / first).is_dir():
                names = (path.name for path in (self._root / first).iterdir() if bounds.HEX32.fits(path.name))
                yield first, [Digest(digest.PREFIX + name) for name in names]

    def whole(self, name: Digest) -> bytes:
        """Return a small blob's bytes."""
        path = self.found(name)
        if path.stat().st_size > _WHOLE_READ_BYTES:
            raise LimitExceeded("blob too large to be read at once", why=f"{name}")
        return path.read_bytes()

    def chunks(self, name: Digest) -> Iterator[bytes]:
        """Yield a blob's bytes."""
        with self.path(name).open("rb") as handle:
            while chunk := handle.read(BLOB_CHUNK_BYTES):
                yield chunk

    async def _drain(self, name: Digest, chunks: AsyncIterator[bytes], handle: BinaryIO, left_bytes: int) -> int:
        state, size = hashlib.sha256(), 0
        async for chunk in chunks:
            size += len(chunk)
            if size > left_bytes:
                raise LimitExceeded(
                    "the blob is longer than the room that is held for it",
                    why=f"{left_bytes:,} bytes are held for an upload that does not say its length",
                    hint="send Content-Length: then as much is held as the quota has left",
                    detail=wire_errors.QUOTA,
                )
            if size > MAX_BLOB_BYTES:
                raise LimitExceeded("blob too large", why=f"more than {MAX_BLOB_BYTES:,} bytes")
            state.update(chunk)
            handle.write(chunk)
        if state.hexdigest() != name[len(digest.PREFIX) :]:
            raise FormatError(
                "the blob's bytes have another digest", why=f"sha256:{state.hexdigest()}", detail="digest"
            )
        return size

    def _publish(self, staged: Path, name: Digest) -> None:
        target = self.path(name)
        target.parent.mkdir(exist_ok=True)
        staged.replace(target)
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sync(handle: BinaryIO) -> None:
    handle.flush()
    os.fsync(handle.fileno())


def _problem(err: OSError) -> EnvironmentProblem:
    if err.errno in _NO_SPACE:
        return EnvironmentProblem(
            "the market's disk is full",
            why=f"{err.strerror}; nothing of this blob was kept",
            hint="free space on the market's disk, then send it again",
            detail=wire_errors.DISK_FULL,
        )
    return EnvironmentProblem("the market cannot store the blob", why=f"{err.strerror}")
