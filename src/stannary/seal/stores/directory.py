"""A folder as a store of sealed objects.

Reads go through `readv` into one buffer per reader, which is why this is not `obstore`'s local store:
that returns fresh memory for every read, and the page faults cost more than the decryption
(docs/adr/0006). Bytes are copied before they are checked, never mapped: a mapped file could change
between check and use. Objects are opened without following links and must be regular files.

Writes go to a temporary name in the same folder, are fsynced, then renamed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from stannary.errors import EnvironmentProblem, LimitExceeded, NotFound
from stannary.seal.message import Buffer
from stannary.seal.stores.source import PIECE_BYTES, SourceFailure

TEMPORARY_PREFIX = ".incoming-"
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class DirectoryStore:
    """Objects as files below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)
        self._scratch = threading.local()

    def read(self, name: str, limit: int) -> bytes:
        """Return an object whole."""
        descriptor, length = self.open_object(name)
        with os.fdopen(descriptor, "rb") as file:
            if length > limit:
                raise LimitExceeded("object too large", why=f"{name}: {length:,} bytes, limit {limit:,}")
            return file.read(limit)

    def stream(self, name: str, length: int) -> Iterator[memoryview]:
        """Yield an object in pieces of one reused buffer per thread."""
        scratch = self._buffer()
        descriptor, actual = self.open_object(name)
        try:
            left = min(length, actual) if actual <= length else 0  # a longer object is another one: end at once
            while left:
                count = os.readv(descriptor, [scratch[: min(left, PIECE_BYTES)]])
                if count == 0:
                    return
                left -= count
                yield scratch[:count]
        except OSError as err:
            raise SourceFailure("cannot read an object", why=f"{self.root / name}: {err.strerror}") from err
        finally:
            os.close(descriptor)

    def size(self, name: str) -> int | None:
        """Return the length of an object, None if it is not there."""
        try:
            found = (self.root / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str) -> list[str]:
        """Return the names under `prefix/`, without files still being written."""
        try:
            entries = sorted(entry.name for entry in os.scandir(self.root / prefix) if entry.is_file())
        except FileNotFoundError:
            return []
        return [f"{prefix}/{entry}" for entry in entries if not entry.startswith(TEMPORARY_PREFIX)]

    def put(self, name: str, data: Buffer) -> None:
        """Write one object durably under its name."""
        target = self.root / name
        temporary = target.with_name(TEMPORARY_PREFIX + secrets.token_hex(8))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
            with contextlib.ExitStack() as undo:  # an interrupt too leaves no half of an object behind
                undo.callback(temporary.unlink, missing_ok=True)
                with os.fdopen(descriptor, "wb", buffering=0) as file:
                    write_all(file.fileno(), memoryview(data))
                    os.fdatasync(file.fileno())
                temporary.rename(target)
                undo.pop_all()
        except OSError as err:
            raise disk_problem(err, target) from err

    def open_object(self, name: str) -> tuple[int, int]:
        """Return an open descriptor and the length of an object; the caller closes it."""
        path = self.root / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError) as err:
            raise NotFound("no such object", why=str(path)) from err
        except OSError as err:
            raise SourceFailure("cannot open an object", why=f"{path}: {err.strerror}") from err
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise SourceFailure("an object is not a regular file", why=str(path))
        return descriptor, found.st_size

    def _buffer(self) -> memoryview:
        buffer: memoryview | None = getattr(self._scratch, "buffer", None)
        if buffer is None:
            buffer = self._scratch.buffer = memoryview(bytearray(PIECE_BYTES))
        return buffer


def write_all(descriptor: int, data: memoryview) -> None:
    """Write the whole of `data`."""
    while data:
        data = data[os.write(descriptor, data) :]


def disk_problem(err: OSError, path: Path) -> EnvironmentProblem:
    """Return our error for a failed write."""
    if err.errno in DISK_FULL:
        return EnvironmentProblem(
            "disk full", why=f"{path}: {err.strerror}", hint="free space, or write to another disk"
        )
    return EnvironmentProblem("cannot write", why=f"{path}: {err.strerror}", hint="name a place you may write to")
