"""Open an artifact to files: whole or not at all, and resumable.

Rules:
1. Files grow in a private folder beside PATH. PATH appears by one rename (a folder) or link (a file)
   after the last shard was checked and everything was fsynced; it must not exist before.
2. Space is taken before the first shard is fetched, so a full disk is known at once.
3. Resume: `done` lists finished shards. It is a hint and not believed: each listed shard is hashed again
   on the disk against the sealed manifest, so a power cut or a meddler costs a fetch, never a wrong byte.
4. What cannot be mended by trying again (a refusal, a full disk) takes the private folder with it; a
   lost connection or a kill leaves it for the next run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import blake3

from stannary import files
from stannary.errors import AuthError, ConflictError, EnvironmentProblem, FormatError, Refuted, UsageError
from stannary.formats import digest
from stannary.seal.content import names, weight_index
from stannary.seal.content.file_bytes import of_file
from stannary.seal.content.kinds import FileKind
from stannary.seal.manifest import Layout
from stannary.seal.reader import SealedArtifact, check_jobs, run_all
from stannary.seal.stores.directory import disk_problem

RECORD = struct.Struct(">I")
DATA_FOLDER = "data"
DONE_FILE = "done"
LOCK_FILE = "lock"
NAME_BYTES = 100  # of PATH's name in that of its private folder: both must fit NAME_MAX
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@dataclass(frozen=True, slots=True)
class OpenReport:
    """What was done."""

    path: Path
    size_bytes: int
    num_shards: int
    resumed_shards: int
    fetched_bytes: int


def open_to(
    artifact: SealedArtifact,
    path: Path,
    *,
    jobs: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> OpenReport:
    """Write the files of `artifact` to the new `path`, resuming an earlier run.

    Raises:
        UsageError: PATH exists or has no parent folder.
        Refuted, FormatError, AuthError, ServiceError, EnvironmentProblem: PATH does not exist afterwards.
    """
    if os.path.lexists(path):
        raise UsageError("PATH exists", why=str(path), hint="name a new file or folder with -o")
    if not path.parent.is_dir():
        raise UsageError("no such folder", why=str(path.parent), hint=f"mkdir -p {path.parent}")
    for entry in artifact.manifest.files:
        names.check_path(entry.path)
    num_jobs = check_jobs(artifact.mirrors.default_jobs() if jobs is None else jobs)
    run = _Opening(artifact, path, progress)
    with run.locked():
        try:
            return run.run(num_jobs)
        except (Refuted, FormatError, AuthError, EnvironmentProblem):
            run.discard()  # under the lock: it may be another run's folder a moment later
            raise


def partial_folder(artifact: SealedArtifact, path: Path) -> Path:
    """Return where the files of an unfinished run lie."""
    name = os.fsencode(path.name)
    shown = name[:NAME_BYTES].decode("utf-8", "ignore")
    mark = blake3.blake3(digest.raw(artifact.digest) + name).hexdigest()[:16]
    return path.parent / f".{shown}.{mark}.partial"


class _Opening:
    """One run of `open_to`."""

    def __init__(self, artifact: SealedArtifact, path: Path, progress: Callable[[int], object] | None) -> None:
        self._artifact = artifact
        self._path = path
        self._progress = progress
        self._folder = partial_folder(artifact, path)
        self._data = self._folder / DATA_FOLDER
        self._local = threading.local()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the private folder against a second run."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            _check_private(self._folder)
            descriptor = os.open(self._folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as err:
            raise disk_problem(err, self._folder) from err
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as err:
                raise self._busy() from err
            if not self._holds(descriptor):
                raise self._busy()  # the run that held it has just ended and taken the folder with it
            yield
        finally:
            os.close(descriptor)

    def _holds(self, descriptor: int) -> bool:
        try:
            found = (self._folder / LOCK_FILE).lstat()
        except OSError:
            return False
        held = os.fstat(descriptor)
        return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)

    def _busy(self) -> ConflictError:
        return ConflictError(
            "another run is opening this artifact to the same place",
            why=str(self._path),
            hint="wait for it, or name another -o",
        )

    @contextlib.contextmanager
    def _file(self, number: int, flags: int) -> Iterator[int]:
        """Open one file for a moment: a folder may hold more of them than a process may hold open."""
        path = self._data / self._artifact.manifest.files[number].path
        descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o666)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def run(self, jobs: int) -> OpenReport:
        manifest = self._artifact.manifest
        try:
            self._make_files()
            finished = self._finished()
            if self._progress is not None:
                self._progress(sum(manifest.shards[number].size for number in finished))
            missing = [number for number in range(len(manifest.shards)) if number not in finished]
            done = os.open(self._folder / DONE_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                run_all(((self._fetch, (number, done)) for number in missing), jobs)
            finally:
                os.close(done)
            self._check_headers()
            for number in range(len(manifest.files)):
                with self._file(number, os.O_RDONLY) as descriptor:
                    os.fsync(descriptor)
        except OSError as err:
            raise disk_problem(err, self._path) from err
        self._publish()
        return OpenReport(
            self._path,
            self._artifact.size_bytes,
            len(manifest.shards),
            len(finished),
            self._artifact.mirrors.fetched_bytes,
        )

    def discard(self) -> None:
        """Remove the private folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make_files(self) -> None:
        """Create every file at its full length, space taken (rule 2)."""
        manifest = self._artifact.manifest
        for folder in manifest.folders:
            (self._data / folder).mkdir(parents=True, exist_ok=True)
        self._data.mkdir(exist_ok=True)
        for number, entry in enumerate(manifest.files):
            (self._data / entry.path).parent.mkdir(parents=True, exist_ok=True)
            with self._file(number, os.O_RDWR | os.O_CREAT) as descriptor:
                if os.fstat(descriptor).st_size > entry.size:
                    os.ftruncate(descriptor, entry.size)
                if entry.size:
                    os.posix_fallocate(descriptor, 0, entry.size)

    def _finished(self) -> set[int]:
        """Return the shards that are on the disk already, each hashed again (rule 3)."""
        try:
            listed = (self._folder / DONE_FILE).read_bytes()
        except FileNotFoundError:
            return set()
        whole = len(listed) // RECORD.size * RECORD.size
        os.truncate(self._folder / DONE_FILE, whole)
        shards = self._artifact.manifest.shards
        finished: set[int] = set()
        for (number,) in RECORD.iter_unpack(listed[:whole]):
            if number < len(shards) and number not in finished:
                shard = shards[number]
                view = self._buffer(shard.size)
                with self._file(shard.file, os.O_RDONLY) as descriptor:
                    count = os.preadv(descriptor, [view], shard.offset)
                if count == shard.size and blake3.blake3(view).hexdigest() == shard.plain:
                    finished.add(number)
        return finished

    def _fetch(self, number: int, done: int) -> None:
        shard = self._artifact.manifest.shards[number]
        view = self._buffer(shard.size)
        self._artifact.read_shard(number, view)
        written = 0
        with self._file(shard.file, os.O_WRONLY) as descriptor:
            while written < shard.size:
                written += os.pwrite(descriptor, view[written:], shard.offset + written)
        with self._lock:
            os.write(done, RECORD.pack(number))
            if self._progress is not None:
                self._progress(shard.size)

    def _buffer(self, size: int) -> memoryview:
        held: memoryview | None = getattr(self._local, "buffer", None)
        if held is None or len(held) < size:
            held = self._local.buffer = memoryview(bytearray(size))
        return held[:size]

    def _check_headers(self) -> None:
        """Hold headers to the manifest, and a model's own index of shards to its folder."""
        for index, entry in enumerate(self._artifact.manifest.files):
            if entry.kind is FileKind.BIN and weight_index.is_index(entry.path):
                with self._file(index, os.O_RDONLY) as descriptor:
                    weight_index.check(entry.path, of_file(descriptor, entry.size))
            if entry.kind is FileKind.SAFETENSORS:
                with self._file(index, os.O_RDONLY) as descriptor:
                    header = os.pread(descriptor, entry.header, 0)
                self._artifact.check_header(index, header)

    def _publish(self) -> None:
        """Let PATH appear, whole (rule 1)."""
        manifest = self._artifact.manifest
        try:
            if manifest.layout is Layout.FILE:
                _appear(self._data / manifest.files[0].path, self._path)
            else:
                self._data.rename(self._path)
            files.sync_dir(self._path.parent)
        except FileExistsError as err:
            raise UsageError("PATH appeared meanwhile", why=str(self._path), hint="name another -o") from err
        except OSError as err:
            raise disk_problem(err, self._path) from err
        self.discard()


def _check_private(folder: Path) -> None:
    """Refuse a folder that somebody else prepared: in a shared place he could read or swap what grows there."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise UsageError(
            "the place for unfinished files is not private", why=str(folder), hint="remove it, or name another -o"
        )


def _appear(source: Path, target: Path) -> None:
    """Give a file its final name, never over another one; disks without hard links rename, right after a look."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as err:
        if err.errno not in NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from err
        source.rename(target)
