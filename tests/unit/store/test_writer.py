"""The writer: group commit, isolation of failures, durability, a full disk."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError, OperationalError

from stannary.errors import ConflictError, EnvironmentProblem, ServiceError
from stannary.store import accounts, mark, statements
from stannary.store import engine as engines
from stannary.store.database import Store
from stannary.store.schema import buyers, envelopes

DEADLINE_S = 30


def add_buyer(name: str) -> None:
    return lambda c: c.execute(sa.insert(buyers).values(buyer=name, created_at_ms=0)).rowcount  # type: ignore[return-value]  # a lambda for brevity


def names(store: Store) -> list[str]:
    return store.read(lambda c: sorted(c.execute(sa.select(buyers.c.buyer)).scalars()))


class Gate:
    """An operation that holds the writer until it is opened, so that others gather behind it."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, _connection: Connection) -> None:
        self.entered.set()
        assert self.opened.wait(DEADLINE_S)


def test_one_failing_operation_leaves_its_neighbours(store: Store) -> None:
    """In one transaction, the failing operation alone is undone, and its error reaches its own caller."""
    gate = Gate()
    held = store.write(gate)
    assert gate.entered.wait(DEADLINE_S)

    def fails(connection: Connection) -> None:
        accounts.add_buyer(connection, "half", at_ms=0)
        raise ConflictError("no")

    futures: list[Future[object]] = [
        store.write(add_buyer("a")),
        store.write(fails),
        store.write(add_buyer("a")),
        store.write(add_buyer("b")),
    ]
    gate.opened.set()
    held.result(DEADLINE_S)
    assert futures[0].result(DEADLINE_S) == 1
    assert isinstance(futures[1].exception(DEADLINE_S), ConflictError)
    assert isinstance(futures[2].exception(DEADLINE_S), IntegrityError)
    assert futures[3].result(DEADLINE_S) == 1
    assert names(store) == ["a", "b"]


