"""Shared objects compiled from the C beside this file: drivers whose answers tests decide.

The C has structures of its own, written from the vendors' references, so that ctypes is checked against a
compiler's layout and calling convention and not against itself.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed (Debian: gcc)")
PROVIDER = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
Answers = Callable[[int, bytes | None], tuple[bytes, int | None]]


def build(name: str, folder: Path, *flags: str) -> str:
    """Compile one driver; return where it is."""
    source, target = Path(__file__).with_name(f"{name}.c"), folder / f"lib{name}{len(flags)}.so"
    words = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", *flags, "-o", str(target), str(source)]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    return str(target)


class Driver:
    """The test's side of a compiled driver: sets its variables, provides chains and reports."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._library = ctypes.CDLL(path)
        self._provider: object = None

    def set(self, **values: int) -> None:
        """Set the driver's variables."""
        for name, value in values.items():
            ctypes.c_int.in_dll(self._library, f"fake_{name}").value = value

    def get(self, name: str) -> int:
        """Read one of them."""
        return ctypes.c_int.in_dll(self._library, f"fake_{name}").value

    def answer(self, answers: Answers) -> None:
        """Let `answers(device, nonce or None)` give bytes and, if it lies, another size than theirs."""

        def provide(device: int, is_report: int, nonce: int | None, room: int) -> int:
            data, size = answers(device, ctypes.string_at(nonce, 32) if is_report and nonce else None)
            ctypes.memmove(room, data, len(data))
            return len(data) if size is None else size

        self._provider = PROVIDER(provide)
        self._library.fake_provide(self._provider)
