"""Who may ask over HTTP on their own: the one client in `wire`, and the one for gigabytes (docs/adr/0009)."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"
HOMES = {
    "httpx2": {"stannary/wire/http.py", "stannary/wire/connection.py"},
    "httpcore2": {"stannary/wire/http.py", "stannary/wire/connection.py", "stannary/wire/proof.py"},
    "http.client": {"stannary/seal/stores/http.py"},
    "urllib.request": {"stannary/wire/proxy.py"},
    "requests": set[str](),
    "urllib3": set[str](),
    "aiohttp": set[str](),
}


def imported(tree: ast.AST) -> set[str]:
    """Return every module that a file names in an import, wherever that stands."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{item.name}" for item in node.names)}
    return found


def test_nobody_else_speaks_http() -> None:
    """A client with rules of its own for time, size, redirects, proxies or certificates is not written again."""
    users: dict[str, set[str]] = {name: set() for name in HOMES}
    for path in sorted(SOURCE.rglob("*.py")):
        for name in imported(ast.parse(path.read_text("utf-8"))) & HOMES.keys():
            users[name].add(str(path.relative_to(SOURCE)))
    assert users == HOMES
