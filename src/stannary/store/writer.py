"""The one thread that writes, and its group commit.

Rules:
- Everything waiting when a commit ends goes into the next transaction: the more wait, the more share
  one fsync. Nobody waits for a timer.
- Each operation runs in its own SAVEPOINT: one that raises is undone alone.
- A transaction counts itself, and the mark beside the database says so before anybody is told (mark.py).
- Whatever else ends a transaction ends neither the thread nor anybody's wait: each caller gets the error.
- A future is resolved only after the COMMIT, success *and* failure: a refusal can rest on what a
  neighbour wrote, and must not be told before that is durable.
- When the machine fails (disk full), the whole batch is rolled back and tried again one by one, so
  that a small operation still gets through beside a large one; those that fail get an
  EnvironmentProblem, and the writer goes on. Operations must therefore bear being run twice: they
  touch nothing but their connection.
- A database held by another (a backup tool, a checkpoint on a loaded disk) beyond its busy timeout is asked
  again, HELD_TRIES times in all, before anybody is told of it.
- Items of one `Bulk` are handed to it together: that is how job submits become executemany.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Generic, Protocol, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stannary.errors import ServiceError, StannaryError
from stannary.store import engine as engines
from stannary.store import mark, statements

T = TypeVar("T")
Item_contra = TypeVar("Item_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)
Item = TypeVar("Item")

HELD_TRIES = 3  # of BUSY_TIMEOUT_MS each: within what a client waits for its answer
MAX_BATCH = 1_024  # operations of one transaction: bounds the wait of a reader's snapshot and the WAL


class Bulk(Protocol[Item_contra, Out_co]):
    """An operation over many items at once, one answer or error each, in order."""

    def __call__(self, connection: Connection, items: Sequence[Item_contra], /) -> Sequence[Out_co | StannaryError]: ...


@dataclass(slots=True)
class _Operation(Generic[T]):
    """What waits to be written: a function of the connection, or items of a bulk."""

    run: Callable[[Connection], T] | None
    bulk: Bulk[Any, Any] | None
    items: Sequence[object]
    future: Future[T]
    outcome: T | BaseException | None = None
    outcomes: list[object] = field(default_factory=list)  # of `items`, errors among them


_Pending = _Operation[Any]


class Writer:
    """Owns the write connection; started by the store, stopped by `close`."""

    def __init__(self, engine: sa.Engine, marked: mark.MarkFile) -> None:
        self._engine = engine
        self._marked = marked
        self._waiting: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._closed = False
        self._admission = threading.Lock()
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def write(self, run: Callable[[Connection], T]) -> Future[T]:
        """Queue `run`; the future resolves once its effect is durable."""
        return self._admit(_Operation(run, None, (), Future()))

    def write_bulk(self, bulk: Bulk[Item, T], item: Item) -> Future[T]:
        """Queue one item of `bulk`, to be written together with its neighbours."""
        single: Future[T] = Future()

        def unpack(group: Future[Sequence[T | BaseException]]) -> None:
            if single.set_running_or_notify_cancel():
                error = group.exception()
                outcome = error if error is not None else group.result()[0]
                _tell(single, outcome)

        self.write_group(bulk, [item]).add_done_callback(unpack)
        return single

    def write_group(self, bulk: Bulk[Item, T], items: Sequence[Item]) -> Future[Sequence[T | BaseException]]:
        """Queue items of `bulk`; one answer or error each, in order. One future costs less than hundreds."""
        return self._admit(_Operation(None, bulk, items, Future(), outcomes=[None] * len(items)))

    def close(self) -> None:
        """Write what waits, then stop."""
        with self._admission:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        self._thread.join()

    def _admit(self, operation: _Operation[T]) -> Future[T]:
        with self._admission:
            if self._closed:
                raise ServiceError("the store is closed", why="the market is stopping", hint="try again in a moment")
            self._waiting.put(operation)
        return operation.future

    def _run(self) -> None:
        last = False
        while not last:
            batch, last = self._take()
            self._commit(batch)
        self._discard_connection()

    def _take(self) -> tuple[list[_Pending], bool]:
        """Wait for one operation, then take all that wait with it. The flag says: that was all."""
        batch: list[_Pending] = []
        num_items = 0
        operation = self._waiting.get()
        while operation is not None:
            # A caller that gave up before its turn wants nothing written.
            if operation.future.set_running_or_notify_cancel():
                batch.append(operation)
                num_items += max(1, len(operation.items))
            if num_items >= MAX_BATCH:
                return batch, False
            try:
                operation = self._waiting.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _commit(self, batch: list[_Pending], tries: int = HELD_TRIES) -> None:
        if not batch:
            return
        try:
            self._transact(batch)
        except engines.FAILURES as error:
            self._discard_connection()
            if engines.error_code(error) in engines.HELD and tries > 1:
                self._commit(batch, tries - 1)
                return
            if engines.error_code(error) in engines.DISK_FULL and _num_items(batch) > 1:
                self._commit_singly(batch)
                return
            for operation in batch:
                operation.outcome = engines.environment_problem(error)
        except Exception as error:  # noqa: BLE001  a thread's edge: nobody may wait for ever for a writer that died of it
            self._discard_connection()
            for operation in batch:
                operation.outcome = error
        for operation in batch:
            _resolve(operation)

    def _commit_singly(self, batch: list[_Pending]) -> None:
        for operation in batch:
            if len(operation.items) < 2:
                self._commit([operation])
                continue
            alone: list[_Pending] = [
                _Operation(None, operation.bulk, [i], Future(), outcomes=[None]) for i in operation.items
            ]
            for single in alone:
                self._commit([single])
            operation.outcomes = [
                single.outcome if isinstance(single.outcome, BaseException) else single.outcomes[0] for single in alone
            ]
            _resolve(operation)

    def _transact(self, batch: list[_Pending]) -> None:
        if self._connection is None:
            self._connection = self._engine.connect()
        connection = self._connection
        with connection.begin():
            for bulk, operations in _runs(batch):
                if bulk is None:
                    _perform(connection, operations[0])
                else:
                    places = [(item, index) for item in operations for index in range(len(item.items))]
                    _perform_bulk(connection, bulk, places)
            num_commits = int(statements.run(connection, mark.COUNT).fetchone()[0])
        self._marked.advance(num_commits)

    def _discard_connection(self) -> None:
        """Drop a connection whose state is unknown after a failure; the next batch opens a fresh one."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.invalidate()
            connection.close()


