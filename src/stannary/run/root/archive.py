"""The tar of a root file system: what may stand in it, and how it becomes a directory.

Rules:
1. It is a plain tar, uncompressed: what is hashed is what is read, and nothing grows on its way.
2. Names lead down from the root, each through directories of the archive itself: never through one of its links, so
   that nothing is written outside. A name stands in it once.
3. A hard link is to a file that came before it, and is copied. A symbolic link is kept as it is written, since it is
   followed inside a sandbox only; here nothing follows it.
4. Devices, pipes and sockets are left out (a sandbox has its own); set-user-id bits, owners and extended attributes
   are dropped. A file is 0644 or 0755, a directory 0755; times are the archive's.
5. Bytes, files and lengths of names are bounded, as an archive says them and as they come.
"""

from __future__ import annotations

import errno
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, BinaryIO

from stannary.errors import EnvironmentProblem, FormatError, LimitExceeded
from stannary.formats.workdir import MODE_EXECUTABLE, MODE_FILE

MAX_ROOT_BYTES = 16 * 1024**3  # twice the largest stacks of machine learning, unpacked
MAX_ROOT_FILES = 500_000
MAX_NAME_BYTES = 1024
MAX_DEPTH = 40
MAX_TIME_S = 2**33  # what file systems keep
COPY_BYTES = 1024**2
PYTHON = "usr/bin/python3"
LEAST_PYTHON_MINOR = 11  # of 3.x: what this package runs under
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

Progress = Callable[[int], None]


class RootEntryKind(Enum):
    """What a name of the archive is."""

    DIRECTORY = "directory"
    FILE = "file"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class RootEntry:
    """One name of a root, checked."""

    name: str
    kind: RootEntryKind
    mode: int
    time_s: int
    size_bytes: int = 0
    target: str = ""  # of a symbolic link
    source: tarfile.TarInfo | None = None  # where a file's bytes stand


@dataclass(frozen=True, slots=True)
class RootContents:
    """What a root holds."""

    num_files: int
    size_bytes: int
    python: str  # the version its interpreter's name says, e.g. "3.11"; empty where there is none


def look(file: BinaryIO) -> RootContents:
    """Read a root's names and say what it holds; nothing is unpacked.

    Raises:
        FormatError, LimitExceeded: no root by the rules above.
    """
    with _opened(file) as archive:
        return _contents(list(entries(archive)))


def unpack(file: BinaryIO, target: Path, progress: Progress = lambda _: None) -> RootContents:
    """Unpack a root into an empty directory of ours; `progress` hears of the bytes that were written.

    Raises:
        FormatError, LimitExceeded: no root by the rules above.
        EnvironmentProblem: the disk is full, or cannot be written.
    """
    found: list[RootEntry] = []
    try:
        with _opened(file) as archive:
            for entry in entries(archive):
                _write(archive, entry, target)
                found.append(entry)
                progress(entry.size_bytes)
        for entry in reversed(found):  # a directory's time changes with what is put into it
            if entry.kind is RootEntryKind.DIRECTORY:
                os.utime(target / entry.name, (entry.time_s, entry.time_s))
    except OSError as err:
        if err.errno in _FULL:
            raise EnvironmentProblem(
                "not enough disk for the market's root file system", why=f"{target.parent}: {err.strerror}",
                hint="free disk space, then again",
            ) from err  # fmt: skip
        raise EnvironmentProblem("cannot unpack the market's root file system", why=str(err)) from err
    return _contents(found)


def entries(archive: tarfile.TarFile) -> Iterator[RootEntry]:
    """Yield each name of an archive, checked by rules 2 to 5; directories it does not list come before their first.

    Raises:
        FormatError, LimitExceeded: a name breaks a rule.
    """
    known: dict[str, RootEntry] = {}
    num_bytes = 0
    try:
        for member in archive:
            name = _name_of(member.name)
            if not name or not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
                continue  # the root itself, and rule 4
            for parent in _missing(name, known):
                known[parent] = RootEntry(parent, RootEntryKind.DIRECTORY, MODE_EXECUTABLE, 0)
                yield known[parent]
            entry = _entry(name, member, known)
            if (before := known.get(name)) is not None:
                if before.kind is entry.kind is RootEntryKind.DIRECTORY:
                    continue
                raise FormatError("a root file system has a name twice", why=f"{name!r:.120}")
            num_bytes += entry.size_bytes
            if num_bytes > MAX_ROOT_BYTES or len(known) >= MAX_ROOT_FILES:
                raise LimitExceeded(
                    "the root file system is too large",
                    why=f"more than {MAX_ROOT_BYTES:,} bytes or {MAX_ROOT_FILES:,} names",
                )
            known[name] = entry
            yield entry
    except (
        tarfile.TarError,
        ValueError,
        OverflowError,
        EOFError,
    ) as err:  # what tarfile raises for bytes that are none
        raise FormatError("not a root file system", why=str(err)[:200], hint="a plain tar is needed") from err


