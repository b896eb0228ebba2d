"""The bytes of a file to be judged, read where a judge wants them and never all at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """A file's length, and `read(offset, count)`, which gives fewer bytes at the end only."""

    size: int
    read: Callable[[int, int], bytes]


def of_file(descriptor: int, size: int) -> Content:
    """Return an open file of `size` bytes as content."""
    return Content(size, lambda offset, count: os.pread(descriptor, count, offset))
