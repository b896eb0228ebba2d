"""A job's environment: a hash-pinned requirements list, fetched outside, unpacked inside, mounted read-only.

Rules:
1. A list holds locked lines and nothing else (formats/requirements.py).
2. Only wheels are installed and dependencies are not resolved: no code of anybody runs at installation,
   and what is installed is exactly what was signed.
3. What is fetched and what is unpacked are each no more than the job's disk (`resources.disk`), and
   MAX_FILES files and directories. Wheels are unpacked in a sandbox (worker/unpack.py), whose files are counted
   as they come: what a wheel claims of its size is nobody's promise.
4. At most KEPT_BYTES of environments that no job in hand uses stay (`prune`); the longest unused go first.
5. Environments are kept by the digest of list and interpreter, and appear by rename: one is whole or
   absent, and two jobs with the same list share it. A job sees it read-only, and one that may not have
   so much disk is refused although it is here: what works must not depend on who came before.
6. Installing is a phase of its own whose lines go to the job's log, so that it is never mistaken for a
   slow start.

Where wheels come from (an index, a directory) is the operator's setting, never the job's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stannary import files
from stannary.border import frames
from stannary.border.frames import MAX_HEADER_BYTES, FrameLimits
from stannary.errors import EnvironmentProblem, FormatError, LimitExceeded, ServiceError
from stannary.formats import digest, requirements
from stannary.formats.canonical import Json
from stannary.formats.digest import Digest
from stannary.formats.workdir import MAX_DEPTH, MAX_PATH_BYTES, MAX_SEGMENT_BYTES, MODE_EXECUTABLE, MODE_FILE
from stannary.run import logs
from stannary.run.sandbox import choice
from stannary.run.sandbox.contract import Command, Limits, Mount, own_path
from stannary.run.sandbox.process import Sandbox

FETCH_TIMEOUT_S = 1800.0  # two gigabytes of wheels over a thin link
UNPACK_TIMEOUT_S = 900.0  # eight gigabytes at the speed of a slow disk
UNPACK_LIMITS = Limits(memory_bytes=512 * 1024**2)
MAX_FILES = 200_000  # four times what the largest stacks of machine learning have
DEFAULT_MAX_BYTES = 256 * 1024**2  # a job's disk where it asks for none (formats/jobfile.py)
KEPT_BYTES = 8 * 1024**3  # two stacks of machine learning
WATCH_S = 0.25
_PR_SET_PDEATHSIG = 1
COMPLETE = ".stannary-complete"  # holds the size in bytes
WHEELS = "/wheels"  # inside
TAIL_LINES = 20

# What the operator's own environment may tell the installer; nothing of a job's.
PASSED_ON = ("PATH", "HOME", "PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_CERT", "PIP_CONFIG_FILE",
             "SSL_CERT_FILE", "HTTPS_PROXY", "NO_PROXY")  # fmt: skip

_INSTALLING = ".installing-"
_PIP = (
    f"import ctypes, runpy; ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {signal.SIGKILL:d}, 0, 0, 0); "
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)"
)
_TOO_LARGE = "ask for more in resources.disk, or require less"
_UNREADABLE = "require another version or build of it"

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class WheelSource:
    """Where the operator lets wheels come from."""

    find_links: str = ""
    index_url: str = ""
    no_index: bool = False

    def options(self) -> list[str]:
        """Return the installer's options."""
        options = ["--no-index"] if self.no_index else []
        options += ["--find-links", self.find_links] if self.find_links else []
        return options + (["--index-url", self.index_url] if self.index_url else [])


