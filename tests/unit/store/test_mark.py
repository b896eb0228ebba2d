"""An older, torn or damaged database is refused with what to do, and nothing of it is thrown away."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stannary.errors import EnvironmentProblem
from stannary.store import accounts, mark
from stannary.store.database import Store

BUYERS = 40
DEADLINE_S = 30


def furnish(store: Store, names: range) -> None:
    """Write some transactions, one after another."""
    for number in names:
        store.write(lambda c, n=number: accounts.add_buyer(c, f"buyer-{n}" * 50, at_ms=n)).result()


def crashed(directory: Path, target: Path) -> Path:
    """Copy a running market's files as a kill would leave them; return its database."""
    shutil.copytree(directory, target, ignore=shutil.ignore_patterns("*.lock", "*-shm"))
    return target / "market.db"


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The files of a market that was killed with transactions in its WAL."""
    (tmp_path / "live").mkdir()
    with Store.open(tmp_path / "live" / "market.db") as store:
        furnish(store, range(BUYERS))
        return crashed(tmp_path / "live", tmp_path / "killed")


def test_a_killed_market_opens_with_all_it_acknowledged(killed: Path) -> None:
    """A kill loses nothing, and leaves no copy of the WAL behind once the database is accepted."""
    for _ in range(2):
        with Store.open(killed) as store:
            assert store.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM buyers").scalar_one()) == BUYERS
    assert not killed.with_name("market.db-wal.kept").exists()


def lose_wal(database: Path) -> None:
    """Copy market.db without its -wal."""
    database.with_name("market.db-wal").unlink()


def damage_wal(database: Path) -> None:
    """Flip 64 bytes in the middle of the WAL."""
    wal = database.with_name("market.db-wal")
    data = bytearray(wal.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(byte ^ 0xFF for byte in data[middle : middle + 64])
    wal.write_bytes(data)


def cut_wal(database: Path) -> None:
    """Write half of the WAL."""
    wal = database.with_name("market.db-wal")
    wal.write_bytes(wal.read_bytes()[: wal.stat().st_size // 2])


def lose_mark(database: Path) -> None:
    """Copy all but the mark."""
    database.with_name("market.db.mark").unlink()


def damage_mark(database: Path) -> None:
    """Write nonsense into the mark."""
    database.with_name("market.db.mark").write_bytes(b"\x00\xff" * 20)


def lose_database(database: Path) -> None:
    """Lose the database, keep its mark."""
    database.unlink()
    database.with_name("market.db-wal").unlink()


def damage_pages(database: Path) -> None:
    """Merge the WAL, then flip a page of the database."""
    Store.open(database).close()
    data = bytearray(database.read_bytes())
    for start in range(8192, len(data), 8192):
        data[start : start + 64] = bytes(64)
    database.write_bytes(data)


def exchange(database: Path) -> None:
    """Put another market's database in its place."""
    other = database.parent / "other"
    other.mkdir()
    with Store.open(other / "market.db") as store:
        furnish(store, range(2 * BUYERS))
    database.with_name("market.db-wal").unlink()
    shutil.copy(other / "market.db", database)


@pytest.mark.parametrize(
    "harm", [lose_wal, damage_wal, cut_wal, lose_mark, damage_mark, lose_database, damage_pages, exchange]
)
def test_what_is_not_the_database_that_was_is_refused(killed: Path, harm: Callable[[Path], None]) -> None:
    """Each way of losing acknowledged transactions is refused at open, again and again, with the next command."""
    harm(killed)
    for _ in range(2):
        with pytest.raises(EnvironmentProblem) as refused:
            Store.open(killed).close()
        assert "stannary market restore" in refused.value.hint
    assert killed.exists() == (harm is not lose_database)


def damage_last_page(database: Path) -> None:
    """Merge the WAL, then damage a page that no start looks at."""
    Store.open(database).close()
    data = bytearray(database.read_bytes())
    pages = [start for start in range(8192, len(data), 8192) if b"buyer-7" in data[start : start + 8192]]
    data[pages[-1] : pages[-1] + 64] = bytes(64)
    database.write_bytes(data)


def test_a_large_database_is_checked_while_it_serves(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit nobody waits for the pages; they are read all the same, and a damaged one is said."""
    with Store.open(killed) as store:
        assert store.check_pages() is None
    monkeypatch.setattr(mark, "MAX_CHECKED_BYTES", 8192)
    with Store.open(killed) as store:
        checked = store.check_pages()
        assert checked is not None
        assert checked.result(DEADLINE_S) is None
    damage_last_page(killed)
    with Store.open(killed) as store:
        checked = store.check_pages()
        assert checked is not None
        problem = checked.exception(DEADLINE_S)
    assert isinstance(problem, EnvironmentProblem)
    assert "damaged" in problem.why
    monkeypatch.undo()
    with pytest.raises(EnvironmentProblem, match="not the one that was"):
        Store.open(killed)


def test_a_torn_wal_is_kept_for_who_can_read_it(killed: Path) -> None:
    """A refused database leaves its WAL as it was found, beside it."""
    damage_wal(killed)
    before = killed.with_name("market.db-wal").read_bytes()
    with pytest.raises(EnvironmentProblem):
        Store.open(killed)
    assert killed.with_name("market.db-wal.kept").read_bytes() == before
