"""Real agents in real sandboxes; skipped only where the machine has none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stannary.errors import EnvironmentProblem
from stannary.run.sandbox import choice

from .scripted_market import ScriptedMarket


@pytest.fixture(scope="session", autouse=True)
def _sandbox() -> None:
    try:
        choice.choose("private", lambda _: None)
    except EnvironmentProblem as err:
        pytest.skip(f"no sandbox works here: {err}")


@pytest.fixture
def market() -> Iterator[ScriptedMarket]:
    scripted = ScriptedMarket()
    yield scripted
    scripted.close()