@dataclass(frozen=True, slots=True)
class Environments:
    """The installed environments of one node; `sandbox` None: the strongest of this machine."""

    root: Path
    source: WheelSource = WheelSource()
    sandbox: Sandbox | None = None
    python: str = ""  # the version wheels are for, e.g. "3.11"; empty: this interpreter's

    def prepare(self, listing: bytes, tell: Tell, max_bytes: int = DEFAULT_MAX_BYTES) -> Path:
        """Return the directory of an installed list, installing it first where it is not yet here.

        Args:
            listing: the bytes of the list, as the job names them by digest.
            tell: gets each line the installer prints.
            max_bytes: the job's disk.

        Raises:
            SpecError: a list that breaks rule 1.
            EnvironmentProblem: the installer failed (the reason is its last lines), or rule 3.
        """
        lines = requirements.locked(listing)
        place = self.root / _key(listing, self.python)
        kept_bytes = _kept_bytes(place)
        if kept_bytes is not None:
            _check_size(kept_bytes, max_bytes)
            files.show_alike(place / COMPLETE, MODE_FILE)
            tell(f"environment {place.name[:12]} is here already")
            return place
        self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=_INSTALLING, dir=self.root))
        try:
            self._install(lines, fresh, tell, max_bytes)
            _move(fresh / "environment", place)
        except OSError as err:
            raise EnvironmentProblem("cannot install the environment", why=str(err), hint="free disk space") from err
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return place

    def prune(self, used: Iterable[Path]) -> None:
        """Remove what a killed installation left and, beyond KEPT_BYTES, what was unused longest."""
        for left in self.root.glob(f"{_INSTALLING}*"):
            shutil.rmtree(left, ignore_errors=True)
        kept_bytes = 0
        idle = [path.parent for path in self.root.glob(f"*/{COMPLETE}") if path.parent not in set(used)]
        for place in sorted(idle, key=lambda path: (path / COMPLETE).stat().st_atime, reverse=True):
            size = _kept_bytes(place)
            kept_bytes += KEPT_BYTES + 1 if size is None else size  # of an older release: never used again
            if kept_bytes > KEPT_BYTES:
                shutil.rmtree(place, ignore_errors=True)

    def _install(self, lines: list[str], fresh: Path, tell: Tell, max_bytes: int) -> None:
        tell(f"installing {len(lines)} packages")
        wheels, target = fresh / "wheels", fresh / "environment"
        for directory in (wheels, target, fresh / "tmp"):
            directory.mkdir(mode=0o755)
        (fresh / "list.txt").write_text("\n".join(lines) + "\n")
        rules = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--dest", str(wheels)]
        rules += ["--python-version", self.python] if self.python else []
        _fetch([*_installer(), *rules, *self.source.options(), "-r", str(fresh / "list.txt")], fresh, tell, max_bytes)
        num_bytes = self._unpack(wheels, target, tell, max_bytes)
        (target / COMPLETE).write_text(f"{num_bytes}\n")
        files.show_alike(target / COMPLETE, MODE_FILE)
        for parent, _, _ in os.walk(target, topdown=False):
            files.show_alike(Path(parent), MODE_EXECUTABLE)

    def _unpack(self, wheels: Path, target: Path, tell: Tell, max_bytes: int) -> int:
        """Unpack wheels in a sandbox into `target` and return how many bytes they are."""
        sandbox = self.sandbox or choice.choose("private", tell)
        replies_in, replies_out = os.pipe()
        argv = (sys.executable, "-P", "-m", "stannary.worker.unpack", WHEELS, "3")
        mounts = (Mount(wheels, WHEELS),)
        command = Command(argv, own_path(), mounts, limits=UNPACK_LIMITS, inherited_fds=(replies_out,))
        with os.fdopen(replies_in, "rb") as replies:
            try:
                running = sandbox.start(command)
            finally:
                os.close(replies_out)
            with running:
                running.kill_after(UNPACK_TIMEOUT_S)
                try:
                    return _receive(replies, target, max_bytes)
                except (FormatError, ServiceError) as err:
                    running.kill()
                    said = running.stderr.read(4096).decode(errors="replace").strip().rpartition("\n")[2]
                    raise EnvironmentProblem(
                        "the environment cannot be unpacked",
                        why=f"{err} {said}".strip()[:1500],
                        hint=_TOO_LARGE if isinstance(err, LimitExceeded) else _UNREADABLE,
                    ) from err


def _receive(replies: BinaryIO, target: Path, max_bytes: int) -> int:
    """Write the files an unpacker hands out; every byte is counted before it reaches the disk.

    Raises:
        EnvironmentProblem: a wheel that cannot be read, or more than `max_bytes` or MAX_FILES.
        FormatError, ServiceError: the unpacker broke a rule or died.
    """
    num_bytes = num_files = 0
    while num_files <= MAX_FILES:
        started = frames.read_start(replies, FrameLimits(MAX_HEADER_BYTES, max_bytes - num_bytes))
        if started is None:
            raise ServiceError("the unpacker ended", why=f"after {num_files:,} files")
        header, size_bytes = started
        named = file_of(header)
        if named is None:
            if header.get("ok") is not True:
                raise FormatError("a wheel cannot be read", why=logs.printable(str(header.get("message")))[:500])
            return num_bytes
        name, mode = named
        num_bytes += size_bytes
        path = target / name
        num_files += 1 + _make_directory(path.parent)
        with path.open("wb") as file:  # nothing here is a link: all of it was made by this loop
            for piece in frames.pieces(replies, size_bytes):
                file.write(piece)
        files.show_alike(path, mode)
    raise LimitExceeded("too many files in the wheels", why=f"more than {MAX_FILES:,}")


def file_of(header: dict[str, Json]) -> tuple[str, int] | None:
    """Return the path and mode of a file's frame, None for the last frame.

    Raises:
        FormatError: it is neither, or its path is too long or leads out of the environment.
    """
    if "file" not in header:
        return None
    name, mode = header["file"], header.get("mode")
    if not isinstance(name, str) or mode not in (MODE_FILE, MODE_EXECUTABLE) or type(mode) is not int:
        raise FormatError("a wheel's file has no name or mode", why=f"{name!r:.120}")
    segments = name.split("/")
    too_long = len(os.fsencode(name)) > MAX_PATH_BYTES or any(
        len(os.fsencode(segment)) > MAX_SEGMENT_BYTES for segment in segments
    )
    if too_long or len(segments) > MAX_DEPTH:
        raise LimitExceeded("a wheel's file has too long a path", why=f"{name!r:.120}")
    if "\0" in name or "\\" in name or any(segment in ("", ".", "..") for segment in segments):
        raise FormatError("a wheel's file leads out of the environment", why=f"{name!r:.120}")
    return name, mode


