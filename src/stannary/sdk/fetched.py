"""Results that `stannary get` wrote on this machine: known again, so that they do not travel with the next job.

    <data>/fetched     one line a file: device, inode, time of change in ns

A result that was changed or copied since is the user's own file and travels. Forgetting a line costs an
upload, never a result: what cannot be noted is passed over.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from stannary import files
from stannary.errors import EnvironmentProblem

MAX_LINES = 50_000  # the newest; about 2 MiB

Mark = tuple[int, int, int]


def note(paths: Iterable[Path]) -> None:
    """Remember files that were just written."""
    fresh = []
    for path in paths:
        with contextlib.suppress(OSError):
            fresh.append(mark(path.lstat()))
    lines = [f"{device} {inode} {time_ns}" for device, inode, time_ns in [*_read(), *fresh]]
    with contextlib.suppress(EnvironmentProblem):
        files.replace(_place(), ("\n".join(lines[-MAX_LINES:]) + "\n").encode())


def known() -> frozenset[Mark]:
    """Return the marks of all remembered files."""
    return frozenset(_read())


def mark(status: os.stat_result) -> Mark:
    """Return what a file is known again by."""
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _read() -> list[Mark]:
    marks: list[Mark] = []
    try:
        data = files.tail(_place(), MAX_LINES * 64)
    except OSError:
        return []
    for line in data.decode("ascii", "replace").splitlines():
        numbers = line.split()
        if len(numbers) == 3 and all(number.isdecimal() for number in numbers):
            marks.append((int(numbers[0]), int(numbers[1]), int(numbers[2])))
    return marks


def _place() -> Path:
    return files.data_dir() / "fetched"
