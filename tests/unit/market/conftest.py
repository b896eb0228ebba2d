"""A store for tests of single engine steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stannary.store.database import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    with Store.open(tmp_path / "market.db") as opened:
        yield opened