def _runs(batch: list[_Pending]) -> Iterator[tuple[Bulk[Any, Any] | None, list[_Pending]]]:
    """Split a batch, in order, into single operations and runs of one bulk."""
    for bulk, group in groupby(batch, key=lambda operation: operation.bulk):
        if bulk is not None:
            yield bulk, list(group)
        else:
            for operation in group:
                yield None, [operation]


def _perform(connection: Connection, operation: _Pending) -> None:
    run = cast("Callable[[Connection], object]", operation.run)
    statements.run(connection, "SAVEPOINT operation")
    try:
        operation.outcome = run(connection)
    except Exception as error:  # noqa: BLE001  it belongs to the caller, whose future carries it
        _undo(connection, error)
        operation.outcome = error
    statements.run(connection, "RELEASE operation")


def _num_items(batch: list[_Pending]) -> int:
    return sum(max(1, len(operation.items)) for operation in batch)


def _perform_bulk(connection: Connection, bulk: Bulk[Any, Any], places: list[tuple[_Pending, int]]) -> None:
    statements.run(connection, "SAVEPOINT operation")
    try:
        outcomes = bulk(connection, [operation.items[index] for operation, index in places])
        for (operation, index), outcome in zip(places, outcomes, strict=True):
            operation.outcomes[index] = outcome
    except Exception as error:  # noqa: BLE001  it belongs to one of the callers: which one is found one by one
        _undo(connection, error)
        statements.run(connection, "RELEASE operation")
        if len(places) == 1:
            operation, index = places[0]
            operation.outcomes[index] = error
            return
        for place in places:
            _perform_bulk(connection, bulk, [place])
        return
    statements.run(connection, "RELEASE operation")


def _undo(connection: Connection, error: Exception) -> None:
    """Take back one operation; a failure of the machine takes the whole transaction (re-raised)."""
    if isinstance(error, engines.FAILURES) and engines.is_environmental(error):
        raise error
    statements.run(connection, "ROLLBACK TO operation")


def _resolve(operation: _Pending) -> None:
    if operation.bulk is not None and operation.outcome is None:
        operation.future.set_result(operation.outcomes)
    else:
        _tell(operation.future, operation.outcome)


def _tell(future: Future[Any], outcome: object) -> None:
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
