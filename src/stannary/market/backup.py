"""A whole market in one folder: database, log, witness, blobs and keys, of one moment, while it runs; and back again.

    BACKUP/market.db  market.db.mark  log/  witness/  blobs/  key  admin-token  tls.key  tls.crt  name  port  clock
    BACKUP/backup.json     written last: without it the folder is no backup

Rules:
- Nothing is appended to the log while log and witness are copied and the database's snapshot is taken, so that every
  leaf of the one is in the other. The database is then copied from that snapshot, beside a market that goes on.
- Keys are part of it: without its key a market is another market. So the folder is 0700 and as secret as the market.
- Blobs are linked where the folder lies on the same file system (they never change), copied otherwise.
- It is restored into an empty folder only, whole or not at all. Where a log lies already, nothing is put over it:
  an older log under people who have seen a newer one is a rollback, and they refuse it.
- What happened after the backup is lost with the market it is a backup of; nobody can bring it back.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from stannary import files
from stannary.errors import ConflictError, EnvironmentProblem, FormatError
from stannary.formats import note
from stannary.market import identity
from stannary.market.clock import CLOCK_FILE
from stannary.store import mark

DATABASE, LOG, WITNESS, BLOBS, PORT_FILE = "market.db", "log", "witness", "blobs", "port"
MANIFEST = "backup.json"
KEYS = (
    identity.KEY_FILE,
    identity.NAME_FILE,
    identity.ADMIN_TOKEN_FILE,
    identity.TLS_KEY_FILE,
    identity.TLS_CERT_FILE,
    PORT_FILE,
    CLOCK_FILE,
)
MAX_MANIFEST_BYTES = 64 * 1024
VERSION = 1


@dataclass(frozen=True, slots=True)
class Contents:
    """What a backup holds."""

    version: int
    origin: str  # the log's name
    log_size: int
    num_commits: int
    num_blobs: int
    num_missing_blobs: int  # cleared away while it was made, or lost before


async def make(
    directory: Path, target: Path, quiet: AbstractAsyncContextManager[None], run: Callable[..., object]
) -> Contents:
    """Back a running market up.

    Args:
        directory: the market's.
        target: a folder that does not exist yet, or is empty.
        quiet: while it is entered nothing is appended to the log.
        run: runs a function in a thread (`asyncio.to_thread`).
    """
    _make_empty(target)
    with _snapshot(directory / DATABASE) as source:
        async with quiet:
            source.execute("BEGIN").close()
            source.execute("SELECT num_commits FROM marks").fetchone()  # from here on it sees this moment only
            await run(_copy_logs, directory, target)  # type: ignore[misc]  # of asyncio.to_thread
        return await run(_finish, source, directory, target)  # type: ignore[misc,no-any-return]  # as above


def make_of_stopped(directory: Path, target: Path) -> Contents:
    """Back up a market that does not run; the caller holds its database's lock."""
    _make_empty(target)
    with _snapshot(directory / DATABASE) as source:
        source.execute("BEGIN").close()
        _copy_logs(directory, target)
        return _finish(source, directory, target)


def restore(backup: Path, directory: Path) -> Contents:
    """Put a backup into an empty folder.

    Raises:
        FormatError: it is no whole backup.
        ConflictError: the folder is not empty; a newer log in it is named.
    """
    manifest = read(backup)
    if directory.exists() and any(directory.iterdir()):
        size = _log_size(directory)
        why = f"{directory} is not empty"
        if size:
            older = (
                f"{size - manifest.log_size:,} more than" if size > manifest.log_size else "as many as, or fewer than,"
            )
            why = f"{directory} holds a log of {size:,} statements, {older} the backup's {manifest.log_size:,}"
        raise ConflictError(
            "a backup is put into an empty folder only", why=why, hint="stannary market restore --from BACKUP --dir NEW"
        )
    staged = directory.with_name(f".{directory.name}.restoring")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(backup, staged, ignore=shutil.ignore_patterns(MANIFEST))
        staged.chmod(0o700)
        _sync_tree(staged)
        if directory.exists():
            directory.rmdir()
        staged.rename(directory)
    except OSError as err:
        shutil.rmtree(staged, ignore_errors=True)
        raise EnvironmentProblem(
            "the backup cannot be put back", why=str(err), hint="free disk space, then again"
        ) from err
    return manifest


def read(backup: Path) -> Contents:
    """Read a backup's manifest.

    Raises:
        FormatError: there is none, or it is another version's.
    """
    try:
        members = json.loads((backup / MANIFEST).read_bytes()[:MAX_MANIFEST_BYTES])
        made = Contents(**members)
    except (OSError, ValueError, TypeError) as err:
        raise FormatError(
            "not a whole backup of a market", why=f"{backup / MANIFEST}: {err}", hint="choose another"
        ) from err
    if made.version != VERSION:
        raise FormatError("a backup of another version", why=f"version {made.version}, here {VERSION}")
    return made


def _make_empty(target: Path) -> None:
    if target.exists() and any(target.iterdir()):
        raise ConflictError(
            "a backup is made into an empty folder only", why=f"{target} is not empty", hint="name another"
        )
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    target.chmod(0o700)


@contextmanager
def _snapshot(database: Path) -> Iterator[sqlite3.Connection]:
    uri = f"file:{quote(str(database))}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        yield connection
    finally:
        connection.close()


def _copy_logs(directory: Path, target: Path) -> None:
    ignored = shutil.ignore_patterns(".lock", ".*.new")
    for name in (LOG, WITNESS):
        if (directory / name).is_dir():
            shutil.copytree(directory / name, target / name, ignore=ignored)


def _finish(source: sqlite3.Connection, directory: Path, target: Path) -> Contents:
    with contextlib.closing(sqlite3.connect(target / DATABASE)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE").close()  # one file; the market turns it back
        store, num_commits = copy.execute("SELECT store, num_commits FROM marks").fetchone()
        names = [str(row[0]) for row in copy.execute("SELECT digest FROM blobs")]
    files.replace(mark.path_of(target / DATABASE), mark.Mark(store, num_commits).to_bytes())
    num_missing = sum(not _link(directory, target, name.partition(":")[2]) for name in names)
    for name in KEYS:
        if (directory / name).exists():
            shutil.copy2(directory / name, target / name)
    made = Contents(VERSION, _origin(target), _log_size(target), num_commits, len(names), num_missing)
    _sync_tree(target)
    files.replace(target / MANIFEST, json.dumps(asdict(made)).encode())
    return made


def _link(directory: Path, target: Path, name: str) -> bool:
    source, copy = (place / BLOBS / "sha256" / name[:2] / name for place in (directory, target))
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, copy)
    except FileNotFoundError:
        return False
    except OSError:  # another file system
        shutil.copyfile(source, copy)
    return True


def _checkpoint(directory: Path) -> note.Checkpoint | None:
    path = directory / LOG / "checkpoint"
    if not path.exists():
        return None
    return note.parse_checkpoint(note.parse(path.read_text(encoding="utf-8")).text)


def _log_size(directory: Path) -> int:
    found = _checkpoint(directory)
    return found.size if found is not None else 0


def _origin(directory: Path) -> str:
    found = _checkpoint(directory)
    return found.origin if found is not None else ""


def _sync_tree(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        if path.is_symlink():
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
