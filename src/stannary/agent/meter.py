"""The meter of a node: every millisecond of a job in exactly one phase, signed in a chain.

Rules:
1. Phases are disjoint by construction: a thread is always in one, and `switch` closes the one before. Where two threads
   are at one job (a question is answered beside the work), a moment counts once: for the first of `_FIRST` they are in.
   Time comes from a monotonic clock; setting the wall clock changes nothing.
2. Readings are cumulative per job and form the chain of settle/meter.py, which the market checks.
3. What no contribution or answer claims is written off when its lease ends, or by a kill: the compute of
   abandoned work must not count as the next task's, it is churn.
4. A reading is in the journal before it is sent, so that a kill in between repeats it and does not
   sign a second one with the same number.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary.agent.journal import EntryKind, Journal
from stannary.errors import FormatError
from stannary.formats import dsse, record, statement
from stannary.formats.canonical import Json
from stannary.formats.ids import JobId, NodeId
from stannary.formats.predicates import Reading, Spent
from stannary.settle import meter as chain


class Phase(StrEnum):
    """What a node does at a moment."""

    START = "start"
    COMPUTE = "compute"
    LINK = "link"
    IDLE = "idle"
    AUDIT = "audit"


_FIRST = (Phase.COMPUTE, Phase.AUDIT, Phase.START, Phase.LINK, Phase.IDLE)


@dataclass(slots=True)
class _Hand:
    """What one thread is at, and what it spent that no contribution or answer has named."""

    job: JobId | None = None
    phase: Phase = Phase.IDLE
    unclaimed: dict[JobId, dict[Phase, float]] = field(default_factory=dict)


@dataclass(slots=True)
class _Account:
    seconds: dict[Phase, float]
    next_seq: int = 0
    previous: str = ""  # empty before the first reading, which names the chain's origin
    unsent: dict[str, Json] | None = None


@dataclass(slots=True)
class Meter:
    """Time per job and phase; safe to use from several threads."""

    journal: Journal
    clock: Callable[[], float] = time.monotonic
    _accounts: dict[JobId, _Account] = field(default_factory=dict)
    _hands: dict[int, _Hand] = field(default_factory=dict)  # by thread
    _since_s: float = 0.0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def switch(self, job: JobId | None, phase: Phase) -> None:
        """Close the current phase and go over to another; `job` None stops the meter."""
        with self._lock:
            self._settle()
            if job is not None:
                self._account(job)
            mine = self._mine()
            mine.job, mine.phase = job, phase

    @contextmanager
    def phase(self, job: JobId, phase: Phase) -> Iterator[None]:
        """Be in a phase for the length of a block, and back in the one before afterwards."""
        with self._lock:
            before = (self._mine().job, self._mine().phase)
            self.switch(job, phase)
        try:
            yield
        finally:
            self.switch(*before)

    def spent(self, job: JobId) -> Spent:
        """Return the cumulative milliseconds of a job."""
        with self._lock:
            self._settle()
            return _spent(self._account(job).seconds)

    def claim(self, job: JobId) -> Spent:
        """Return what this thread spent since its last claim, for one contribution or answer."""
        with self._lock:
            self._settle()
            left = self._mine().unclaimed.setdefault(job, dict.fromkeys(Phase, 0.0))
            part = _spent(left)
            for phase in Phase:
                left[phase] -= getattr(part, f"{phase.value}_ms") / 1000
            self._store(job)
            return part

    def write_off(self, job: JobId) -> None:
        """Leave what this thread spent since its last claim to nobody: its work was not handed in."""
        with self._lock:
            self._settle()
            self._mine().unclaimed.pop(job, None)

    def reading(self, job: JobId, node: NodeId, key: Ed25519PrivateKey, read_at: str) -> dsse.Envelope:
        """Return the next reading to send: the one that was not acknowledged, else a new one."""
        with self._lock:
            account = self._account(job)
            if account.unsent is None:
                previous = account.previous or chain.origin(job, node)
                made = Reading(job, node, account.next_seq, previous, self.spent(job), read_at)
                account.unsent = statement.sign("reading", made, (), key).to_json()
                self._store(job)
            return dsse.parse(account.unsent)

    def acknowledge(self, job: JobId, sent: dsse.Envelope) -> None:
        """Go on to the next number: the market has this reading."""
        with self._lock:
            account = self._account(job)
            if account.unsent != sent.to_json():
                return
            account.unsent = None
            account.previous = chain.reading_digest(statement.read(sent.payload, "reading", Reading).predicate)
            account.next_seq += 1
            self._store(job)

    def _mine(self) -> _Hand:
        return self._hands.setdefault(threading.get_ident(), _Hand())

    def _settle(self) -> None:
        now_s = self.clock()
        passed_s = max(0.0, now_s - self._since_s)
        self._since_s = now_s
        counting: dict[JobId, _Hand] = {}
        for hand in self._hands.values():
            if hand.job is not None:
                other = counting.get(hand.job)
                if other is None or _FIRST.index(hand.phase) < _FIRST.index(other.phase):
                    counting[hand.job] = hand
        for job, hand in counting.items():
            self._account(job).seconds[hand.phase] += passed_s
            hand.unclaimed.setdefault(job, dict.fromkeys(Phase, 0.0))[hand.phase] += passed_s

    def _account(self, job: JobId) -> _Account:
        if job not in self._accounts:
            self._accounts[job] = _load(self.journal.get(EntryKind.METER, job))
        return self._accounts[job]

    def _store(self, job: JobId) -> None:
        account = self._accounts[job]
        members: dict[str, Json] = {
            "spent": record.to_json(_spent(account.seconds)),
            "next_seq": account.next_seq,
            "previous": account.previous,
            "unsent": account.unsent,
        }
        self.journal.put(EntryKind.METER, job, members)


def _load(entry: dict[str, Json] | None) -> _Account:
    if entry is None:
        return _Account(dict.fromkeys(Phase, 0.0))
    spent = record.from_json(Spent, entry.get("spent"))
    next_seq, previous, unsent = entry.get("next_seq"), entry.get("previous"), entry.get("unsent")
    if type(next_seq) is not int or not isinstance(previous, str) or not isinstance(unsent, dict | None):
        raise FormatError("the journal holds a meter that is none")
    seconds = {phase: getattr(spent, f"{phase.value}_ms") / 1000 for phase in Phase}
    return _Account(seconds, next_seq, previous, unsent)  # what was not claimed before a kill is lost work


def _spent(seconds: dict[Phase, float]) -> Spent:
    return Spent(**{f"{phase.value}_ms": int(seconds[phase] * 1000) for phase in Phase})
