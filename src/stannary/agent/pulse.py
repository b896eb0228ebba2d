"""The pulse of an agent: a thread that never computes, so that a long round does not look like a death.

It beats every 10 s (+-20 %, as the market says), hears which jobs are over, sends readings of the meter,
progress and log lines of the leases in hand, and picks up new leases while the main thread computes: a `reveal`
needs only the journal and is answered here at once, anything else is laid on the desk.
"""

from __future__ import annotations

import functools
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary import __version__
from stannary.agent import standing
from stannary.agent.client import MarketClient, is_for_good
from stannary.agent.clocks import ClockWatch
from stannary.agent.desk import Desk
from stannary.agent.meter import Meter
from stannary.errors import ConflictError, FormatError, JobFailed, NotFound, Refuted, StannaryError
from stannary.formats import instants
from stannary.formats.ids import JobId, LeaseType, NodeId
from stannary.rules import pace
from stannary.wire import limits, routes
from stannary.wire.node import Lease, LogUpload, LogUploadLine, NodeState

TICK_S = 0.5
READING_EVERY_S = 5.0
LOOK_EVERY_S = 2.0
PROGRESS_EVERY_S = 1.0
JITTER = 0.2

Tell = Callable[[str], None]


@dataclass(slots=True)
class Pulse:
    """The thread beside the main one."""

    client: MarketClient
    desk: Desk
    meter: Meter
    node: NodeId
    key: Ed25519PrivateKey
    answer_reveal: Callable[[Lease], None]
    drop_current: Callable[[Lease], None]
    jobs_here: Callable[[], list[str]]
    end_jobs: Callable[[list[str]], None]
    expel: Callable[[StannaryError], None]
    tell: Tell
    clock: ClockWatch
    is_draining: bool = False
    has_left: bool = False
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _due_s: dict[str, float] = field(default_factory=dict)
    _shipping: threading.Lock = field(default_factory=threading.Lock)
    _reading: threading.Lock = field(default_factory=threading.Lock)
    _unread: set[JobId] = field(default_factory=set)  # jobs whose meter chain the market refused
    _beat_every_s: float = pace.HEARTBEAT_INTERVAL_S
    _beaten_s: float = 0.0  # when the last beat was sent: a refusal hurries the next one, and not more

    def start(self) -> None:
        """Begin to beat."""
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop beating and wait for the thread."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(limits.MAX_WAIT_S)

    def drain(self) -> None:
        """Say with the next tick that no new work is wanted; a signal handler may call it."""
        self.is_draining = True
        self._due_s["beat"] = 0.0

    def beat_now(self) -> None:
        """Say at once what has changed (draining, a lease finished)."""
        state = NodeState.BUSY if self.desk.held() else NodeState.IDLE
        state = NodeState.DRAINING if self.is_draining else state
        state = NodeState.LEFT if self.has_left else state
        sent_s, self._beaten_s = time.time(), time.monotonic()
        wants_canary = standing.wants_canary(self.clock.directory)
        answer = self.client.heartbeat(
            state, self.desk.held(), __version__, self.jobs_here(), wants_canary=wants_canary
        )
        heard_s = time.time()
        self._beat_every_s = min(max(answer.interval_s, TICK_S), pace.SUSPECT_AFTER_S / 2)
        if self.is_draining and state in (NodeState.BUSY, NodeState.IDLE):
            self._due_s["beat"] = 0.0  # drained while this beat was on its way
        else:
            self._schedule("beat", self._beat_every_s)
        current = self.desk.drop(answer.drop, answer.stopped)
        if current is not None:
            self.drop_current(current)
        self.end_jobs([str(job) for job in answer.ended])
        self.clock.compare(sent_s, heard_s, answer.now)
        standing.note(self.clock.directory, self.tell, is_suspended=answer.suspended, canary=answer.canary or "")
        standing.note_disputes(self.clock.directory, self.tell, answer.disputes)

    def ship(self, lease: Lease) -> bool:
        """Send the waiting log lines of the lease in hand; say whether none are left."""
        with self._shipping:  # both threads ship; one batch must not go out twice
            return self._ship(lease)

    def send_reading(self, lease: Lease) -> None:
        """Send the meter's next reading under the lease in hand.

        A chain the market refuses stays refused: a second reading of that number would be an equivocation, and
        the same one gets the same answer. It is said once, and the job goes on unmetered.
        """
        job = JobId(lease.job)
        with self._reading:  # both threads read; a number must not overtake the one before
            if job in self._unread:
                return
            envelope = self.meter.reading(job, self.node, self.key, instants.spell(time.time()))
            try:
                self.client.submit_once(routes.LEASE_READING, lease.lease_id, envelope)
            except (Refuted, FormatError) as err:
                self._unread.add(job)
                self.tell(f"readings of {job} end here, the market refuses them: {err}")
                return
            self.meter.acknowledge(job, envelope)

    def read_out(self, lease: Lease) -> None:
        """Send what is metered up to now; a reading that does not go holds up no result."""
        self._guarded(
            f"{lease.type} reading", READING_EVERY_S, functools.partial(self.send_reading, lease), is_due=True
        )

    def _ship(self, lease: Lease) -> bool:
        log = self.desk.log_under(lease)
        if log is None:
            return True
        first_seq, lines = log.batch()
        if lines:
            upload = LogUpload(
                first_seq=first_seq,
                lines=[
                    LogUploadLine(at=instants.spell(line.at_s), stream=line.stream, text=line.text) for line in lines
                ],
            )
            self.client.upload_logs(lease.lease_id, upload)
            log.acknowledge(first_seq, len(lines))
        return not log.batch()[1]

    def _run(self) -> None:
        while not self._ended.wait(TICK_S):
            self._guarded("beat", self._beat_every_s, self.beat_now)
            for lease in self.desk.in_hand():
                said = f"{lease.type} "
                self._guarded(said + "reading", READING_EVERY_S, functools.partial(self.send_reading, lease))
                self._guarded(said + "logs", TICK_S, functools.partial(self.ship, lease))
                self._guarded(said + "progress", PROGRESS_EVERY_S, functools.partial(self._send_progress, lease))
            if self.desk.work.current is not None and not self.is_draining:
                self._guarded("look", LOOK_EVERY_S, self._look)
        self.client.close()

    def _guarded(self, what: str, every_s: float, act: Callable[[], object], *, is_due: bool = False) -> None:
        """Act when due; no failure ends the pulse, since its silence would be taken for a death."""
        if not is_due and time.monotonic() < self._due_s.get(what, 0.0):
            return
        self._schedule(what, every_s)
        try:
            act()
        except (ConflictError, NotFound):  # the lease is gone: the next beat says so with the market's own words
            self._due_s["beat"] = min(self._due_s.get("beat", 0.0), self._beaten_s + LOOK_EVERY_S)
        except StannaryError as err:
            if is_for_good(err):
                self._ended.set()
                self.expel(err)
            self.tell(f"{what} was not sent: {err}")

    def _schedule(self, what: str, every_s: float) -> None:
        # Not a secret: spreading a fleet's beats needs no cryptographic randomness.
        self._due_s[what] = time.monotonic() + every_s * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311

    def _send_progress(self, lease: Lease) -> None:
        report = self.desk.progress_under(lease)
        if report is not None:
            self.client.tell_progress(lease.lease_id, report)
            self.desk.reported(report)

    def _look(self) -> None:
        """Pick up what came in while the main thread is busy."""
        lease = self.client.look(self.desk.known())
        if lease is None:
            return
        if lease.type is not LeaseType.REVEAL:
            self.desk.put(lease)
            return
        try:
            self.answer_reveal(lease)
        except JobFailed:
            self.desk.put(lease)  # another thread reports why
        else:
            self.desk.finish(lease)
