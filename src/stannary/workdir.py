"""Work directories on disk: read one into a listing, write one from its blobs.

Rules:
1. Reading follows no link. A symlink, device, fifo or socket is refused by name; each file is opened
   with O_NOFOLLOW and must still be a plain file once open, so nothing can be swapped in between.
2. Ignored: `.git`, `__pycache__`, `.venv`, and what `.stannaryignore` says (one shell pattern a line;
   `#` begins a comment; a pattern with a slash is matched against the whole path, others against each
   name on the way).
3. Pickles are refused by name and by their first bytes (formats/workdir.py rule 4).
4. More than CONFIRM_BYTES is a ConfirmationRequired with the size and the largest files, so that
   nobody sends ten gigabytes by accident.
5. Writing goes into a new, empty directory through directory file descriptors: no step of a path is
   followed if it is a link, each blob's digest and size are checked, and a failed write leaves nothing.

Sending blobs is left to the callers (sdk, agent).
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from stannary.errors import ConfirmationRequired, EnvironmentProblem, FormatError, Refuted, UsageError
from stannary.formats import workdir as grammar
from stannary.formats.digest import PREFIX, Digest
from stannary.formats.workdir import Entry

IGNORED_NAMES = (".git", "__pycache__", ".venv", ".stannaryignore")
IGNORE_FILE = ".stannaryignore"
MAX_IGNORE_PATTERNS = 1000
CONFIRM_BYTES = 1024**3  # issue 2: --yes above 1 GiB
CHUNK_BYTES = 1024 * 1024
NUM_LARGEST_SHOWN = 3

OpenBlob = Callable[[Digest], BinaryIO]


def scan(root: Path, *, allow_large: bool = False) -> tuple[Entry, ...]:
    """List a directory: every file's path, mode, digest and size.

    Raises:
        UsageError: not a directory, or it holds a link, device, fifo or socket.
        FormatError: a name or a pickle that a listing refuses.
        ConfirmationRequired: more than CONFIRM_BYTES without `allow_large`.
    """
    if not root.is_dir():
        raise UsageError("the work directory is not a directory", why=str(root), hint="set `workdir:` in the job spec")
    paths = list(_walk(root, _read_patterns(root)))
    if not allow_large:
        _confirm_size(paths)
    return grammar.check(_entry(path, relative) for path, relative, _ in paths)


def open_file(root: Path, entry: Entry) -> BinaryIO:
    """Open one listed file for reading, refusing a link put in its place since."""
    return _open_plain(root / entry.path, entry.path)


def materialise(entries: tuple[Entry, ...], target: Path, open_blob: OpenBlob) -> None:
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
        finally:
            os.close(root_fd)
    except OSError as err:
        shutil.rmtree(target, ignore_errors=True)
        what = "disk full" if err.errno in (errno.ENOSPC, errno.EDQUOT) else "cannot write the work directory"
        raise EnvironmentProblem(what, why=str(err), hint="free space and start again") from err
    except (Refuted, FormatError):
        shutil.rmtree(target, ignore_errors=True)
        raise


def _walk(root: Path, patterns: tuple[str, ...]) -> Iterator[tuple[Path, str, int]]:
    """Yield (path, relative path, size) of every plain file, in name order, refusing all else."""
    pending = [root]
    while pending:
        with os.scandir(pending.pop()) as listing:
            children = sorted(listing, key=lambda child: child.name, reverse=True)
        for child in children:
            path = Path(child.path)
            relative = _relative(root, path)
            if _is_ignored(relative, patterns):
                continue
            status = child.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                pending.append(path)
            elif stat.S_ISREG(status.st_mode):
                yield path, relative, status.st_size
            else:
                raise _not_plain(relative, status.st_mode)


def _relative(root: Path, path: Path) -> str:
    relative = path.relative_to(root).as_posix()
    return grammar.parse_path(relative)


def _not_plain(relative: str, mode: int) -> UsageError:
    kinds = {stat.S_IFLNK: "a symlink", stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket"}
    kind = kinds.get(stat.S_IFMT(mode), "a device file")
    return UsageError(
        f"the work directory holds {kind}",
        why=f"{relative!r:.120}: only plain files travel",
        hint=f"copy the file in, or name it in {IGNORE_FILE}",
    )


def _read_patterns(root: Path) -> tuple[str, ...]:
    path = root / IGNORE_FILE
    if not os.path.lexists(path):
        return ()
    with _open_plain(path, IGNORE_FILE) as file:
        text = file.read(CHUNK_BYTES).decode("utf-8", errors="replace")
    patterns = tuple(line.strip().rstrip("/") for line in text.splitlines() if line.strip() and line[0] != "#")
    if len(patterns) > MAX_IGNORE_PATTERNS:
        raise UsageError(f"{IGNORE_FILE} is too long", why=f"{len(patterns):,} patterns, limit {MAX_IGNORE_PATTERNS:,}")
    return patterns


def _is_ignored(relative: str, patterns: tuple[str, ...]) -> bool:
    name = relative.rpartition("/")[2]
    if name in IGNORED_NAMES:
        return True
    return any(
        fnmatch.fnmatchcase(relative, pattern.lstrip("/")) if "/" in pattern else fnmatch.fnmatchcase(name, pattern)
        for pattern in patterns
    )


def _confirm_size(paths: list[tuple[Path, str, int]]) -> None:
    num_bytes = sum(size for _, _, size in paths)
    if num_bytes <= CONFIRM_BYTES:
        return
    largest = sorted(paths, key=lambda item: item[2], reverse=True)[:NUM_LARGEST_SHOWN]
    named = ", ".join(f"{relative} {size / 1024**3:.2f} GiB" for _, relative, size in largest)
    raise ConfirmationRequired(
        "the work directory is large",
        why=f"{num_bytes / 1024**3:.2f} GiB in {len(paths):,} files; largest: {named}",
        hint=f"add what is not needed to {IGNORE_FILE}, or pass --yes",
    )


def _entry(path: Path, relative: str) -> Entry:
    grammar.refuse_pickle_name(relative)
    with _open_plain(path, relative) as file:
        executable = os.fstat(file.fileno()).st_mode & stat.S_IXUSR
        state = hashlib.sha256()
        num_bytes = 0
        while part := file.read(CHUNK_BYTES):
            if num_bytes == 0:
                grammar.refuse_pickle_bytes(relative, part[: grammar.PICKLE_MAGIC_BYTES])
            state.update(part)
            num_bytes += len(part)
    mode = grammar.MODE_EXECUTABLE if executable else grammar.MODE_FILE
    return Entry(relative, mode, Digest(PREFIX + state.hexdigest()), num_bytes)


def _open_plain(path: Path, relative: str) -> BinaryIO:
    # O_NONBLOCK: a fifo swapped in after the scan must not hang the open.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as err:
        if err.errno == errno.ELOOP:
            raise _not_plain(relative, stat.S_IFLNK) from err
        raise UsageError("cannot read a file of the work directory", why=str(err)) from err
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise _not_plain(relative, mode)
    return os.fdopen(fd, "rb")


def _write(root_fd: int, entry: Entry, open_blob: OpenBlob) -> None:
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
    finally:
        for fd in opened:
            os.close(fd)


def _copy(blob: BinaryIO, file: BinaryIO, entry: Entry) -> None:
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
