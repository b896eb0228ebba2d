"""What one execution took: wall time, processor time, and how long its threads stood runnable without a processor.

The kernel counts the wait of each thread (`/proc/TID/schedstat`, second field: nanoseconds on a run queue) and forgets
it when the thread ends. So the threads of a job's control group are looked at again and again: an ended one counts as
it was last seen. What a thread waited after that, `LOOK_S` at most, is missed, which makes a reading too high and never
too low; of two readings the lower one is paid (rules/use.py).

Without a control group nothing is known but the wall time. Steal of a hypervisor is no wait to its guest's kernel.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from stannary.formats.predicates import Used
from stannary.run.sandbox.contract import Usage

LOOK_S = 0.25  # a thread that lives shorter hardly waits: the kernel's time slice is some milliseconds
PROC = Path("/proc")


class Metered(Protocol):
    """What runs: its threads, and what it used so far."""

    def threads(self) -> Iterable[str]:
        """Return the ids of its living threads."""
        ...

    def usage(self) -> Usage:
        """Return what it used since its start."""
        ...


class Waits:
    """How long the threads of a group have waited since this was made, ended ones as they were last seen."""

    def __init__(self, process: Metered, proc: Path = PROC) -> None:
        self._process = process
        self._proc = proc
        self._alive_ns: dict[str, int] = {}
        self._ended_ns = 0
        self.look()
        self._before_ns = self._total_ns

    def look(self) -> None:
        """Read every thread once."""
        found: dict[str, int] = {}
        for thread in self._process.threads():
            waited_ns = self._waited_ns(thread)
            if waited_ns is not None:
                found[thread] = waited_ns
        for thread, before_ns in self._alive_ns.items():
            if found.get(thread, -1) < before_ns:  # gone, or its number went to another one
                self._ended_ns += before_ns
        self._alive_ns = found

    @property
    def ms(self) -> int:
        """Milliseconds waited, all threads together."""
        return (self._total_ns - self._before_ns) // 1_000_000

    @property
    def _total_ns(self) -> int:
        return self._ended_ns + sum(self._alive_ns.values())

    def _waited_ns(self, thread: str) -> int | None:
        try:
            _, waited_ns, _ = (self._proc / thread / "schedstat").read_text().split()
        except (OSError, ValueError):  # it ended, or this kernel counts nothing
            return None
        return int(waited_ns)


class UseMeter:
    """A measurement under way; `used` is what it came to."""

    def __init__(self, process: Metered) -> None:
        self._process = process
        self._waits = Waits(process)
        self._cpu_ms = process.usage().cpu_ms
        self._since_s = time.monotonic()
        self.used = Used(0, 0, 0)

    def look(self) -> None:
        """Bring the measurement up to now."""
        self._waits.look()
        wall_ms = int((time.monotonic() - self._since_s) * 1000)
        self.used = Used(wall_ms, self._waits.ms, max(self._process.usage().cpu_ms - self._cpu_ms, 0))


@contextmanager
def metered(process: Metered) -> Iterator[UseMeter]:
    """Measure what a process takes for the length of a block; a thread of ours looks at it meanwhile."""
    meter, stop = UseMeter(process), threading.Event()

    def watch() -> None:
        while not stop.wait(LOOK_S):
            meter.look()

    watcher = threading.Thread(target=watch, name="job-meter", daemon=True)
    watcher.start()
    try:
        yield meter
    finally:
        stop.set()
        watcher.join()
        meter.look()
