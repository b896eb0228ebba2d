"""Every refusal a person meets on his own machine says what to do next."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import stannary

ROOT = Path(stannary.__file__).parent
CLIENT = [
    *(path for room in ("sdk", "cli", "formats") for path in sorted((ROOT / room).rglob("*.py"))),
    ROOT / "workdir.py", ROOT / "files.py", ROOT / "buyer.py",
]  # fmt: skip
NAMES = {"SpecError", "NotFound", "AuthError"}


def mute(path: Path) -> Iterator[str]:
    """Yield where an error is made without a hint, or with an empty one."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMES:
            hints = [keyword.value for keyword in node.keywords if keyword.arg == "hint"]
            if not hints or (isinstance(hints[0], ast.Constant) and not hints[0].value):
                yield f"{path.name}:{node.lineno}: {ast.unparse(node)[:100]}"


@pytest.mark.parametrize("path", CLIENT, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_refusal_has_a_next_step(path: Path) -> None:
    """SpecError, NotFound and AuthError of client code carry a hint."""
    assert list(mute(path)) == []


def test_a_mute_refusal_is_found(tmp_path: Path) -> None:
    """The check above can fail."""
    (tmp_path / "a.py").write_text(
        'raise SpecError("x", why="y")\nraise NotFound("x", hint="")\nraise SpecError("x", hint=h)\n'
    )
    assert [line.partition(": ")[0] for line in mute(tmp_path / "a.py")] == ["a.py:1", "a.py:2"]
