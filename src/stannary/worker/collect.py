"""Outputs of a command: the files its patterns name, in an order and spelling that every node agrees on.

Rules:
1. A link is followed where it leads to a file or directory *inside* the work directory, and its bytes
   go under the link's own name. One that leads outside, nowhere or back to a directory above itself is
   not handed in: a job cannot hand in what it only points at.
2. One file that cannot travel (a name with a newline or in no UTF-8, a fifo, more bytes than
   `resources.disk` has left) is left out with its reason; the others go. A pattern that names no file
   at all is said, and the rest handed in; in jobs of rules 2 it is a failure of the command, and so is a
   result of which nothing is left.
3. More than MAX_FILES files travel as one archive, ARCHIVE: sorted names, no times and no owners, so
   that two nodes with the same files make the same bytes.

Nobody else writes here: the command and all it started are gone (command.py rule 3).
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stannary.errors import FormatError, LimitExceeded, NotFound
from stannary.formats import bounds, workdir
from stannary.formats import outputs as patterns

MAX_FILES = bounds.MAX_OUTPUTS  # of one task, signed and stored one by one
MAX_VISITED = 2_000_000  # names looked at; the files of a job lie in its memory, so this is more than fit
MAX_NAMED_REFUSALS = 20  # in the log; the rest is counted
ARCHIVE = "outputs.tar"
CHUNK_BYTES = 1024 * 1024
SHOWN_CHARS = 200
MAX_MISSING_CHARS = 500  # of the line that names them


@dataclass(frozen=True, slots=True)
class File:
    """One file to hand in."""

    name: str
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """One file that is left out, its name made printable."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Collected:
    """What a command's patterns named."""

    files: tuple[File, ...]  # by name
    refusals: tuple[Refusal, ...]
    missing: tuple[str, ...] = ()  # patterns that name nothing

    @property
    def is_archived(self) -> bool:
        """Say whether the files travel as one."""
        return len(self.files) > MAX_FILES


@dataclass(frozen=True, slots=True)
class _Visited:
    segments: tuple[str, ...]
    path: Path
    why_not: str = ""


def collect_all(directory: Path, wanted: Sequence[str], max_bytes: int) -> Collected:
    """Find what the patterns name below `directory`, as jobs of rules 2 want it.

    Raises:
        NotFound: a pattern names nothing, or nothing of what is named can travel.
    """
    found = collect(directory, wanted, max_bytes)
    if found.missing:
        raise NotFound(
            "command left no such output",
            why=", ".join(found.missing)[:500],
            hint="outputs are relative to the work directory",
        )
    if found.refusals and not found.files:
        raise NotFound("command left no such output", why=f"{found.refusals[0].name}: {found.refusals[0].why}")
    return found


def collect(directory: Path, wanted: Sequence[str], max_bytes: int) -> Collected:
    """Find what the patterns name below `directory`; nothing where it holds more than MAX_VISITED names."""
    parsed = patterns.parse_all(wanted)
    unmet = {pattern.text: None for pattern in parsed}
    named: list[_Visited] = []
    try:
        for visited in _walk(directory):
            matching = [pattern.text for pattern in parsed if pattern.matches(visited.segments)]
            for text in matching:
                unmet.pop(text, None)
            if matching:
                named.append(visited)
    except LimitExceeded as err:
        return Collected((), (Refusal(".", f"{err.what}, {err.why}"),), tuple(pattern.text for pattern in parsed))
    files, refusals = _judge(named, max_bytes)
    return Collected(tuple(files), tuple(refusals), tuple(unmet))


def read(file: File) -> Iterator[bytes]:
    """Yield the bytes of a file, exactly as many as were announced."""
    left = file.size_bytes
    with file.path.open("rb") as opened:
        while left and (part := opened.read(min(left, CHUNK_BYTES))):
            left -= len(part)
            yield part


def archive_bytes(files: Sequence[File]) -> int:
    """Return how long the archive of these files is."""
    return _rounded(sum(_member_bytes(file) for file in files) + 2 * tarfile.BLOCKSIZE, tarfile.RECORDSIZE)


def archive(files: Sequence[File]) -> Iterator[bytes]:
    """Yield the archive of these files."""
    written = 0
    for file in files:
        header, padded_bytes = _header(file), _rounded(file.size_bytes, tarfile.BLOCKSIZE)
        yield header
        yield from read(file)
        yield bytes(padded_bytes - file.size_bytes)
        written += len(header) + padded_bytes
    yield bytes(_rounded(written + 2 * tarfile.BLOCKSIZE, tarfile.RECORDSIZE) - written)


