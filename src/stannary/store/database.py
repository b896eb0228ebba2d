"""The store: one writer, many readers, opened at the newest schema.

    store = Store.open(directory / "market.db")
    future = store.write(lambda c: leases.grant(c, ...))      # durable when it resolves
    rows = store.read(lambda c: events.after(c, job, 0))      # one snapshot, read-only
    job = await store.awrite(...)                             # the same, from asyncio

A function given to `write` touches nothing but its connection, and quickly: it may be run twice
(writer.py) and everybody waits for it. No network call, no file, no sleep inside one.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from stannary.errors import EnvironmentProblem
from stannary.store import engine as engines
from stannary.store import mark, migrate
from stannary.store.gathering import Gathering
from stannary.store.writer import HELD_TRIES, Bulk, Writer

T = TypeVar("T")
Item = TypeVar("Item")


class Store:
    """All that a market keeps. Make one with `open`."""

    def __init__(
        self, path: Path, *, held: IO[bytes], write_engine: sa.Engine, read_engine: sa.Engine, marked: mark.MarkFile
    ) -> None:
        self._path = path
        self._held = held
        self._marked = marked
        self._writer = Writer(write_engine, marked)
        self._write_engine = write_engine
        self._read_engine = read_engine
        self._gatherings: dict[Bulk[Any, Any], Gathering] = {}

    @classmethod
    def open(cls, path: Path, *, max_pages: int | None = None) -> Store:
        """Open the database at `path`, made or migrated as needed.

        Raises:
            ConflictError: another process has it open.
            EnvironmentProblem: the disk refuses, a newer release wrote it, or it is older than its mark (mark.py).
        """
        held = engines.lock(path)
        write_engine = engines.writer(path, max_pages=max_pages)
        with contextlib.ExitStack() as undo:
            undo.callback(held.close)  # a lock that stays would shut the market out of its own file
            try:
                mark.expect_database(path)
                migrate.upgrade(write_engine)
                with write_engine.connect() as connection:
                    marked = mark.accept(path, connection)
            except DBAPIError as error:
                raise engines.environment_problem(error) from error
            undo.pop_all()
        return cls(path, held=held, write_engine=write_engine, read_engine=engines.reader(path), marked=marked)

    def check_pages(self) -> Future[None] | None:
        """Begin to read every page of a database too large for it to be done at open; None where it was.

        The future ends with EnvironmentProblem where one is damaged. Nothing waits for the thread: no SQLite of ours
        breaks such a check off, and a market must stop when it is told to.
        """
        if not mark.is_large(self._path):
            return None
        checked: Future[None] = Future()
        checked.set_running_or_notify_cancel()

        def check() -> None:
            engine = engines.reader(self._path)
            try:
                with engine.connect() as connection:
                    mark.check_pages(connection)
            except (EnvironmentProblem, DBAPIError) as error:
                checked.set_exception(error)
            else:
                checked.set_result(None)
            finally:
                engine.dispose()

        threading.Thread(target=check, name="store-pages", daemon=True).start()
        return checked

    def write(self, operation: Callable[[Connection], T]) -> Future[T]:
        """Run `operation` in the writer; the future resolves after the COMMIT is durable."""
        return self._writer.write(operation)

    def write_bulk(self, bulk: Bulk[Item, T], item: Item) -> Future[T]:
        """Hand `item` to `bulk` together with whoever waits beside it (job submits)."""
        return self._writer.write_bulk(bulk, item)

    async def awrite(self, operation: Callable[[Connection], T]) -> T:
        """Await `write`. A cancelled waiter leaves the write itself to finish."""
        return await asyncio.shield(asyncio.wrap_future(self.write(operation)))

    async def awrite_bulk(self, bulk: Bulk[Item, T], item: Item) -> T:
        """Await `write_bulk`. A cancelled waiter leaves the write itself to finish."""
        gathering = self._gatherings.get(bulk)
        if gathering is None or gathering.loop is not asyncio.get_running_loop():
            gathering = self._gatherings[bulk] = Gathering(self._writer, bulk)
        return cast("T", await gathering.add(item))

    def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` on one read-only snapshot, in this thread; ask again where another holds the file too long.

        Raises:
            EnvironmentProblem: it is held for good.
        """
        for tries_left in reversed(range(HELD_TRIES)):
            try:
                with self._read_engine.connect() as connection, connection.begin():
                    return query(connection)
            except DBAPIError as error:
                if engines.error_code(error) not in engines.HELD:
                    raise
                if not tries_left:
                    raise engines.environment_problem(error) from error
        raise AssertionError("unreachable: the last try returns or raises")

    async def aread(self, query: Callable[[Connection], T]) -> T:
        """Run `query` on a read-only snapshot in a thread, off the event loop."""
        return await asyncio.to_thread(self.read, query)

    def close(self) -> None:
        """Write what waits, close all connections, let go of the file."""
        self._read_engine.dispose()  # before the writer: the last to close merges the WAL, and a reader cannot
        self._writer.close()
        self._write_engine.dispose()
        self._marked.close()
        self._held.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
