"""A small world in a store."""

from __future__ import annotations

import pytest
from tests.unit.store import world

from stannary.store.database import Store


@pytest.fixture
def furnished(store: Store) -> Store:
    """A store with a buyer of means, three nodes of two operators, one job and one planned task."""
    store.write(world.furnish).result(timeout=30)
    return store