def test_the_writer_survives_what_nobody_foresaw(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that ends in no error of the database reaches everybody who waits for it; the next one goes on."""
    failures = [RuntimeError("no error of the machine's")]
    count = statements.run

    def run(connection: Connection, statement: str, *values: object) -> object:
        if statement == mark.COUNT and failures:
            raise failures.pop()
        return count(connection, statement, *values)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(statements, "run", run)
    assert isinstance(store.write(add_buyer("a")).exception(DEADLINE_S), RuntimeError)
    assert store.write(add_buyer("b")).result(DEADLINE_S) == 1
    assert names(store) == ["b"]


def test_waiting_operations_share_one_commit(store: Store) -> None:
    """What gathers while the writer is busy is committed together."""
    commits: list[int] = []
    sa.event.listen(store._write_engine, "commit", lambda _connection: commits.append(1))
    gate = Gate()
    store.write(gate)
    assert gate.entered.wait(DEADLINE_S)
    futures = [store.write(add_buyer(str(number))) for number in range(100)]
    gate.opened.set()
    for future in futures:
        future.result(DEADLINE_S)
    assert len(commits) == 2


def test_a_future_resolves_after_its_commit(store: Store) -> None:
    """Whoever holds a resolved future finds its effect on another connection."""
    for number in range(20):
        store.write(add_buyer(f"{number:02}")).result(DEADLINE_S)
        assert len(names(store)) == number + 1


def test_a_cancelled_wait_writes_nothing(store: Store) -> None:
    """An operation cancelled before its turn is not run."""
    gate = Gate()
    held = store.write(gate)
    assert gate.entered.wait(DEADLINE_S)
    future = store.write(add_buyer("a"))
    assert future.cancel()
    gate.opened.set()
    held.result(DEADLINE_S)
    store.write(lambda _c: None).result(DEADLINE_S)
    assert names(store) == []


def test_a_closed_store_takes_nothing_but_finishes_what_waits(tmp_path: Path) -> None:
    """Closing writes what was accepted; later writes are refused."""
    store = Store.open(tmp_path / "market.db")
    future = store.write(add_buyer("a"))
    store.close()
    assert future.result(0) == 1
    with pytest.raises(ServiceError):
        store.write(add_buyer("b"))


def test_a_bulk_that_fails_is_tried_one_by_one(store: Store) -> None:
    """An item that no bulk can take fails alone."""

    def insert(connection: Connection, items: object) -> list[int]:
        rows = [{"buyer": item, "created_at_ms": 0} for item in items]  # type: ignore[attr-defined]  # strings
        connection.execute(sa.insert(buyers), rows)
        return [1] * len(rows)

    gate = Gate()
    store.write(gate)
    assert gate.entered.wait(DEADLINE_S)
    futures = [store.write_bulk(insert, name) for name in ("a", "b", None, "c")]
    gate.opened.set()
    outcomes = [future.exception(DEADLINE_S) is None for future in futures]
    assert outcomes == [True, True, False, True]
    assert names(store) == ["a", "b", "c"]


def test_readers_cannot_write(store: Store) -> None:
    """A read path that tries to write is refused by the database."""
    with pytest.raises(sa.exc.OperationalError, match="readonly"):
        store.read(add_buyer("a"))


def test_a_reader_sees_one_snapshot(store: Store) -> None:
    """Within one read, a commit in between changes nothing."""

    def twice(connection: Connection) -> tuple[int, int]:
        count = sa.select(sa.func.count()).select_from(buyers)
        before = connection.execute(count).scalar_one()
        store.write(add_buyer("a")).result(DEADLINE_S)
        return before, connection.execute(count).scalar_one()

    assert store.read(twice) == (0, 0)
    assert names(store) == ["a"]


def test_two_processes_cannot_hold_one_database(tmp_path: Path) -> None:
    """A second market on the same file is refused before it writes."""
    with Store.open(tmp_path / "market.db"), pytest.raises(ConflictError, match="in use"):
        Store.open(tmp_path / "market.db")
    Store.open(tmp_path / "market.db").close()


def envelope(leaf: str, size: int) -> object:
    values = {"leaf": leaf, "kind": "job", "envelope": b"x" * size, "received_at_ms": 0}
    return lambda c: c.execute(sa.insert(envelopes).values(**values)).rowcount


def test_a_full_disk_loses_nothing_and_passes(tmp_path: Path) -> None:
    """When the file cannot grow the caller is told so; what was acknowledged stays; space heals it."""
    with Store.open(tmp_path / "market.db") as store:
        page_count = store.read(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar_one())
    with Store.open(tmp_path / "market.db", max_pages=page_count + 40) as store:
        acknowledged = []
        problem = None
        for number in range(100):
            error = (future := store.write(envelope(str(number), 20_000))).exception(DEADLINE_S)
            if error is None:
                acknowledged.append(str(number))
                assert future.result() == 1
            else:
                problem = error
                break
        assert isinstance(problem, EnvironmentProblem)
        assert "disk is full" in problem.what
        assert acknowledged
        # A small operation beside one that cannot fit still gets through.
        gate = Gate()
        store.write(gate)
        assert gate.entered.wait(DEADLINE_S)
        large, small = store.write(envelope("large", 10**6)), store.write(lambda _c: "small")
        gate.opened.set()
        assert isinstance(large.exception(DEADLINE_S), EnvironmentProblem)
        assert small.result(DEADLINE_S) == "small"
        kept = store.read(lambda c: list(c.execute(sa.select(envelopes.c.leaf).order_by(envelopes.c.seq)).scalars()))
        assert kept == acknowledged
        # Space returns: the same writer goes on.
        store.write(lambda c: c.exec_driver_sql("PRAGMA max_page_count=1000000").scalar_one()).result(DEADLINE_S)
        assert store.write(envelope("large", 10**6)).result(DEADLINE_S) == 1


CHILD = """
import sys
from pathlib import Path
from stannary.store import accounts, mark, statements
from stannary.store import engine as engines
from stannary.store.database import Store
store = Store.open(Path(sys.argv[1]))
number = int(sys.argv[2])
while True:
    futures = []
    for _ in range(16):
        futures.append((number, store.write(lambda c, n=number: accounts.add_buyer(c, f"b{n}", at_ms=n))))
        number += 1
    for n, future in futures:
        future.result()
        print(n, flush=True)
"""


def test_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """A process killed while it writes has, on reopening, every write it acknowledged."""
    path, acknowledged, following = tmp_path / "market.db", set[str](), 0
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(following)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for line in child.stdout:
            acknowledged.add(f"b{line.strip()}")
            if len(acknowledged) % 50 == 49:
                break
        os.kill(child.pid, signal.SIGKILL)
        rest = child.stdout.read()
        acknowledged |= {f"b{line}" for line in rest.split("\n")[:-1]}
        child.stdout.close()
        child.wait(DEADLINE_S)
        following = max(int(name[1:]) for name in acknowledged) + 1_000
    with Store.open(path) as store:
        assert acknowledged <= set(names(store))
        assert store.read(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar_one()) == "ok"


def held_by_another() -> OperationalError:
    """Return the error of a file that another program holds."""
    origin = sqlite3.OperationalError("database is locked")
    origin.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return OperationalError("BEGIN", {}, origin)


def test_a_write_waits_for_a_database_held_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that holds the file past the busy timeout delays a write and fails nobody's."""
    monkeypatch.setattr(engines, "BUSY_TIMEOUT_MS", 20)
    with Store.open(tmp_path / "market.db") as store:
        other = sqlite3.connect(tmp_path / "market.db", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN EXCLUSIVE")
        discard, met = store._writer._discard_connection, []

        def let_go() -> None:  # the writer has met the lock once: now it is given up
            if not met:
                met.append(other.execute("COMMIT"))
            discard()

        monkeypatch.setattr(store._writer, "_discard_connection", let_go)
        assert store.write(add_buyer("a")).result(DEADLINE_S) == 1
        assert met
        assert names(store) == ["a"]
        other.close()


def test_a_database_held_for_good_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds the file for ever is named as the cause, and the next write after him goes through."""
    monkeypatch.setattr(engines, "BUSY_TIMEOUT_MS", 20)
    with Store.open(tmp_path / "market.db") as store:
        other = sqlite3.connect(tmp_path / "market.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(EnvironmentProblem, match="held by another program"):
            store.write(add_buyer("a")).result(DEADLINE_S)
        other.execute("COMMIT")
        other.close()
        assert store.write(add_buyer("b")).result(DEADLINE_S) == 1


def test_a_read_is_asked_again_while_another_holds_the_file(store: Store) -> None:
    """A reader that meets a held file reads again, HELD_TRIES times; any other failure is its own at once."""
    errors = [held_by_another(), held_by_another()]

    def query(_connection: Connection) -> str:
        if errors:
            raise errors.pop()
        return "read"

    assert store.read(query) == "read"
    errors.extend(held_by_another() for _ in range(3))
    with pytest.raises(EnvironmentProblem, match="held by another program"):
        store.read(query)
    assert not errors
    with pytest.raises(OperationalError, match="no_such_table"):
        store.read(lambda c: c.exec_driver_sql("SELECT 1 FROM no_such_table"))


def test_a_group_of_items_is_one_future(store: Store) -> None:
    """write_group answers each item in order, an error in its place, and writes nothing of the one that failed."""

    def add(connection: Connection, items: Sequence[str]) -> list[int | ConflictError]:
        return [ConflictError("no") if item == "bad" else add_buyer(item)(connection) for item in items]

    first, bad, last = store._writer.write_group(add, ["a", "bad", "b"]).result(DEADLINE_S)
    assert (first, last) == (1, 1)
    assert isinstance(bad, ConflictError)
    assert names(store) == ["a", "b"]


def test_a_group_whose_bulk_raises_is_tried_one_by_one(store: Store) -> None:
    """A bulk that cannot take its items together takes them alone: only the one at fault hears of it."""

    def add(connection: Connection, items: Sequence[str]) -> list[int]:
        if len(items) > 1 or items[0] == "bad":
            raise ValueError(f"{len(items)} items")
        return [add_buyer(items[0])(connection)]

    first, bad, last = store._writer.write_group(add, ["a", "bad", "b"]).result(DEADLINE_S)
    assert (first, last) == (1, 1)
    assert isinstance(bad, ValueError)
    assert names(store) == ["a", "b"]


def test_an_empty_group_is_answered(store: Store) -> None:
    """A group of nothing is written, and answers nothing."""
    assert store._writer.write_group(lambda _connection, _items: [], []).result(DEADLINE_S) == []
