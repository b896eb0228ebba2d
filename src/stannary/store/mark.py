"""The mark beside the database: how many transactions it has acknowledged, so that an older one is known for it.

Rules:
- Each transaction of the writer counts itself (table `marks`); after its COMMIT is durable, and before anybody is
  told, the same number stands in the mark file. So the file never says more than the database held, and a database
  that holds less is not the one that was: an older copy, one without its `-wal`, one whose WAL lost frames to damage.
- The file is not synced: a power cut may leave it behind, which harms nobody; a killed process does not.
- A database without its mark, or with another's, is refused as well, unless it has never been written to.
- A damaged page is looked for at every start: before anything else in databases of up to MAX_CHECKED_BYTES, in larger
  ones beside the market's work (Store.check_pages), which ends if one is found.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from stannary import files
from stannary.errors import EnvironmentProblem

SUFFIX = ".mark"
_WAL, _KEPT = "-wal", "-wal.kept"
MAX_CHECKED_BYTES = 2**30  # that nobody waits longer for a start: quick_check reads all of it, some seconds a GiB
MAX_MARK_BYTES = 256
COUNT = "UPDATE marks SET num_commits = num_commits + 1 RETURNING num_commits"
HINT = "put back market.db with its -wal and .mark as they lay together, or a whole backup: stannary market restore"


@dataclass(frozen=True, slots=True)
class Mark:
    """Which database, and how far."""

    store: str
    num_commits: int

    def to_bytes(self) -> bytes:
        """Return the file's content; of constant length, so that one write replaces it."""
        return f"{self.store} {self.num_commits:020d}\n".encode("ascii")


class MarkFile:
    """The open mark file of a running market; used by the writer thread only."""

    def __init__(self, path: Path, mark: Mark) -> None:
        files.replace(path, mark.to_bytes())
        self._store = mark.store
        self._file: IO[bytes] = path.open("r+b", buffering=0)

    def advance(self, num_commits: int) -> None:
        """Note that so many transactions are durable."""
        with contextlib.suppress(OSError):  # then it stays behind, as after a power cut
            os.pwrite(self._file.fileno(), Mark(self._store, num_commits).to_bytes(), 0)

    def close(self) -> None:
        """Sync and close the file."""
        with contextlib.suppress(OSError):
            os.fsync(self._file.fileno())
        self._file.close()


def path_of(database: Path) -> Path:
    """Return where a database's mark lies."""
    return database.with_name(database.name + SUFFIX)


def expect_database(database: Path) -> None:
    """Refuse to make an empty database where one has been; keep the WAL as it is until the database is accepted.

    Raises:
        EnvironmentProblem: the mark is there and the database is not.
    """
    if not database.exists() and path_of(database).exists():
        raise EnvironmentProblem(
            "the market's database is gone", why=f"{database.name} is missing, its mark is there", hint=HINT
        )
    wal = database.with_name(database.name + _WAL)
    if wal.exists():
        shutil.copy2(wal, database.with_name(database.name + _KEPT))


def accept(database: Path, connection: Connection) -> MarkFile:
    """Check that a database is not older than its mark, nor damaged; return its mark, open.

    Raises:
        EnvironmentProblem: it is; its WAL as it was found is kept beside it (`-wal.kept`).
    """
    if not is_large(database):
        check_pages(connection)
    row = connection.exec_driver_sql("SELECT store, num_commits FROM marks").one()
    held = Mark(str(row[0]), int(row[1]))
    told = _read(path_of(database))
    if told is None and held.num_commits:
        raise _refused("its mark is missing: nothing says whether it is the newest")
    if told is not None and told.store != held.store:
        raise _refused("it is another database than the one that was here")
    if told is not None and told.num_commits > held.num_commits:
        lost = told.num_commits - held.num_commits
        raise _refused(f"it lacks the last {lost:,} of {told.num_commits:,} transactions this market has acknowledged")
    database.with_name(database.name + _KEPT).unlink(missing_ok=True)
    return MarkFile(path_of(database), held)


def is_large(database: Path) -> bool:
    """Tell whether a database's pages are checked beside the market's work, not before it."""
    return database.stat().st_size > MAX_CHECKED_BYTES


def check_pages(connection: Connection) -> None:
    """Read every page.

    Raises:
        EnvironmentProblem: one is damaged.
    """
    try:
        found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    except DBAPIError as err:
        found = str(err)
    if found != "ok":
        raise _refused(f"its pages are damaged: {found}")


def _read(path: Path) -> Mark | None:
    try:
        data = path.read_bytes()[:MAX_MARK_BYTES]
    except FileNotFoundError:
        return None
    store, _, number = data.decode("ascii", "replace").strip().partition(" ")
    if not store or not number.isascii() or not number.isdigit():
        raise _refused("its mark is damaged")
    return Mark(store, int(number))


def _refused(why: str) -> EnvironmentProblem:
    return EnvironmentProblem("the market's database is not the one that was", why=why, hint=HINT)
