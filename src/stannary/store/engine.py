"""How a connection to the database is opened, for writing and for reading.

Rules:
- WAL with `synchronous=FULL`: a commit returns after its fsync, so what was acknowledged survives a
  power cut (NORMAL survives a killed process only).
- Transactions are begun by us: the driver's own habit of opening one at the first INSERT would put
  a SELECT before it outside the transaction, and does not know SAVEPOINT.
- Readers open the file read-only *and* set `query_only`: no read path can write, whatever it runs.
- One process holds the file at a time (`lock`): two markets on one directory would each believe
  themselves the single writer.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import IO
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from stannary.errors import ConflictError, EnvironmentProblem

BUSY_TIMEOUT_MS = 5_000  # a checkpoint or a backup tool may hold the file for a moment
CACHE_KIB = 65_536  # the upper levels of every index of a million jobs
PAGE_BYTES = 8_192  # an envelope of usual size and its row fit one page
CHECKPOINT_PAGES = 4_000  # 32 MiB of WAL between checkpoints: keys are hashes and touch pages all over the file
JOURNAL_LIMIT_BYTES = 64 * 2**20  # the WAL is cut back to this after a checkpoint
READERS = 8  # concurrent long-polls wait on events, not on connections

CACHED_STATEMENTS = 512  # of each connection; the driver's own 128 would be overrun by the bulk inserts' sizes

DISK_FULL = frozenset({sqlite3.SQLITE_FULL})
DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
HELD = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})  # by another: ask again
FAILURES = (
    DBAPIError,
    sqlite3.Error,
)  # of the machine or of a statement, through SQLAlchemy or straight (statements.py)
LOST = HELD | DAMAGED | frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY})


def lock(path: Path) -> IO[bytes]:
    """Take the database for this process until the returned file is closed.

    Raises:
        ConflictError: another process has it.
    """
    handle = path.with_name(path.name + ".lock").open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise ConflictError(
            "the market's database is in use",
            why=f"another process holds {path.name}",
            hint="stop the other market, or give this one a directory of its own",
        ) from None
    return handle


def writer(path: Path, *, max_pages: int | None = None) -> sa.Engine:
    """Return the engine of the one writer; `max_pages` bounds the file (a quota; tests fill it)."""

    def configure(connection: sqlite3.Connection) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA page_size={PAGE_BYTES}")  # of a new file only
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        cursor.execute(f"PRAGMA journal_size_limit={JOURNAL_LIMIT_BYTES}")
        if max_pages is not None:
            cursor.execute(f"PRAGMA max_page_count={max_pages}")
        cursor.close()

    engine = sa.create_engine(
        "sqlite+pysqlite://",
        creator=lambda: _connect(f"file:{quote(str(path))}?mode=rwc", configure),
        poolclass=NullPool,
    )
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def reader(path: Path) -> sa.Engine:
    """Return the engine of all readers; each transaction sees one snapshot."""

    def configure(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA query_only=ON").close()

    engine = sa.create_engine(
        "sqlite+pysqlite://",
        creator=lambda: _connect(f"file:{quote(str(path))}?mode=ro", configure),
        poolclass=QueuePool,
        pool_size=READERS,
        max_overflow=0,
    )
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _connect(uri: str, configure: Callable[[sqlite3.Connection], None]) -> sqlite3.Connection:
    # The pool hands a connection to one thread at a time; sqlite3 itself is built serialized.
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=CACHED_STATEMENTS
    )
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}").close()
    connection.execute("PRAGMA foreign_keys=ON").close()
    connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}").close()
    configure(connection)
    return connection


def error_code(error: BaseException) -> int:
    """Return SQLite's primary result code behind `error`, 0 where there is none."""
    origin = getattr(error, "orig", None) or error
    code = getattr(origin, "sqlite_errorcode", None)
    return int(code) & 0xFF if code is not None else 0


def is_environmental(error: BaseException) -> bool:
    """Tell whether the machine, not the operation, is at fault: the whole transaction is lost then."""
    return error_code(error) in DISK_FULL | LOST


def environment_problem(error: BaseException) -> EnvironmentProblem:
    """Say for people what the machine lacks."""
    if error_code(error) in DISK_FULL:
        return EnvironmentProblem(
            "the market cannot write: its disk is full",
            why="the database could not grow; nothing of this request was kept",
            hint="free space on the market's disk, then send the request again",
        )
    if error_code(error) in DAMAGED:
        return EnvironmentProblem(
            "the market's database is damaged",
            why=f"{getattr(error, 'orig', None) or error}",
            hint="stop the market and put back a whole backup: stannary market restore",
        )
    if error_code(error) in HELD:
        return EnvironmentProblem(
            "the market's database is held by another program",
            why=f"{getattr(error, 'orig', None) or error}",
            hint="end what has market.db open (a backup?), then send the request again",
        )
    return EnvironmentProblem(
        "the market cannot write to its disk",
        why=f"{getattr(error, 'orig', None) or error}",
        hint="look at the disk and its kernel messages, then send the request again with the same idempotency key",
    )
