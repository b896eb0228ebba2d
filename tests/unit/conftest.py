"""An empty store, for tests of what keeps something in the market's database."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

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
