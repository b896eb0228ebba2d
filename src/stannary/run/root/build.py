"""Builds a root file system that anybody can build again, bit for bit: Debian packages, pinned wheels, nothing else.

    mmdebstrap (Debian's own) makes a tree of packages; what differs between two runs or is of no use in a sandbox is
    taken out; wheels of a locked list go to its dist-packages; all of it is written as one plain tar, in the order of
    names, owned by root, no file newer than `time_s`.

The same mirror contents, list and arguments give the same bytes. Debian's mirror moves on: name a snapshot
(`--mirror http://snapshot.debian.org/archive/debian/DATE/`) where others are to rebuild it later.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from stannary.errors import EnvironmentProblem, SpecError
from stannary.formats.digest import PREFIX, Digest
from stannary.run.environment import COMPLETE, Environments, WheelSource
from stannary.run.root import archive
from stannary.run.root.archive import RootContents, RootEntry, RootEntryKind

SUITE = "bookworm"
PACKAGES = ("python3", "ca-certificates", "libgomp1", "libstdc++6", "bash")  # libgomp, libstdc++: what wheels link to
TIME_S = 1_767_225_600  # 2026-01-01: no file is newer
WHEELS_BYTES = 8 * 1024**3
PROGRAM = "mmdebstrap"
SITE = "usr/lib/python3/dist-packages"
TAIL_LINES = 5
# Written by an installation and other each time, of this machine, or of no use where nothing is installed.
_LEFT_OUT = re.compile(
    r"(?:dev|proc|sys|run|tmp|boot|home|root|mnt|media|srv)/.*|var/(?:cache|log|lib/apt|lib/dpkg|tmp)/.*"
    r"|etc/(?:machine-id|hostname|resolv\.conf|shadow-?|gshadow-?|passwd-|group-|\.pwd\.lock)"
    r"|usr/share/(?:man|info|locale|lintian)/.*|usr/share/doc/.*(?<!/copyright)|(?:.*/)?__pycache__(?:/.*)?"
)

Tell = Callable[[str], None]


TYPES = {
    RootEntryKind.DIRECTORY: tarfile.DIRTYPE,
    RootEntryKind.FILE: tarfile.REGTYPE,
    RootEntryKind.LINK: tarfile.SYMTYPE,
}


@dataclass(frozen=True, slots=True)
class RootPlan:
    """What goes into a root."""

    suite: str = SUITE
    include: tuple[str, ...] = ()  # beside PACKAGES
    mirrors: tuple[str, ...] = ()  # empty: mmdebstrap's own for the suite
    wheels: bytes = b""  # a locked list (formats/requirements.py); its wheels are for the root's interpreter
    source: WheelSource = field(default_factory=WheelSource)
    time_s: int = TIME_S
    variant: str = "essential"


@dataclass(frozen=True, slots=True)
class Built:
    """A root that stands in a file."""

    digest: Digest
    size_bytes: int
    contents: RootContents


def build(plan: RootPlan, target: Path, tell: Tell) -> Built:
    """Build a root into a file that appears whole or not at all.

    Raises:
        EnvironmentProblem: mmdebstrap is not here or failed, or the disk is full.
        SpecError: the list of wheels is not locked.
    """
    if shutil.which(PROGRAM) is None:
        raise EnvironmentProblem(
            f"{PROGRAM} is not here", why="it makes the tree of Debian packages", hint=f"apt-get install {PROGRAM}"
        )
    with tempfile.TemporaryDirectory(prefix=".root-", dir=target.absolute().parent) as name:
        work = Path(name)
        bootstrap(plan, work / "debian.tar", tell)
        trees = []
        if plan.wheels:
            with (work / "debian.tar").open("rb") as made:
                python = checked(made).python
            environments = Environments(work / "environments", plan.source, python=python)
            packages = environments.prepare(plan.wheels, tell, WHEELS_BYTES)
            (packages / COMPLETE).unlink()
            trees.append((SITE, packages))
        fresh = work / "root.tar"
        try:
            with (work / "debian.tar").open("rb") as source, fresh.open("wb") as sink:
                write(source, trees, sink, plan.time_s)
            with fresh.open("rb") as made:
                contents = archive.look(made)
                made.seek(0)
                digest = Digest(PREFIX + hashlib.file_digest(made, "sha256").hexdigest())
            built = Built(digest, fresh.stat().st_size, contents)
            fresh.replace(target)
        except OSError as err:
            raise EnvironmentProblem("cannot write the root file system", why=str(err), hint="free disk space") from err
    return built


def bootstrap(plan: RootPlan, target: Path, tell: Tell) -> None:
    """Have mmdebstrap write its tree as a tar.

    Raises:
        EnvironmentProblem: it failed; the reason is its last lines.
    """
    include = ",".join((*PACKAGES, *plan.include))
    argv = [PROGRAM, f"--variant={plan.variant}", f"--include={include}", "--components=main", "--format=tar"]
    argv += [plan.suite, str(target), *plan.mirrors]
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR")}
    tail: list[str] = []
    with subprocess.Popen(  # noqa: S603 - our own options and the market's operator's words, no shell
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
        env={**environment, "SOURCE_DATE_EPOCH": str(plan.time_s), "LC_ALL": "C"},
    ) as running:  # fmt: skip
        for line in running.stderr or ():
            if line.startswith("I: "):
                tell(line[3:].strip()[:200])
            tail = [*tail, line.strip()][-TAIL_LINES:]
    if running.returncode != 0:
        raise EnvironmentProblem(
            f"{PROGRAM} failed",
            why=" / ".join(tail)[-1000:],
            hint="see that the mirror answers, or name another: --mirror",
        )


def write(debian: BinaryIO, trees: Sequence[tuple[str, Path]], sink: BinaryIO, time_s: int) -> None:
    """Write a root's tar: what is of use in one of Debian's, and directories of ours below some names.

    Args:
        debian: a tar.
        trees: name in the root, and the directory that goes there.
        sink: gets a plain tar in the order of names.
        time_s: no file is newer.

    Raises:
        FormatError, LimitExceeded: the tar is no root by the rules of archive.py.
        SpecError: two files have one name.
    """
    with (
        tarfile.open(fileobj=debian, mode="r:") as source,
        tarfile.open(fileobj=sink, mode="w:", format=tarfile.GNU_FORMAT) as made,
    ):
        found = {entry.name: entry for entry in archive.entries(source) if not _LEFT_OUT.fullmatch(entry.name)}
        if archive.PYTHON in found and "usr/bin/python" not in found:  # `#!/usr/bin/env python`, as on every node
            found["usr/bin/python"] = RootEntry("usr/bin/python", RootEntryKind.LINK, 0o777, time_s, target="python3")
        added: dict[str, Path] = {}
        for name, directory in trees:
            for entry, path in _below(name, directory, time_s):
                if entry.kind is RootEntryKind.DIRECTORY and entry.name in found:
                    continue
                if entry.name in found:
                    raise SpecError("a wheel brings a file that Debian has", why=entry.name, hint="leave one out")
                found[entry.name], added[entry.name] = entry, path
        for name, entry in sorted(found.items()):
            header = _header(entry, time_s)
            if entry.kind is not RootEntryKind.FILE:
                made.addfile(header)
            elif name in added:
                with added[name].open("rb") as file:
                    made.addfile(header, file)
            else:
                made.addfile(header, archive.open_file(source, entry))


def _below(name: str, directory: Path, time_s: int) -> Iterator[tuple[RootEntry, Path]]:
    for parent, folders, names in os.walk(directory):
        folders[:] = sorted(folder for folder in folders if folder != "__pycache__")
        for item in (*folders, *sorted(names)):
            path = Path(parent, item)
            inside = f"{name}/{path.relative_to(directory)}"
            if _LEFT_OUT.fullmatch(inside):
                continue
            told = path.lstat()
            if stat.S_ISDIR(told.st_mode):
                yield RootEntry(inside, RootEntryKind.DIRECTORY, 0o755, time_s), path
            elif stat.S_ISREG(told.st_mode):
                mode = 0o755 if told.st_mode & 0o100 else 0o644
                yield RootEntry(inside, RootEntryKind.FILE, mode, time_s, told.st_size), path


def _header(entry: RootEntry, time_s: int) -> tarfile.TarInfo:
    kinds = {
        RootEntryKind.DIRECTORY: tarfile.DIRTYPE,
        RootEntryKind.FILE: tarfile.REGTYPE,
        RootEntryKind.LINK: tarfile.SYMTYPE,
    }
    header = tarfile.TarInfo(entry.name)
    header.type, header.mode, header.linkname = kinds[entry.kind], entry.mode, entry.target
    header.size, header.mtime = entry.size_bytes, min(entry.time_s, time_s)
    return header


def checked(file: BinaryIO) -> RootContents:
    """Return what a root holds that jobs are to run in.

    Raises:
        FormatError, LimitExceeded: it is no root.
        SpecError: no Python in it that our worker runs under.
    """
    contents = archive.look(file)
    match = re.fullmatch(r"3\.(\d+)", contents.python)
    if match is None or int(match[1]) < archive.LEAST_PYTHON_MINOR:
        raise SpecError(
            "this root file system has no Python for a job's worker",
            why=f"/{archive.PYTHON} leads to {contents.python or 'nothing'}, 3.{archive.LEAST_PYTHON_MINOR} is needed",
            hint="stannary market root build FILE",
        )
    return contents
