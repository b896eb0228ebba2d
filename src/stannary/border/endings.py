"""How a process ended, in words a buyer can act on."""

from __future__ import annotations

import signal

_SIGNAL_BASE = 128  # how a shell, and a sandbox's first process, pass on that a signal ended their child


def describe(exit_code: int) -> str:
    """Return `exit code 3`, or the signal behind the number: `SIGSEGV (Segmentation fault), exit code 139`.

    Args:
        exit_code: of a process waited for (negative: a signal) or of a shell (above 128: perhaps one).
    """
    number = -exit_code if exit_code < 0 else exit_code - _SIGNAL_BASE
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"exit code {exit_code}"
    return f"{name} ({signal.strsignal(number)}), exit code {exit_code if exit_code > 0 else _SIGNAL_BASE - exit_code}"
