"""The leases on a node's desk: the one in hand, those waiting, those lost; shared by two threads.

The main thread works; the pulse (pulse.py) beats, ships logs and readings, and picks up what can be
answered at once. Both look here for what is held and for what the market took back.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from stannary.formats.ids import LeaseType
from stannary.run.logs import TaskLog
from stannary.wire.node import Lease, ProgressReport

REMEMBERED = 64  # the market hands out again what it is not told of (wire/limits.py MAX_LEASES_HELD)
_ORDER = {LeaseType.REVEAL: 0, LeaseType.QUESTION: 1, LeaseType.AUDIT: 2, LeaseType.WORK: 3}


@dataclass(slots=True)
class Desk:
    """Leases by state."""

    current: Lease | None = None
    log: TaskLog | None = None
    progress: ProgressReport | None = None
    _waiting: list[Lease] = field(default_factory=list)
    _done: deque[str] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    _dropped: set[str] = field(default_factory=set)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def put(self, lease: Lease) -> None:
        """Lay down a lease for later; one that is known already changes nothing."""
        with self._lock:
            if lease.lease_id not in self.known():
                self._waiting.append(lease)

    def take(self) -> Lease | None:
        """Take the most urgent waiting lease in hand: others wait for answers, nobody for a round alone."""
        with self._lock:
            if not self._waiting:
                return None
            lease = min(self._waiting, key=lambda waiting: _ORDER[waiting.type])
            self._waiting.remove(lease)
            self.current = lease
            return lease

    def hold(self, lease: Lease, log: TaskLog) -> None:
        """Have a lease in hand, with its log."""
        with self._lock:
            self.current, self.log, self.progress = lease, log, None

    def log_of(self, job: str) -> TaskLog | None:
        """Return where lines of a job belong now: the log of its lease in hand, None without one."""
        with self._lock:
            return self.log if self.current is not None and self.current.job == job else None

    def log_under(self, lease: Lease) -> TaskLog | None:
        """Return the log of a lease while it is the one in hand: under another lease it is another buyer's to read."""
        with self._lock:
            return self.log if self.current is lease else None

    def progress_under(self, lease: Lease) -> ProgressReport | None:
        """Return what is to be reported of a lease while it is the one in hand."""
        with self._lock:
            return self.progress if self.current is lease else None

    def finish(self, lease: Lease) -> None:
        """Be done with a lease, however it ended."""
        with self._lock:
            self._done.append(lease.lease_id)
            self._dropped.discard(lease.lease_id)
            if self.current is lease:
                self.current = self.log = self.progress = None

    def drop(self, lease_ids: list[str]) -> Lease | None:
        """Forget leases that are no longer ours; return the one in hand if it is among them."""
        with self._lock:
            self._dropped.update(lease_ids)
            self._waiting = [lease for lease in self._waiting if lease.lease_id not in self._dropped]
            current = self.current
            return current if current is not None and current.lease_id in self._dropped else None

    def is_dropped(self, lease: Lease) -> bool:
        """Say whether the market took a lease back."""
        with self._lock:
            return lease.lease_id in self._dropped

    def held(self) -> list[str]:
        """Return the ids of leases that are still ours."""
        with self._lock:
            current = [self.current.lease_id] if self.current is not None else []
            return [*current, *(lease.lease_id for lease in self._waiting)]

    def known(self) -> list[str]:
        """Return the ids of leases the market need not hand out again."""
        with self._lock:
            held = self.held()
            return [*list(self._done)[-(REMEMBERED - len(held)) :], *held]

    def clear(self) -> list[Lease]:
        """Take every waiting lease off the desk."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            return waiting
