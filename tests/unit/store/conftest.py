"""A store in a fresh directory, and a small world in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stannary.store.database import Store
from tests.unit.store import world


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    with Store.open(tmp_path / "market.db") as opened:
        yield opened


@pytest.fixture
def furnished(store: Store) -> Store:
    """A store with a buyer of means, three nodes of two operators, one job and one planned task."""
    store.write(world.furnish).result(timeout=30)
    return store