def words(found: Collected) -> Iterator[str]:
    """Yield the log lines about what is not handed in."""
    if found.missing:
        yield f"no such output: {', '.join(found.missing)}"[:MAX_MISSING_CHARS]
    refusals = found.refusals
    for refusal in refusals[:MAX_NAMED_REFUSALS]:
        yield f"output left out: {refusal.name}: {refusal.why}"
    if len(refusals) > MAX_NAMED_REFUSALS:
        yield f"{len(refusals) - MAX_NAMED_REFUSALS:,} more outputs left out"


def _walk(directory: Path) -> Iterator[_Visited]:
    """Yield every file and every thing that is none, in no order of meaning."""
    root = os.path.realpath(directory)
    pending: list[tuple[tuple[str, ...], str, frozenset[str]]] = [((), root, frozenset({root}))]
    num_visited = 0
    while pending:
        segments, here, above = pending.pop()
        try:
            children = _listed(here)
        except OSError as err:  # nested so deep that the kernel cannot name it
            yield _Visited(segments, Path(here), f"a directory that cannot be read: {err.strerror}")
            continue
        for child in children:
            num_visited += 1
            if num_visited > MAX_VISITED:
                raise LimitExceeded("too many files in the work directory", why=f"more than {MAX_VISITED:,}")
            name = (*segments, child.name)
            target, mode, why_not = _target(child, root, above)
            if why_not or not stat.S_ISDIR(mode):
                yield _Visited(name, Path(target), why_not)
            elif len(name) > workdir.MAX_DEPTH:
                yield _Visited(name, Path(target), f"more than {workdir.MAX_DEPTH} directories deep")
            else:
                pending.append((name, target, above | {target}))


def _listed(directory: str) -> list[os.DirEntry[str]]:
    """Return what lies in a directory, whatever mode the job gave it: it is ours."""
    if not os.access(directory, os.R_OK | os.X_OK):
        os.chmod(directory, 0o700)  # noqa: PTH101 - 100,000 files: Path costs ten times as much
    with os.scandir(directory) as listing:
        return list(listing)


def _target(child: os.DirEntry[str], root: str, above: frozenset[str]) -> tuple[str, int, str]:
    """Return where an entry's bytes lie, its mode, and why it cannot be handed in (empty: it can)."""
    target = child.path
    if child.is_symlink():
        target = os.path.realpath(child.path)
        if target != root and not target.startswith(root + os.sep):
            return child.path, 0, "a link that leads outside the work directory"
        if target in above:
            return child.path, 0, "a link to a directory above itself"
    try:
        mode = os.lstat(target).st_mode
    except OSError as err:
        return child.path, 0, f"cannot be read: {err.strerror}"
    is_plain = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    return target, mode, "" if is_plain else "neither a file nor a directory"


def _judge(named: list[_Visited], max_bytes: int) -> tuple[list[File], list[Refusal]]:
    files: list[File] = []
    refusals: list[Refusal] = []
    is_archive = sum(not visited.why_not for visited in named) > MAX_FILES
    left = max_bytes - (_rounded(2 * tarfile.BLOCKSIZE, tarfile.RECORDSIZE) if is_archive else 0)
    for visited in sorted(named, key=lambda item: item.segments):
        why_not = visited.why_not
        try:
            name = workdir.parse_path("/".join(visited.segments))
        except FormatError as err:
            name, why_not = "", why_not or err.what
        if not why_not:
            file = File(name, visited.path, visited.path.stat().st_size)
            cost = _member_bytes(file) if is_archive else file.size_bytes
            if cost <= left:
                _make_readable(file.path)
                files.append(file)
                left -= cost
                continue
            why_not = f"{file.size_bytes:,} bytes, and resources.disk has {max(left, 0):,} left for it"
        refusals.append(Refusal(_shown(visited.segments), why_not))
    return files, refusals


def _make_readable(path: Path) -> None:
    """Open a file to its reader, whatever mode the job gave it: it is ours."""
    if not os.access(path, os.R_OK):
        path.chmod(0o600)


def _shown(segments: tuple[str, ...]) -> str:
    """Return a name on one line, whatever bytes it has."""
    return ascii("/".join(segments))[:SHOWN_CHARS]


def _header(file: File) -> bytes:
    info = tarfile.TarInfo(file.name)
    info.size = file.size_bytes
    info.mode = workdir.MODE_EXECUTABLE if file.path.stat().st_mode & stat.S_IXUSR else workdir.MODE_FILE
    return info.tobuf(tarfile.PAX_FORMAT)


def _member_bytes(file: File) -> int:
    return len(_header(file)) + _rounded(file.size_bytes, tarfile.BLOCKSIZE)


def _rounded(num_bytes: int, block: int) -> int:
    return -(-num_bytes // block) * block
