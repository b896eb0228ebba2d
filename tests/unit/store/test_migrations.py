"""Migrations: they make the tables of schema.py, once, whole, and refuse the future."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from stannary.errors import EnvironmentProblem
from stannary.store import engine as engines
from stannary.store import migrate
from stannary.store.database import Store
from stannary.store.schema import metadata


def test_migrations_make_exactly_the_schema(store: Store) -> None:
    """The database built by migrations differs in nothing from the tables the code uses."""
    assert store.read(lambda c: compare_metadata(MigrationContext.configure(c), metadata)) == []


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    """A database at the newest schema is opened as it is."""
    listing = sa.text("SELECT name, sql FROM sqlite_master ORDER BY name")
    with Store.open(tmp_path / "market.db") as store:
        before = store.read(lambda c: c.execute(listing).all())
    with Store.open(tmp_path / "market.db") as store:
        assert store.read(lambda c: c.execute(listing).all()) == before


def test_a_database_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    """An unknown revision is named, not guessed at, and the file is let go."""
    path = tmp_path / "market.db"
    with Store.open(path) as store:
        store.write(lambda c: c.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")).result(30)
    for _ in range(2):
        with pytest.raises(EnvironmentProblem, match="newer stannary") as refused:
            Store.open(path)
        assert "9999" in refused.value.why


def test_a_disk_without_room_makes_no_half_schema(tmp_path: Path) -> None:
    """A migration that cannot finish leaves the old schema whole."""
    path = tmp_path / "market.db"
    with pytest.raises(EnvironmentProblem, match="full"):
        Store.open(path, max_pages=10)
    engine = engines.reader(path)
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == []
    engine.dispose()
    migrate.upgrade(engines.writer(path))
    Store.open(path).close()
