"""The files of what is to be sealed, found without following a link.

Rules: symbolic links, devices, pipes and sockets are refused (a link in a model folder could point at
any file of the owner's machine, and would be published). Every file is opened relative to its folder's
descriptor with O_NOFOLLOW, so a link put there between listing and opening is refused too. A file that
changes while it is sealed is an error, not an artifact.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from stannary.errors import ConflictError, EnvironmentProblem, FormatError, LimitExceeded, NotFound
from stannary.seal import names
from stannary.seal.manifest import MAX_FILES, Layout

MAX_FOLDER_DEPTH = 32


@dataclass(frozen=True, slots=True)
class Leaf:
    """One regular file, by its path below the root."""

    path: str
    size: int
    identity: tuple[int, int, int, int]  # device, inode, size, mtime: unchanged from listing to the end


@dataclass(frozen=True, slots=True)
class Tree:
    """What is to be sealed."""

    root: Path
    layout: Layout
    leaves: tuple[Leaf, ...]
    empty: tuple[str, ...]

    @property
    def name(self) -> str:
        """The base name, proposed to whoever opens the artifact."""
        return self.root.resolve().name

    def open(self, leaf: Leaf) -> int:
        """Open a leaf for reading; the caller closes it."""
        parts = leaf.path.split("/")
        top = self.root.parent if self.layout is Layout.FILE else self.root
        try:
            folder = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as err:
            raise _changed(f"{top}: {err.strerror}") from err
        try:
            if self.layout is Layout.FILE:
                parts = [self.root.name]
            for part in parts[:-1]:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
            descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except PermissionError as err:
            raise _unreadable(leaf.path, err) from err
        except OSError as err:
            raise _changed(f"{leaf.path}: {err.strerror}") from err
        finally:
            os.close(folder)
        try:
            check_unchanged(descriptor, leaf)
        except ConflictError:
            os.close(descriptor)
            raise
        return descriptor


def scan(root: Path) -> Tree:
    """List what `root` holds: one file, or a folder with everything below it."""
    try:
        found = root.lstat()
    except (FileNotFoundError, NotADirectoryError) as err:
        raise NotFound("nothing to seal there", why=str(root), hint="name a file or folder that exists") from err
    except OSError as err:
        raise _unreadable(str(root), err) from err
    if stat.S_ISREG(found.st_mode):
        names.check_path(root.name)
        return Tree(root, Layout.FILE, (_leaf(root.name, found),), ())
    if not stat.S_ISDIR(found.st_mode):
        raise _special(str(root), found.st_mode)
    names.check_path(root.resolve().name)  # it is written into the manifest
    leaves: list[Leaf] = []
    empty: list[str] = []
    _walk(root, "", leaves, empty)
    if not leaves:
        raise NotFound("nothing to seal there", why=f"{root} holds no file", hint="name a folder with files in it")
    leaves.sort(key=lambda item: item.path)
    empty.sort()
    names.check_paths([item.path for item in leaves] + empty)
    return Tree(root, Layout.FOLDER, tuple(leaves), tuple(empty))


def check_unchanged(descriptor: int, leaf: Leaf) -> None:
    """Raise ConflictError if the open file is no longer the one that was listed."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or _leaf(leaf.path, found) != leaf:
        raise _changed(leaf.path)


def _walk(root: Path, prefix: str, leaves: list[Leaf], empty: list[str]) -> None:
    if prefix.count("/") >= MAX_FOLDER_DEPTH:
        raise LimitExceeded("folders nested too deeply", why=f"{prefix!r:.80}, limit {MAX_FOLDER_DEPTH}")
    listed = _list(root / prefix if prefix else root)
    for name, found in listed:
        path = f"{prefix}/{name}" if prefix else name
        if stat.S_ISDIR(found.st_mode):
            _walk(root, path, leaves, empty)
        elif stat.S_ISREG(found.st_mode):
            leaves.append(_leaf(path, found))
        else:
            raise _special(path, found.st_mode)
        if len(leaves) > MAX_FILES or len(empty) > MAX_FILES:
            raise LimitExceeded("too many files", why=f"more than {MAX_FILES:,}", hint="pack them: parquet or jsonl")
    if not listed and prefix:
        empty.append(prefix)


def _list(folder: Path) -> list[tuple[str, os.stat_result]]:
    try:
        with os.scandir(folder) as entries:
            return [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    except PermissionError as err:
        raise _unreadable(str(folder), err) from err
    except OSError as err:
        raise _changed(f"{folder}: {err.strerror}") from err


def _leaf(path: str, found: os.stat_result) -> Leaf:
    return Leaf(path, found.st_size, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))


def _special(path: str, mode: int) -> FormatError:
    if stat.S_ISLNK(mode):
        return FormatError("symbolic link refused", why=f"{path!r:.120}", hint="copy the folder with: cp -rL FROM TO")
    return FormatError(
        "not a regular file", why=f"{path!r:.120} is a pipe, socket or device", hint="seal a copy without it"
    )


def _changed(why: str) -> ConflictError:
    return ConflictError("a file changed while it was read", why=why, hint="seal a copy that nobody writes to")


def _unreadable(path: str, err: OSError) -> EnvironmentProblem:
    return EnvironmentProblem(
        "cannot read what is to be sealed", why=f"{path}: {err.strerror}", hint="seal as a user who may read all of it"
    )
