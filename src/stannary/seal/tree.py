"""The files of what is to be sealed.

Rules:
1. Devices, pipes and sockets are refused, and links to anything but a file of the same tree: a link in a model
   folder could point at any file of the owner's machine, and would be published. The tree is PATH, and where PATH
   lies in a snapshot of a hub's cache (`models--NAME/snapshots/REVISION`), the `blobs` of that model too: snapshots
   are links to them. A link is followed once, to a file that is reached by folders alone.
2. Every file is opened folder by folder with O_NOFOLLOW and must be the one that was listed, so a link put there
   between listing and opening is refused too. A file that changes while it is sealed is an error, not an artifact.
3. What the owner excludes (exclude.py) is not looked at: it may be anything.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from stannary.errors import ConflictError, EnvironmentProblem, FormatError, LimitExceeded, NotFound
from stannary.seal.content import names
from stannary.seal.exclude import Exclusion
from stannary.seal.manifest import MAX_FILES, Layout
from stannary.workdir import IGNORE_FILE

MAX_FOLDER_DEPTH = 32
_HUB_ENTRY = re.compile(r"(models|datasets|spaces)--.")  # of huggingface_hub: blobs/ refs/ snapshots/REVISION/


@dataclass(frozen=True, slots=True)
class Leaf:
    """One regular file, by its path below the root."""

    path: str
    size: int
    identity: tuple[int, int, int, int]  # device, inode, size, mtime: unchanged from listing to the end
    place: Path | None = None  # where the bytes are, if `path` is a link: folders and a file, no link


@dataclass(frozen=True, slots=True)
class Tree:
    """What is to be sealed."""

    root: Path
    layout: Layout
    leaves: tuple[Leaf, ...]
    empty: tuple[str, ...]
    num_excluded: int = 0  # entries that were named to stay out, each with all below it

    @property
    def name(self) -> str:
        """The base name, proposed to whoever opens the artifact."""
        return self.root.resolve().name

    def open(self, leaf: Leaf) -> int:
        """Open a leaf for reading; the caller closes it."""
        top = self.root.parent if self.layout is Layout.FILE else self.root
        parts = [self.root.name] if self.layout is Layout.FILE else leaf.path.split("/")
        if leaf.place is not None:
            top, parts = Path(leaf.place.anchor), [*leaf.place.parts[1:]]
        try:
            folder = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as err:
            raise _changed(f"{top}: {err.strerror}") from err
        try:
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


def scan(root: Path, exclusion: Exclusion | None = None) -> Tree:
    """List what `root` holds: one file, or a folder with everything below it but what is excluded."""
    try:
        found = root.lstat()
    except (FileNotFoundError, NotADirectoryError) as err:
        raise NotFound("nothing to seal there", why=str(root), hint="name a file or folder that exists") from err
    except OSError as err:
        raise _unreadable(str(root), err) from err
    if not stat.S_ISDIR(found.st_mode):
        leaf = (
            _leaf(root.name, found) if stat.S_ISREG(found.st_mode) else _Walk(root.parent, None).other(root.name, found)
        )
        names.check_path(root.name)
        return Tree(root, Layout.FILE, (leaf,), ())
    names.check_path(root.resolve().name)  # it is written into the manifest
    walk = _Walk(root, exclusion)
    walk.down("")
    if not walk.leaves:
        why = f"{root} holds no file" + f" but {walk.num_excluded} excluded entries" * bool(walk.num_excluded)
        raise NotFound("nothing to seal there", why=why, hint="name a folder with files in it")
    leaves, empty = sorted(walk.leaves, key=lambda item: item.path), sorted(walk.empty)
    names.check_paths([item.path for item in leaves] + empty)
    return Tree(root, Layout.FOLDER, tuple(leaves), tuple(empty), walk.num_excluded)


def check_unchanged(descriptor: int, leaf: Leaf) -> None:
    """Raise ConflictError if the open file is no longer the one that was listed."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or _leaf(leaf.path, found).identity != leaf.identity:
        raise _changed(leaf.path)


class _Walk:
    """One look through a folder."""

    def __init__(self, root: Path, exclusion: Exclusion | None) -> None:
        self.leaves: list[Leaf] = []
        self.empty: list[str] = []
        self.num_excluded = 0
        self._root = root
        self._exclusion = exclusion
        self._real = root.resolve()
        self._tree = (self._real, *_blobs(self._real))

    def down(self, prefix: str) -> None:
        """List a folder of the tree and everything below it."""
        if prefix.count("/") >= MAX_FOLDER_DEPTH:
            raise LimitExceeded("folders nested too deeply", why=f"{prefix!r:.80}, limit {MAX_FOLDER_DEPTH}")
        listed = _list(self._root / prefix if prefix else self._root)
        for name, found in listed:
            path = f"{prefix}/{name}" if prefix else name
            is_folder = stat.S_ISDIR(found.st_mode)
            if self._exclusion is not None and self._exclusion(path, is_folder=is_folder):
                self.num_excluded += path != IGNORE_FILE  # that one is named by nobody
                continue
            if is_folder:
                self.down(path)
            else:
                self.leaves.append(_leaf(path, found) if stat.S_ISREG(found.st_mode) else self.other(path, found))
            if len(self.leaves) > MAX_FILES or len(self.empty) > MAX_FILES:
                raise LimitExceeded(
                    "too many files", why=f"more than {MAX_FILES:,}", hint="pack them: parquet or jsonl"
                )
        if not listed and prefix:
            self.empty.append(prefix)

    def other(self, path: str, found: os.stat_result) -> Leaf:
        """Return what a link leads to (rule 1); refuse anything else that is no file."""
        if not stat.S_ISLNK(found.st_mode):
            raise _special(path)
        link = self._real / path
        try:
            place = Path(os.path.normpath(link.parent / link.readlink()))
            target = place.lstat()
        except OSError as err:
            raise _link_refused(path, err.strerror or "it leads nowhere") from err
        if not any(place.is_relative_to(top) for top in self._tree):
            raise _link_refused(path, f"it leads out of the tree, to {place!s:.120}")
        if not stat.S_ISREG(target.st_mode) or place.parent.resolve() != place.parent:
            raise _link_refused(path, f"it does not lead to a file: {place!s:.120}")
        return replace(_leaf(path, target), place=place)


def _blobs(folder: Path) -> Iterator[Path]:
    """Yield where a hub's cache keeps the files of the snapshot that a folder is or lies in."""
    for place in (folder, *folder.parents):
        if place.name == "snapshots" and _HUB_ENTRY.match(place.parent.name):
            yield place.parent / "blobs"


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


def _special(path: str) -> FormatError:
    return FormatError(
        "not a regular file", why=f"{path!r:.120} is a pipe, socket or device", hint="leave it out: --exclude PATTERN"
    )


def _link_refused(path: str, why: str) -> FormatError:
    hint = "copy the folder with: cp -rL FROM TO; or leave the link out: --exclude PATTERN"
    return FormatError("symbolic link refused", why=f"{path!r:.120}: {why}", hint=hint)


def _changed(why: str) -> ConflictError:
    return ConflictError("a file changed while it was read", why=why, hint="seal a copy that nobody writes to")


def _unreadable(path: str, err: OSError) -> EnvironmentProblem:
    return EnvironmentProblem(
        "cannot read what is to be sealed", why=f"{path}: {err.strerror}", hint="seal as a user who may read all of it"
    )
