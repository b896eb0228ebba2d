"""A store in a fresh directory, and a small world in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.store import world

from stannary.store.database import Store


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database at the newest schema, migrated once for all tests."""
    path = tmp_path_factory.mktemp("template") / "market.db"
    Store.open(path).close()
    return path


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    shutil.copy(template, tmp_path / "market.db")
    with Store.open(tmp_path / "market.db") as opened:
        yield opened


@pytest.fixture
def furnished(store: Store) -> Store:
    """A store with a buyer of means, three nodes of two operators, one job and one planned task."""
    store.write(world.furnish).result(timeout=30)
    return store