def _make_directory(wanted: Path) -> int:
    """Make a directory and those above it; return how many were missing: each takes a place on the disk, too."""
    missing = list(itertools.takewhile(lambda place: not place.exists(), (wanted, *wanted.parents)))
    for place in reversed(missing):
        place.mkdir(mode=0o755)
    return len(missing)


def _check_size(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise EnvironmentProblem(
            "the environment is larger than the job's disk",
            why=f"{num_bytes:,} bytes, resources.disk {max_bytes:,}",
            hint=_TOO_LARGE,
        )


def environment_digest(listing: Digest | None, sandbox: str, root: Digest | None = None) -> Digest:
    """Return the digest a contribution names its environment by: interpreter or root, requirements, sandbox."""
    parts = (root or interpreter_tag(), listing or "none", sandbox)
    return digest.from_raw(digest.hash_parts("stannary environment v1", *(part.encode() for part in parts)))


def interpreter_tag() -> str:
    """Return what decides which wheels fit: implementation, version, system and machine."""
    return f"{sys.implementation.cache_tag}-{platform.python_version()}-{sys.platform}-{platform.machine()}"


def _kept_bytes(place: Path) -> int | None:
    """Return the size of an installed environment, None where there is none, or no whole one (a torn disk)."""
    try:
        size = (place / COMPLETE).read_text().strip()
    except OSError:
        return None
    return int(size) if size.isdigit() else None


def _key(listing: bytes, python: str) -> str:
    parts = (f"python{python}-{sys.platform}-{platform.machine()}" if python else interpreter_tag()).encode(), listing
    return digest.hash_parts("stannary environment directory v2", *parts).hex()


def _installer() -> list[str]:
    """Return pip of this interpreter, which ends with the agent: the kernel sees to it (prctl(2), PR_SET_PDEATHSIG)."""
    if importlib.util.find_spec("pip") is None:
        raise EnvironmentProblem(
            "no installer",
            why="this interpreter has no pip",
            hint=f"{sys.executable} -m ensurepip",
        )
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    return [sys.executable, "-P", "-c", _PIP, "download", *options]


def _fetch(argv: list[str], directory: Path, tell: Tell, max_bytes: int) -> None:
    """Run the installer, telling every line; it ends when what it writes below `directory` is too much.

    Raises:
        EnvironmentProblem: it failed (the reason is its last lines), or `max_bytes`.
    """
    tail: list[str] = []
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    over = threading.Event()
    with subprocess.Popen(  # noqa: S603 - our own options and a list of checked lines
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env={**environment, "TMPDIR": str(directory / "tmp")},
    ) as installer:  # fmt: skip
        watch = threading.Thread(target=_watch, args=(installer, directory, max_bytes, over), daemon=True)
        watch.start()
        for line in installer.stdout or ():
            tell(line.rstrip()[:2000])
            tail = [*tail, line.rstrip()][-TAIL_LINES:]
    watch.join()
    if over.is_set() or _bytes_below(directory) > max_bytes:
        raise EnvironmentProblem(
            "the wheels are larger than the job's disk", why=f"more than {max_bytes:,} bytes", hint=_TOO_LARGE
        )
    if installer.returncode != 0:
        raise EnvironmentProblem(
            "the environment cannot be installed",
            why=" / ".join(tail)[-1500:] or f"the installer ended with {installer.returncode}",
            hint="check the requirements list against what the node's index holds",
        )


def _watch(installer: subprocess.Popen[str], directory: Path, max_bytes: int, over: threading.Event) -> None:
    """End the installer when it takes too long or writes too much."""
    deadline_s = time.monotonic() + FETCH_TIMEOUT_S
    while installer.poll() is None:
        if _bytes_below(directory) > 2 * max_bytes:  # a file on its way lies in `tmp` and in `wheels` for a moment
            over.set()
        if over.is_set() or time.monotonic() > deadline_s:
            installer.kill()
            return
        time.sleep(WATCH_S)


def _bytes_below(directory: Path) -> int:
    num_bytes = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):  # gone meanwhile
                num_bytes += (Path(parent) / name).lstat().st_size
    return num_bytes


def _move(fresh: Path, place: Path) -> None:
    if place.exists() and _kept_bytes(place) is None:
        shutil.rmtree(place)
    try:
        fresh.rename(place)
    except OSError:
        if _kept_bytes(place) is None:  # else another job of this node was quicker with the same list
            raise
