"""Processors of a job: as many as it asked for, whatever the machine has.

A library that takes one thread for each processor would share out its sums otherwise on every machine. A process is
kept to the one it was just started on, which the kernel chose because it was free, and to those after it.
"""

from __future__ import annotations

import ctypes
import os


def keep_to(num: int) -> None:
    """Keep this process, and what it starts, to `num` processors, or to all where there are no more."""
    allowed = sorted(os.sched_getaffinity(0))
    here = int(ctypes.CDLL(None).sched_getcpu())
    first = allowed.index(here) if here in allowed else 0
    os.sched_setaffinity(0, [*allowed[first:], *allowed[:first]][:num])
