"""No circle of files: what one file needs of another never leads back to it, typing included."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"


def graph(root: Path) -> dict[str, set[str]]:
    """Return what each module under `root` imports of the others, anywhere in its text."""
    modules = {_name(path.relative_to(root)): path for path in root.rglob("*.py")}
    return {name: _imported(path.read_text("utf-8"), modules.keys()) - {name} for name, path in modules.items()}


def circles(needs: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """Return each group of modules that reach one another, sorted."""
    reach = {name: _reached(name, needs) for name in needs}
    tied = {name: frozenset(other for other in reach[name] if name in reach[other]) for name in needs}
    return sorted({tuple(sorted(group)) for group in tied.values() if group})


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(text: str, modules) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name the whole path"
            whole = {item.name: f"{node.module}.{item.name}" for item in node.names}
            found |= {path if path in modules else str(node.module) for path in whole.values()}
    return found & set(modules)


def _reached(start: str, needs: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    todo = list(needs[start])
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo.extend(needs[name])
    return found


def test_no_files_import_one_another():
    """No circle of files stands anywhere."""
    needs = graph(SRC)
    assert len(needs) > 300, "the tree was not found"
    assert circles(needs) == []


@pytest.mark.parametrize(
    "second",
    [
        "import stannary.a\n",
        "from stannary import a\n",
        "from stannary.a import thing\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from stannary.a import thing\n",
        "def late():\n    from stannary.a import thing\n",
        "from stannary.c import other\n",
    ],
)
def test_a_circle_is_seen(tmp_path, second):
    """Imports for typing, late ones and those over a third file tie a circle like any other."""
    room = tmp_path / "stannary"
    room.mkdir()
    texts = {"__init__": "", "a": "from stannary import b\n", "b": second, "c": "import stannary.a\n", "d": second}
    for name, text in texts.items():
        (room / f"{name}.py").write_text(text)
    tied = ["stannary.a", "stannary.b"] + (["stannary.c"] if ".c " in second else [])
    assert circles(graph(tmp_path)) == [tuple(tied)]
