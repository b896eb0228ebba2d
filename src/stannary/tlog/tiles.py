"""The log's files, exactly as C2SP tlog-tiles lays them out, so that any static host and any client can read them.

    checkpoint                            the latest published note
    checkpoint.signed                     the latest note this log has signed (see log.py); not part of C2SP
    tile/<L>/<N>[.p/<W>]                  256 (or W) node hashes of tree level 8·L
    tile/entries/<N>[.p/<W>]              256 (or W) entries, each a big-endian uint16 length and the bytes

Rules:
1. Every file is written to a temporary name, synced, renamed, and its directory synced: a reader sees all of
   a file or none, before and after a power cut.
2. Entries are leaves of 32 bytes; anything else in a bundle is damage.
3. Partial tiles are kept until the full tile is durable and covered by a published checkpoint.
4. No answer is taken from a tile before it was compared with the tree rebuilt from the entries.

What is signed, and when, is left to log.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from stannary import files
from stannary.errors import EnvironmentProblem
from stannary.tlog.tree import HASH_BYTES, Tree

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
LEAF_BYTES = 32
_ENTRY = LEAF_BYTES.to_bytes(2, "big")
_ENTRY_BYTES = len(_ENTRY) + LEAF_BYTES


def tile_path(level: int | None, index: int, width: int = TILE_WIDTH) -> str:
    """Return the path of a hash tile (or an entry bundle when `level` is None), partial if `width` < 256."""
    groups = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        groups.append(f"x{index % 1000:03d}")
    name = "/".join(reversed(groups))
    partial = "" if width == TILE_WIDTH else f".p/{width}"
    return f"tile/{'entries' if level is None else level}/{name}{partial}"


class TileDirectory:
    """Reads and durably writes one log's files under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, None if there is none."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as err:
            raise EnvironmentProblem("cannot read the log", why=f"{name}: {err.strerror}") from err

    def write(self, name: str, data: bytes) -> None:
        """Write one file durably (rule 1).

        Raises:
            EnvironmentProblem: the disk is full or refuses; the file is then as it was.
        """
        path = self.root / name
        temporary = path.with_name(f".{path.name}.new")
        try:
            _make_directories(path.parent, self.root)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            files.sync_dir(path.parent)
        except OSError as err:
            temporary.unlink(missing_ok=True)
            raise EnvironmentProblem(
                "cannot write the log",
                why=f"{name}: {err.strerror}",
                hint="free disk space; nothing acknowledged is lost, send the statement again",
            ) from err

    def write_range(self, tree: Tree, leaves: list[bytes], start: int) -> None:
        """Write every bundle and tile that leaves [start, start + len(leaves)) complete or change."""
        stop = start + len(leaves)
        for index in range(start // TILE_WIDTH, -(-stop // TILE_WIDTH)):
            self._write_bundle(index, leaves, start, stop)
        for level in _tile_levels(stop):
            shift = TILE_HEIGHT * level
            low, high = start >> shift, stop >> shift
            if low == high:
                continue  # no node of this level became complete
            for index in range(low // TILE_WIDTH, -(-high // TILE_WIDTH)):
                width = min(high - index * TILE_WIDTH, TILE_WIDTH)
                first = index * TILE_WIDTH
                self.write(tile_path(level, index, width), tree.nodes(shift, first, first + width))

    def leaves(self, size: int) -> Iterator[bytes]:
        """Yield the first `size` leaves from the entry bundles.

        Raises:
            EnvironmentProblem: a bundle is missing, torn, or holds what is no leaf.
        """
        for index in range(-(-size // TILE_WIDTH)):
            width = min(size - index * TILE_WIDTH, TILE_WIDTH)
            name = tile_path(None, index, width)
            data = self._whole(name, width * _ENTRY_BYTES)
            for offset in range(0, len(data), _ENTRY_BYTES):
                if data[offset : offset + len(_ENTRY)] != _ENTRY:
                    raise _damaged(name, f"entry {offset // _ENTRY_BYTES} is not a leaf of {LEAF_BYTES} bytes")
                yield data[offset + len(_ENTRY) : offset + _ENTRY_BYTES]

    def check_tiles(self, tree: Tree) -> None:
        """Compare every hash tile on disk with `tree`, rebuilt from the entries (rule 4)."""
        for level in _tile_levels(tree.size):
            shift = TILE_HEIGHT * level
            count = tree.size >> shift
            for index in range(-(-count // TILE_WIDTH)):
                first = index * TILE_WIDTH
                width = min(count - first, TILE_WIDTH)
                name = tile_path(level, index, width)
                if self._whole(name, width * HASH_BYTES) != tree.nodes(shift, first, first + width):
                    raise _damaged(name, "its hashes are not those of the entries")

    def prune(self, old: int, new: int) -> None:
        """Remove partial tiles whose full tile became covered between checkpoints `old` and `new` (rule 3)."""
        self._prune_level(None, old, new)
        for level in _tile_levels(new):
            self._prune_level(level, old >> TILE_HEIGHT * level, new >> TILE_HEIGHT * level)

    def _prune_level(self, level: int | None, old: int, new: int) -> None:
        for index in range(old // TILE_WIDTH, new // TILE_WIDTH):
            partials = self.root / tile_path(level, index, 1)
            directory = partials.parent
            if directory.is_dir():
                for path in directory.iterdir():
                    path.unlink(missing_ok=True)
                directory.rmdir()

    def _write_bundle(self, index: int, leaves: list[bytes], start: int, stop: int) -> None:
        first = index * TILE_WIDTH
        width = min(stop - first, TILE_WIDTH)
        fresh = leaves[max(first - start, 0) : first + width - start]
        kept = b""
        if start > first:  # the head of this bundle is in the partial bundle already on disk
            kept = self._whole(tile_path(None, index, start - first), (start - first) * _ENTRY_BYTES)
        self.write(tile_path(None, index, width), kept + b"".join(_ENTRY + leaf for leaf in fresh))

    def _whole(self, name: str, size_bytes: int) -> bytes:
        data = self.read(name)
        if data is None:
            raise _damaged(name, "the file is missing")
        if len(data) != size_bytes:
            raise _damaged(name, f"{len(data)} bytes, expected {size_bytes}")
        return data


def _tile_levels(size: int) -> range:
    levels = 0
    while size >> TILE_HEIGHT * levels:
        levels += 1
    return range(levels)


def _damaged(name: str, why: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        "the log's files are damaged", why=f"{name}: {why}", hint="restore the log directory from a mirror or backup"
    )


def _make_directories(path: Path, root: Path) -> None:
    """Create `path` below `root`, syncing each parent, so that a new directory survives a power cut."""
    if path.is_dir():
        return
    if path != root:
        _make_directories(path.parent, root)
    path.mkdir(exist_ok=True, parents=path == root)
    files.sync_dir(path.parent)
