"""What runs before a job does: as little as an interpreter needs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from stannary.run.sandbox import system, unprivileged


@pytest.mark.parametrize("path", [system.INSIDE, unprivileged.STAGE], ids=lambda path: path.name)
def test_the_steps_before_a_job_import_nothing_slow(path: Path) -> None:
    """Every task starts them: json, base64, signal and their like would double what a sandbox costs."""
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import)]
    named = {alias.name for node in imports for alias in node.names}
    assert named == {"ctypes", "marshal", "os", "sys"}
