"""Files a party keeps: where they lie, and how secrets and states are written.

Rules:
1. Configuration lies in $STANNARY_CONFIG_DIR, data in $STANNARY_DATA_DIR, else where XDG says.
2. A secret is created 0600 by O_EXCL and never rewritten; one that others can read is refused. A directory of
   ours is 0700, with every parent made on the way to it; one that is more open is closed, and refused where
   that cannot be done and others may write in it.
3. A state file is replaced by rename after fsync: a reader sees the old or the new one, whole, also
   after a power cut.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stannary.errors import EnvironmentProblem, NotFound, StannaryError
from stannary.formats.workdir import FILE_TIME_S

APP = "stannary"


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A value that must not reach a log: its text is `***`."""

    value: str

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


def config_dir() -> Path:
    """Return the directory of config.toml and trust.toml."""
    return _place("STANNARY_CONFIG_DIR", "user_config_path")


def data_dir() -> Path:
    """Return the directory of keys, jobs and the embedded market."""
    return _place("STANNARY_DATA_DIR", "user_data_path")


def own_dirs() -> tuple[Path, ...]:
    """Return every directory that is ours: those in use, and those the platform names when nothing else does."""
    import platformdirs

    kinds = ("user_config_path", "user_data_path", "user_state_path", "user_cache_path")
    usual = [Path(getattr(platformdirs, kind)(APP, appauthor=False)) for kind in kinds]
    found = [path.resolve() for path in (config_dir(), data_dir(), *usual)]
    return tuple(dict.fromkeys(found))


def homes() -> tuple[Path, ...]:
    """Return this account's home directory, by the environment and by the account's own record."""
    found = [Path(os.environ["HOME"])] if os.environ.get("HOME") else []
    with contextlib.suppress(KeyError):  # a container's account may have no record
        found.append(Path(pwd.getpwuid(os.getuid()).pw_dir))
    return tuple(dict.fromkeys(path.resolve() for path in found))


def create_secret(path: Path, data: bytes) -> None:
    """Create a secret file; raise FileExistsError if there is one."""
    _make_dir(path.parent)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as err:
        with contextlib.suppress(OSError):
            path.unlink()  # half a secret would be taken for a whole one
        raise EnvironmentProblem("cannot write a secret file", why=str(err)) from err
    sync_dir(path.parent)


def read_secret(path: Path) -> bytes:
    """Read a secret file.

    Raises:
        NotFound: there is none.
        EnvironmentProblem: other accounts can read or write it, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read()
    except FileNotFoundError as err:
        raise NotFound("no such secret file", why=str(path), hint="name another file, or make it anew") from err
    except OSError as err:
        raise EnvironmentProblem("cannot read a secret file", why=str(err)) from err
    if stat.S_IMODE(mode) & 0o077:
        raise EnvironmentProblem(
            "a secret file is open to others", why=f"{path} has mode {stat.S_IMODE(mode):o}", hint=f"chmod 600 {path}"
        )
    return data


def replace(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a state file by rename, durable when this returns."""
    _make_dir(path.parent)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as err:
        fresh.unlink(missing_ok=True)
        raise EnvironmentProblem("cannot write a file", why=str(err), hint="free disk space and try again") from err
    sync_dir(path.parent)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only process that holds this lock file, waiting for others; the kernel lets go of it with the process.

    Raises:
        EnvironmentProblem: it cannot be made.
    """
    with _lock_file(path) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def held(path: Path, otherwise: StannaryError) -> Iterator[None]:
    """Be the only process that holds this lock file; raise `otherwise`, at once, where another one does.

    Raises:
        EnvironmentProblem: it cannot be made.
    """
    with _lock_file(path) as fd:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise otherwise from err
        yield


@contextlib.contextmanager
def _lock_file(path: Path) -> Iterator[int]:
    _make_dir(path.parent)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as err:
        raise EnvironmentProblem("cannot write a file", why=str(err), hint="free disk space and try again") from err
    try:
        yield fd
    finally:
        os.close(fd)


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a new file piece by piece, durable when this returns; an error of the disk leaves none."""
    _make_dir(path.parent)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    except OSError as err:
        path.unlink(missing_ok=True)
        raise EnvironmentProblem("cannot write a file", why=str(err), hint="free disk space and try again") from err
    sync_dir(path.parent)


def show_alike(path: Path, mode: int) -> None:
    """Give what a job will find the mode and time of change it has on every node; its time of use is now.

    Raises:
        EnvironmentProblem: it is gone, or not ours.
    """
    try:
        path.chmod(mode)
        os.utime(path, (time.time(), FILE_TIME_S))
    except OSError as err:
        raise EnvironmentProblem("cannot show a file to a job", why=str(err)) from err


def tail(path: Path, num_bytes: int) -> bytes:
    """Return the last bytes of a file, however long it is."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - num_bytes))
        return file.read(num_bytes)


def sync_dir(path: Path) -> None:
    """Make the names in a directory durable: of files made, renamed or removed."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_private_dir(path: Path) -> Path:
    """Make a directory only its owner may enter, or close one that is more open, and return it."""
    _make_dir(path)
    _close(path)
    return path


def _make_dir(path: Path) -> None:
    """Make a directory and its missing parents, all 0700: `mkdir(parents=True)` leaves the parents to the umask."""
    try:
        missing = [path, *path.parents]
        missing = missing[: next((at for at, item in enumerate(missing) if item.exists()), len(missing))]
        for item in reversed(missing):
            item.mkdir(mode=0o700, exist_ok=True)
        if not path.is_dir():
            raise NotADirectoryError(f"{path} is no directory")
    except OSError as err:
        raise EnvironmentProblem("cannot make a directory", why=str(err)) from err


def _close(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & 0o077:
        return
    if mode & stat.S_ISVTX:  # a place that is shared on purpose, such as /tmp
        raise EnvironmentProblem(
            "a shared directory cannot be ours", why=f"{path} has mode {mode:o}", hint="choose a directory inside it"
        )
    try:
        path.chmod(mode & 0o700)
    except OSError as err:
        if mode & 0o022:  # who may write here may put other keys and pins in the place of ours
            raise EnvironmentProblem(
                "a directory of ours is open to others", why=f"{path} has mode {mode:o}", hint=f"chmod 700 {path}"
            ) from err


def _place(variable: str, platform_name: str) -> Path:
    given = os.environ.get(variable, "")
    if given:
        found = Path(given).expanduser()
    else:
        import platformdirs

        found = Path(getattr(platformdirs, platform_name)(APP, appauthor=False))
    if found.is_dir():
        _close(found)
    return found
