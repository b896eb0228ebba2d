"""Files of a work directory on disk: hash and open one of a listing, write a listing from its blobs.

Rules:
1. Reading follows no link: each step of a path is opened with O_NOFOLLOW, and the file must still be a
   plain one once open, so nothing can be swapped in between.
2. Pickles are refused by name and by their first bytes (formats/workdir.py rule 4).
3. Writing goes into a new, empty directory through directory file descriptors: no step of a path is
   followed if it is a link, each blob's digest and size are checked, and a failed write leaves nothing.
   Modes and times are those of the listing and of formats/workdir.py, the same on every node.

Which files of a directory travel is the client's business (sdk/travel.py); sending blobs is the callers'.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stannary.errors import EnvironmentProblem, FormatError, Refuted, UsageError
from stannary.formats import workdir as grammar
from stannary.formats.digest import PREFIX, Digest
from stannary.formats.workdir import WorkFile

IGNORE_FILE = ".stannaryignore"
CHUNK_BYTES = 1024 * 1024
HEAD_BYTES = 64 * 1024  # what is looked at to tell a pickle or a key

OpenBlob = Callable[[Digest], BinaryIO]


@dataclass(frozen=True, slots=True)
class Read:
    """What reading a file once, in pieces, has shown of it."""

    digest: Digest
    size_bytes: int
    is_executable: bool
    head: bytes  # the first HEAD_BYTES bytes at most


def read_entry(root: Path, relative: str) -> tuple[bytes, WorkFile]:
    """Hash one file of a directory; return its first HEAD_BYTES bytes and its line of the listing.

    Raises:
        UsageError: it is no plain file, cannot be read, or changes while it is read.
        FormatError: it is a pickle by name or first bytes.
    """
    grammar.refuse_pickle_name(relative)
    found = read_plain(root, relative)
    mode = grammar.MODE_EXECUTABLE if found.is_executable else grammar.MODE_FILE
    return found.head, WorkFile(relative, mode, found.digest, found.size_bytes)


def read_plain(root: Path, relative: str) -> Read:
    """Read a file to its end in pieces; no more is taken than it held when it was opened."""
    with open_plain(root, relative) as file:
        before = os.fstat(file.fileno())
        state = hashlib.sha256()
        num_bytes = 0
        head = b""
        try:
            while num_bytes <= before.st_size and (part := file.read(CHUNK_BYTES)):
                if num_bytes == 0:
                    grammar.refuse_pickle_bytes(relative, part[: grammar.PICKLE_MAGIC_BYTES])
                    head = part[:HEAD_BYTES]
                state.update(part)
                num_bytes += len(part)
            after = os.fstat(file.fileno())
        except OSError as err:
            raise _unreadable(relative, err) from err
    if (num_bytes, after.st_size, after.st_mtime_ns) != (before.st_size, before.st_size, before.st_mtime_ns):
        raise changed(relative, before.st_size, max(num_bytes, after.st_size))
    return Read(Digest(PREFIX + state.hexdigest()), num_bytes, bool(before.st_mode & stat.S_IXUSR), head)


def changed(relative: str, was_bytes: int, is_bytes: int) -> UsageError:
    """Return the refusal of a file that is written to while it is read or sent."""
    now = f"{is_bytes:,} bytes then" if is_bytes != was_bytes else "other bytes of the same number then"
    return UsageError(
        "a file changed while it was read",
        why=f"{relative!r:.160}: {was_bytes:,} bytes at first, {now}",
        hint=f"end what writes to it and run again, or name it in {IGNORE_FILE}",
    )


def open_file(root: Path, entry: WorkFile) -> BinaryIO:
    """Open one listed file for reading, refusing a link put in its place since."""
    return open_plain(root, entry.path)


def materialise(entries: tuple[WorkFile, ...], target: Path, open_blob: OpenBlob) -> None:
    """Write the files of a listing into the new directory `target`.

    Args:
        entries: a listing; it is checked again, since it may come from another party.
        target: must not exist; its parent must.
        open_blob: gives the bytes of a digest, which are hashed on the way.

    Raises:
        Refuted: a blob is not the bytes its digest names.
        EnvironmentProblem: the disk is full or not writable; `target` is removed.
    """
    checked = grammar.check(entries)
    try:
        target.mkdir(mode=0o755)
    except OSError as err:
        raise EnvironmentProblem("cannot make the work directory", why=str(err)) from err
    try:
        root_fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            for entry in checked:
                _write(root_fd, entry, open_blob)
            for _, _, _, folder_fd in os.fwalk(dir_fd=root_fd, topdown=False):
                os.fchmod(folder_fd, grammar.MODE_EXECUTABLE)
                os.utime(folder_fd, (grammar.FILE_TIME_S, grammar.FILE_TIME_S))
        finally:
            os.close(root_fd)
    except OSError as err:
        shutil.rmtree(target, ignore_errors=True)
        what = "disk full" if err.errno in (errno.ENOSPC, errno.EDQUOT) else "cannot write the work directory"
        raise EnvironmentProblem(what, why=str(err), hint="free space and start again") from err
    except (Refuted, FormatError):
        shutil.rmtree(target, ignore_errors=True)
        raise


def not_plain(relative: str, mode: int) -> UsageError:
    """Return the refusal of a name that is no plain file."""
    kinds = {stat.S_IFLNK: "a symlink", stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket"}
    kind = kinds.get(stat.S_IFMT(mode), "a device file")
    return UsageError(
        f"{kind} cannot be sent",
        why=f"{relative!r:.120}: only plain files travel",
        hint=f"copy the file in, or name it in {IGNORE_FILE}",
    )


def open_plain(root: Path, relative: str) -> BinaryIO:
    """Open a plain file, following no link at any step of its path below `root` (rule 1)."""
    *folders, name = relative.split("/")
    opened: list[int] = []
    try:
        opened.append(os.open(root, os.O_RDONLY | os.O_DIRECTORY))
        for folder in folders:
            opened.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened[-1]))
        # O_NONBLOCK: a fifo swapped in after the scan must not hang the open.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=opened[-1])
    except OSError as err:
        if err.errno == errno.ELOOP:
            raise not_plain(relative, stat.S_IFLNK) from err
        raise _unreadable(relative, err) from err
    finally:
        for folder_fd in opened:
            os.close(folder_fd)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise not_plain(relative, mode)
    return os.fdopen(fd, "rb")


def _unreadable(relative: str, err: OSError) -> UsageError:
    if err.errno in (errno.ENOENT, errno.ENOTDIR):
        return UsageError(
            "a file that is to be sent is not there", why=f"{relative!r:.160}", hint="check its path, then run again"
        )
    return UsageError(
        "cannot read a file that is to be sent",
        why=f"{relative!r:.160}: {err.strerror or err}",
        hint=f"make it readable (chmod u+r), or name it in {IGNORE_FILE}",
    )


def _write(root_fd: int, entry: WorkFile, open_blob: OpenBlob) -> None:
    *directories, name = entry.path.split("/")
    opened: list[int] = []
    parent_fd = root_fd
    try:
        for directory in directories:
            with contextlib.suppress(FileExistsError):  # made for an earlier file; a link is refused by the open below
                os.mkdir(directory, 0o755, dir_fd=parent_fd)
            parent_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent_fd)
            opened.append(parent_fd)
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, entry.mode, dir_fd=parent_fd)
        with os.fdopen(fd, "wb") as file, open_blob(entry.digest) as blob:
            _copy(blob, file, entry)
            os.fchmod(file.fileno(), entry.mode)  # the umask of whoever started us has no say
            file.flush()
            os.utime(file.fileno(), (grammar.FILE_TIME_S, grammar.FILE_TIME_S))
    finally:
        for fd in opened:
            os.close(fd)


def _copy(blob: BinaryIO, file: BinaryIO, entry: WorkFile) -> None:
    state = hashlib.sha256()
    num_bytes = 0
    while part := blob.read(CHUNK_BYTES):
        if num_bytes == 0:
            grammar.refuse_pickle_bytes(entry.path, part[: grammar.PICKLE_MAGIC_BYTES])
        num_bytes += len(part)
        if num_bytes > entry.size_bytes:
            break
        state.update(part)
        file.write(part)
    if num_bytes != entry.size_bytes or PREFIX + state.hexdigest() != entry.digest:
        raise Refuted("a file is not what the listing names", why=f"{entry.path!r:.120}: other bytes than its digest")
