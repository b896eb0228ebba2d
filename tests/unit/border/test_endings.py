"""How a process ended, in words."""

from __future__ import annotations

import pytest

from stannary.border import endings


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [
        (1, "exit code 1"),
        (127, "exit code 127"),
        (139, "SIGSEGV (Segmentation fault), exit code 139"),
        (-11, "SIGSEGV (Segmentation fault), exit code 139"),
        (-9, "SIGKILL (Killed), exit code 137"),
        (134, "SIGABRT (Aborted), exit code 134"),
        (255, "exit code 255"),
        (128, "exit code 128"),
    ],
)
def test_signals_by_name(exit_code: int, words: str) -> None:
    """A number that stands for a signal is given with the signal's name."""
    assert endings.describe(exit_code) == words
