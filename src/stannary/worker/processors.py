"""Processors of a job: as many as it asked for, whatever the machine has.

A library that takes one thread for each processor would share out its sums otherwise on every machine. A task is kept
to the one it was just started on, which the kernel chose because it was free, and to those after it; between tasks the
worker may go anywhere, so that it is where there is room when the next one comes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os


class Processors:
    """Those of this process."""

    def __init__(self) -> None:
        self._allowed = sorted(os.sched_getaffinity(0))

    def take(self, num: int) -> None:
        """Keep this process, and what it starts, to `num` processors, or to all where there are no more."""
        here = int(ctypes.CDLL(None).sched_getcpu())
        first = self._allowed.index(here) if here in self._allowed else 0
        _keep_to([*self._allowed[first:], *self._allowed[:first]][:num])

    def release(self) -> None:
        """Let this process go where it may."""
        _keep_to(self._allowed)


def _keep_to(wanted: list[int]) -> None:
    for thread in os.listdir("/proc/self/task"):  # noqa: PTH208 - also between fork and exec
        with contextlib.suppress(ProcessLookupError):  # ended meanwhile
            os.sched_setaffinity(int(thread), wanted)
