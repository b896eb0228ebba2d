"""Where the market's engine touches the store: what loads and what applies, and nothing else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import stannary.market.engine

ROOM = Path(stannary.market.engine.__file__).parent
TOUCHES_STORE = {"loading.py", "applying.py", "recording.py", "aborting.py", "ruling.py", "ordering.py"}


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield what a module imports, anywhere in it, for types alone too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{item.name}" for item in node.names)


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.name)
def test_only_what_loads_and_applies_knows_the_store(path: Path) -> None:
    """Everything else of the engine decides, waits or remembers: it is handed what was read."""
    touches = any(name.startswith("stannary.store") for name in imported(ast.parse(path.read_text("utf-8"))))
    assert touches == (path.name in TOUCHES_STORE)
