"""Inputs a node keeps: one file per digest, shared by all its jobs through hard links.

    DIR/blobs/<64 hex>     the same file as DIR/jobs/<job>/blobs/<64 hex> of every job that uses it

Rules:
1. A file is here under the digest of its bytes. They are hashed again before the first use after a start:
   a disk may have changed them meanwhile, and what changed is fetched anew.
2. At most `max_bytes` and `max_files` are kept; what was used longest ago goes first.
3. What a job uses is never removed: its link is counted by the file system itself.

The directory is the agent's own; a job sees the links of its own inputs, read-only. So it is the time of use that tells
what was used last: the time of change is the same on every node (formats/workdir.py).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

from stannary import files
from stannary.errors import EnvironmentProblem
from stannary.formats.digest import PREFIX, Digest

MAX_CACHE_BYTES = 32 * 1024**3  # a corpus and some rounds of a model of a billion weights
MAX_CACHE_FILES = 100_000  # files of work directories are small; a file system runs out of inodes before bytes
PATIENCE = 64  # where all that is kept is in use, the next look comes after one part in so many of a cap


@dataclass(slots=True)
class BlobCache:
    """The shared inputs of one node; used by both threads that have jobs in hand, one at a time."""

    root: Path
    max_bytes: int = MAX_CACHE_BYTES
    max_files: int = MAX_CACHE_FILES
    _checked: set[str] = field(default_factory=set)
    _num_bytes: int = 0  # by the last look, and what was kept since
    _num_files: int = 0
    _due_bytes: int = -1  # beyond these the next look is due
    _due_files: int = -1
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def has(self, named: Digest, size_bytes: int) -> bool:
        """Say whether a blob is here, whole."""
        with self._lock:
            path = self._path(named)
            if not _has_size(path, size_bytes):
                path.unlink(missing_ok=True)
                return False
            if path.name not in self._checked:
                if _hash(path) != path.name:
                    path.unlink(missing_ok=True)
                    return False
                self._checked.add(path.name)
            return True

    def take(self, named: Digest, size_bytes: int, target: Path) -> bool:
        """Link a blob to where a job looks for it; False where it is not here."""
        with self._lock:
            if not self.has(named, size_bytes):
                return False
            path = self._path(named)
            files.show_alike(path, 0o444)
            link(path, target)
            return True

    def keep(self, named: Digest, source: Path) -> None:
        """Keep a file that was hashed on its way; the oldest others make room for it.

        One that finds no room is not kept: that costs the next who needs it a fetch, and nobody a job.
        """
        with self._lock:
            path = self._path(named)
            try:
                files.make_private_dir(self.root)
                if not path.exists():
                    link(source, path)
                    self._checked.add(path.name)
                    self._num_bytes, self._num_files = self._num_bytes + path.stat().st_size, self._num_files + 1
            except EnvironmentProblem:
                return
            if self._num_bytes > self._due_bytes or self._num_files > self._due_files:
                self.trim()

    def trim(self, spare_bytes: int = 0, spare_files: int = 0) -> None:
        """Look at all that is kept; remove what was used longest ago until the caps hold and so much more is free."""
        with self._lock:
            found = [(path, path.stat()) for path in self.root.glob("*")]
            num_bytes, num_files = sum(stat.st_size for _, stat in found), len(found)
            most_bytes, most_files = (
                min(self.max_bytes, num_bytes - spare_bytes),
                min(self.max_files, num_files - spare_files),
            )
            for path, stat in sorted(found, key=lambda item: item[1].st_atime):
                if num_bytes <= most_bytes and num_files <= most_files:
                    break
                if stat.st_nlink == 1:
                    path.unlink(missing_ok=True)
                    self._checked.discard(path.name)
                    num_bytes, num_files = num_bytes - stat.st_size, num_files - 1
            self._num_bytes, self._num_files = num_bytes, num_files
            self._due_bytes = self.max_bytes if num_bytes <= self.max_bytes else num_bytes + self.max_bytes // PATIENCE
            self._due_files = self.max_files if num_files <= self.max_files else num_files + self.max_files // PATIENCE

    def _path(self, named: Digest) -> Path:
        return self.root / named.removeprefix(PREFIX)


def link(source: Path, target: Path) -> None:
    """Have a file under a second name, read-only; copied where the file system knows no links."""
    fresh = target.with_name(f".{target.name}.part")
    try:
        fresh.unlink(missing_ok=True)
        try:
            os.link(source, fresh)
        except OSError:  # no links here, or too many: EPERM, EXDEV, EMLINK
            shutil.copyfile(source, fresh)
        fresh.chmod(0o444)
        fresh.replace(target)
    except OSError as err:
        raise EnvironmentProblem("cannot keep a blob", why=str(err), hint="free disk space") from err
    finally:
        fresh.unlink(missing_ok=True)


def _has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except FileNotFoundError:
        return False


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