def _opened(file: BinaryIO) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r:", errorlevel=2)
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as err:
        raise FormatError("not a root file system", why=str(err)[:200], hint="a plain tar is needed") from err


def _name_of(text: str) -> str:
    """Return a name without `./` before it, empty for the root itself."""
    name = text.removeprefix("./").rstrip("/")
    if name in ("", "."):
        return ""
    parts = name.split("/")
    if "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise FormatError("a name of the root file system leads out of it", why=f"{text!r:.120}")
    if (
        len(os.fsencode(name)) > MAX_NAME_BYTES
        or len(parts) > MAX_DEPTH
        or any(len(os.fsencode(part)) > 255 for part in parts)
    ):
        raise LimitExceeded("a name of the root file system is too long", why=f"{text!r:.120}")
    return name


def _missing(name: str, known: dict[str, RootEntry]) -> list[str]:
    """Return the directories above a name that no entry made, the topmost first (rule 2)."""
    parts, missing = name.split("/"), []
    for depth in range(1, len(parts)):
        parent = "/".join(parts[:depth])
        found = known.get(parent)
        if found is None:
            missing.append(parent)
        elif found.kind is not RootEntryKind.DIRECTORY:
            raise FormatError("a name of the root file system lies below a file or link", why=f"{name!r:.120}")
    return missing


def _entry(name: str, member: tarfile.TarInfo, known: dict[str, RootEntry]) -> RootEntry:
    time_s = int(member.mtime)
    if not 0 <= time_s <= MAX_TIME_S or not 0 <= member.size <= MAX_ROOT_BYTES or member.issparse():
        raise FormatError("a root file system has an odd file", why=f"{name!r:.120}: time, size or holes")
    mode = MODE_EXECUTABLE if member.mode & 0o111 else MODE_FILE
    if member.isdir():
        return RootEntry(name, RootEntryKind.DIRECTORY, MODE_EXECUTABLE, time_s)
    if member.issym():
        if not member.linkname or "\0" in member.linkname or len(os.fsencode(member.linkname)) > MAX_NAME_BYTES:
            raise FormatError("a link of the root file system leads nowhere", why=f"{name!r:.120}")
        return RootEntry(name, RootEntryKind.LINK, 0o777, time_s, target=member.linkname)
    if member.islnk():
        first = known.get(_name_of(member.linkname))
        if first is None or first.kind is not RootEntryKind.FILE:
            raise FormatError(
                "a hard link of the root file system is to no file before it",
                why=f"{name!r:.80} to {member.linkname!r:.80}",
            )
        return RootEntry(name, RootEntryKind.FILE, first.mode, first.time_s, first.size_bytes, source=first.source)
    return RootEntry(name, RootEntryKind.FILE, mode, time_s, member.size, source=member)


def _write(archive: tarfile.TarFile, entry: RootEntry, target: Path) -> None:
    path = target / entry.name
    if entry.kind is RootEntryKind.DIRECTORY:
        path.mkdir(mode=MODE_EXECUTABLE)
        path.chmod(MODE_EXECUTABLE)
        return
    if entry.kind is RootEntryKind.LINK:
        path.symlink_to(entry.target)
        os.utime(path, (entry.time_s, entry.time_s), follow_symlinks=False)
        return
    with open_file(archive, entry) as source, path.open("xb") as file:
        left = entry.size_bytes
        while left > 0:
            piece = source.read(min(COPY_BYTES, left))
            if not piece:
                raise FormatError("the root file system is cut short", why=f"{entry.name!r:.120}")
            file.write(piece)
            left -= len(piece)
    path.chmod(entry.mode)
    os.utime(path, (entry.time_s, entry.time_s))


def open_file(archive: tarfile.TarFile, entry: RootEntry) -> IO[bytes]:
    """Return the bytes of a file."""
    source = archive.extractfile(entry.source) if entry.source is not None else None
    if source is None:
        raise FormatError("a file of the root file system has no bytes", why=f"{entry.name!r:.120}")
    return source


def _contents(found: list[RootEntry]) -> RootContents:
    names = {entry.name: entry for entry in found}
    python = names.get(PYTHON)
    version = python.target.rpartition("/")[2].removeprefix("python") if python is not None else ""
    return RootContents(len(found), sum(entry.size_bytes for entry in found), version)
