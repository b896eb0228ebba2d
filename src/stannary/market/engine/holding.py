"""One verb of a lease at a time: what is handed in, handed back or given up goes through one lock.

Rules:
- A statement is kept, logged, then recorded. Until it is recorded its lease is `answering`: no release, failure,
  deadline, loss of the node or conviction of it comes in between. What was kept first stands first in the log, and
  counts; what comes behind it finds the lease as the first left it.
- Nobody who goes away ends that: the section runs to its end whether its sender still listens or not.
- A section left by a kill is finished by recording.py at the next start, before anybody is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Lock:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    num_users: int = 0  # holder and waiters; with the last of them it is forgotten


class Holds:
    """The locks of all leases, and of all beacons."""

    def __init__(self) -> None:
        self._locks: dict[str, _Lock] = {}
        self._running: set[asyncio.Task[object]] = set()
        self.answering: set[str] = set()  # whose statement is on its way into the log

    async def alone(self, name: str, section: Callable[[], Awaitable[T]]) -> T:
        """Run `section` alone among all of this name; a cancelled caller leaves it to end by itself."""

        async def locked() -> T:
            held = self._locks.setdefault(name, _Lock())
            held.num_users += 1
            try:
                async with held.lock:
                    self.answering.add(name)
                    try:
                        return await section()
                    finally:
                        self.answering.discard(name)
            finally:
                held.num_users -= 1
                if not held.num_users:
                    del self._locks[name]

        task = asyncio.ensure_future(locked())
        self._running.add(task)  # the loop itself holds its tasks only weakly
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)
