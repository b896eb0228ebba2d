"""The leases on a node's desk: those in hand, those waiting, those lost; shared by three threads.

The main thread works and audits, a second one answers questions beside it (daemon.py): each has a hand of its own. The
pulse (pulse.py) beats, ships logs and readings, and picks up what came in while the main thread is busy. All look
here for what is held and for what the market took back.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Container, Iterable
from dataclasses import dataclass

from stannary.formats import instants
from stannary.formats.canonical import Json
from stannary.formats.ids import LeaseType
from stannary.run.logs import TaskLog
from stannary.wire.node import Lease, ProgressReport

FILE = "in-hand.json"  # in the node's directory: what is being done now
REMEMBERED = 64  # the market hands out again what it is not told of (wire/limits.py MAX_LEASES_HELD)
WORKS = frozenset(LeaseType) - {LeaseType.QUESTION}  # what the main thread does
ANSWERS = frozenset({LeaseType.REVEAL, LeaseType.QUESTION})  # what is answered beside it
_ORDER = {LeaseType.REVEAL: 0, LeaseType.QUESTION: 1, LeaseType.AUDIT: 2, LeaseType.WORK: 3}


@dataclass(slots=True)
class Hand:
    """What one thread is at."""

    current: Lease | None = None
    log: TaskLog | None = None
    progress: ProgressReport | None = None
    since_s: float = 0.0


class Desk:
    """Leases by state."""

    def __init__(self) -> None:
        self.work = Hand()
        self.answers = Hand()
        self._local = threading.local()
        self._waiting: list[Lease] = []
        self._done: deque[str] = deque(maxlen=REMEMBERED)
        self._dropped: set[str] = set()
        self._stopped: set[str] = set()  # of these, what the buyer stopped: the market takes what is left of it
        self._changed = threading.Condition(threading.RLock())

    def answer_here(self) -> None:
        """Have this thread be the one that answers questions."""
        self._local.hand = self.answers

    @property
    def mine(self) -> Hand:
        """The hand of this thread."""
        hand: Hand = getattr(self._local, "hand", self.work)
        return hand

    def put(self, lease: Lease) -> None:
        """Lay down a lease for later; one that is known already changes nothing."""
        with self._changed:
            if lease.lease_id not in self.known():
                self._waiting.append(lease)
                self._changed.notify_all()

    def take(self, types: Container[LeaseType] = WORKS, wait_s: float = 0.0) -> Lease | None:
        """Take the most urgent waiting lease in hand: others wait for answers, nobody for a round alone."""
        with self._changed:
            if wait_s and not any(lease.type in types for lease in self._waiting):
                self._changed.wait(wait_s)
            mine = [lease for lease in self._waiting if lease.type in types]
            if not mine:
                return None
            lease = min(mine, key=lambda waiting: _ORDER[waiting.type])
            self._waiting.remove(lease)
            self.mine.current = lease
            return lease

    def hold(self, lease: Lease, log: TaskLog) -> None:
        """Have a lease in hand, with its log."""
        with self._changed:
            mine = self.mine
            mine.current, mine.log, mine.progress, mine.since_s = lease, log, None, time.time()

    def report(self, progress: ProgressReport) -> None:
        """Say how far this thread's lease is."""
        self.mine.progress = progress

    def in_hand(self) -> list[Lease]:
        """Return what is being done now."""
        with self._changed:
            return [hand.current for hand in self._hands() if hand.current is not None]

    def shown(self) -> list[Json]:
        """Return what is being done now, and since when, for the operator (`stannary node status`)."""
        with self._changed:
            at_work = [(hand.current, hand.since_s) for hand in self._hands() if hand.current is not None]
            return [
                {"type": lease.type.value, "task": lease.task, "since": instants.spell(since_s)}
                for lease, since_s in at_work
            ]

    def log_of(self, job: str) -> TaskLog | None:
        """Return where lines of a job belong now: the log of its lease in hand, None without one."""
        with self._changed:
            of_job = (hand.log for hand in self._hands() if hand.current is not None and hand.current.job == job)
            return next(of_job, None)

    def log_under(self, lease: Lease) -> TaskLog | None:
        """Return the log of a lease while it is in hand: under another lease it is another buyer's to read."""
        with self._changed:
            return next((hand.log for hand in self._hands() if hand.current is lease), None)

    def progress_under(self, lease: Lease) -> ProgressReport | None:
        """Return what is to be reported of a lease while it is in hand."""
        with self._changed:
            return next((hand.progress for hand in self._hands() if hand.current is lease), None)

    def reported(self, report: ProgressReport) -> None:
        """Forget a report that was sent, unless another has come."""
        with self._changed:
            for hand in self._hands():
                if hand.progress is report:
                    hand.progress = None

    def finish(self, lease: Lease) -> None:
        """Be done with a lease, however it ended."""
        with self._changed:
            self._done.append(lease.lease_id)
            self._dropped.discard(lease.lease_id)
            self._stopped.discard(lease.lease_id)
            for hand in self._hands():
                if hand.current is lease:
                    hand.current = hand.log = hand.progress = None

    def drop(self, lease_ids: list[str], stopped: Iterable[str] = ()) -> Lease | None:
        """Forget leases that are no longer ours; return the piece in hand if it is among them."""
        with self._changed:
            self._stopped.update(stopped)
            self._dropped.update(lease_ids)
            self._waiting = [lease for lease in self._waiting if lease.lease_id not in self._dropped]
            current = self.work.current
            return current if current is not None and current.lease_id in self._dropped else None

    def is_dropped(self, lease: Lease) -> bool:
        """Say whether the market took a lease back."""
        with self._changed:
            return lease.lease_id in self._dropped

    def is_stopped(self, lease: Lease) -> bool:
        """Say whether the buyer stopped what a lease asks for."""
        with self._changed:
            return lease.lease_id in self._stopped

    def held(self) -> list[str]:
        """Return the ids of leases that are still ours."""
        with self._changed:
            return [lease.lease_id for lease in (*self.in_hand(), *self._waiting)]

    def known(self) -> list[str]:
        """Return the ids of leases the market need not hand out again."""
        with self._changed:
            held = self.held()
            return [*list(self._done)[-(REMEMBERED - len(held)) :], *held]

    def clear(self) -> list[Lease]:
        """Take every waiting lease off the desk."""
        with self._changed:
            waiting, self._waiting = self._waiting, []
            return waiting

    def _hands(self) -> tuple[Hand, Hand]:
        return self.work, self.answers
