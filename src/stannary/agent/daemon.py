"""The agent: takes leases, does them through `Work`, hands in what can be proven later.

    work      journal claim -> commitment logged -> blobs stored -> contribution
    audit     recompute -> journal answer -> answer-commitment
    question  the same about this node's own task
    reveal    the answer from the journal

Rules:
1. Every step is written before it is sent and may be repeated: after kill -9 the market hands out again
   what is still ours, and the journal says how far we were. What was signed is never signed otherwise (statements.py).
2. A 409 means the work is no longer ours: it is dropped, quietly. A program that its buyer stops is asked to end, and
   what it left goes to the market, as partial.
3. A task that cannot be done here is reported with a reason and the end of its log; the agent lives on.
4. A test of this node's power comes in place of work, when nothing is in hand (power.py).
5. A market that revoked the node, or never knew it, ends the agent (exit code 6): what it computed would be nobody's.
6. Questions, and openings, are answered beside the work by a thread of their own: what this node did is asked about
   with a deadline of that task, and what it has in hand may take a hundred times as long. What a program handed in
   answers by itself; for a training task its worker is asked, or one is started that computes it again.
7. SIGTERM drains: the lease in hand is finished (a second SIGTERM, or DRAIN_S, hands it back), the
   rest is handed back, and the node says that it leaves.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from stannary import files
from stannary.agent import desk as desks
from stannary.agent import journal as journals
from stannary.agent import power as powers
from stannary.agent import roots
from stannary.agent.client import MarketClient, is_for_good
from stannary.agent.clocks import ClockWatch
from stannary.agent.desk import ANSWERS, REMEMBERED, Desk
from stannary.agent.holdings import Holdings
from stannary.agent.journal import EntryKind
from stannary.agent.meter import Meter, Phase
from stannary.agent.pulse import Pulse
from stannary.agent.settings import NodeSettings, load_key
from stannary.agent.statements import Provenance, Statements
from stannary.errors import (
    AuthError,
    ConflictError,
    EnvironmentProblem,
    FormatError,
    JobFailed,
    MarketUnreachable,
    NotFound,
    StannaryError,
)
from stannary.formats import bounds, canonical, digest, dsse, record
from stannary.formats.canonical import Json
from stannary.formats.ids import JobId, LeaseType, TaskId
from stannary.formats.predicates import Assignment, Output, Role, Used
from stannary.rules import edition, pace
from stannary.rules.kinds import DELTA, OUTER, TASKS, THETA
from stannary.run.holding import Holding
from stannary.run.logs import TaskLog
from stannary.run.sandbox.process import Sandbox
from stannary.run.work import Brought, Recomputed, Result, SandboxedWork, TaskInHand, Work
from stannary.run.worker_process import DROPPED, outbox_path
from stannary.tlog.seen import SeenLog
from stannary.wire import errors as wire_errors
from stannary.wire import limits, routes
from stannary.wire.node import AuditRef, Failure, Lease, PowerTest, ProgressReport

SEEN_FILE = "log-seen.json"  # the market's log as this node saw it last
POLL_WAIT_S = 20.0  # below limits.MAX_WAIT_S
DRAIN_S = 120.0
LOOK_S = 1.0  # how often who answers questions looks whether the agent stops
STATES = (THETA, OUTER)  # a lease's other inputs are contributions, under their task's name

Tell = Callable[[str], None]


class Agent:
    """One node's process. Its main thread must be the one that calls `run` (sandboxes live by it)."""

    def __init__(
        self, directory: Path, settings: NodeSettings, sandbox: Sandbox, tell: Tell, work: Work | None = None
    ) -> None:
        self.directory = directory
        self.settings = settings
        self.key = load_key(directory)
        self.tell = tell
        self.stop = threading.Event()
        self.sandbox = sandbox
        self.work: Work = work or SandboxedWork()
        seen = SeenLog(directory / SEEN_FILE, settings.market_vkey)
        self.client = MarketClient(settings, self.key, self.stop, tell, seen=seen)
        self.journal = journals.Journal(directory / "journal")
        self.meter = Meter(self.journal)
        self.statements = Statements(settings.node, self.key, self.journal, self.meter)
        self.desk = Desk()
        self._audited: deque[TaskId] = deque(maxlen=REMEMBERED)
        system = roots.of_node(settings, tell)
        self.holdings = Holdings(
            directory, settings, self.client, sandbox, self._still_preparing, self._fetching, system
        )
        self.pulse = Pulse(
            client=self.client,
            desk=self.desk,
            meter=self.meter,
            node=settings.node,
            key=self.key,
            answer_reveal=self.reveal,
            drop_current=self._drop_current,
            jobs_here=self.holdings.jobs,
            end_jobs=self.holdings.end_jobs,
            expel=self._expel,
            tell=tell,
            clock=ClockWatch(directory, tell, self.journal.prune),
        )
        self._showing = threading.Lock()
        self._answering = threading.Thread(target=self._answer_questions, name="answers", daemon=True)
        self._is_polling = False
        self._hands_back = False
        self._expelled: StannaryError | None = None

    def run(self) -> None:
        """Serve leases until drained.

        Raises:
            AuthError: the market will not have this node again.
        """
        self._show_hands()
        self.pulse.start()
        self._answering.start()
        try:
            while not self.stop.is_set():
                lease = self._next()
                self.holdings.tidy()
                if lease is not None:
                    self.serve(lease)
        except MarketUnreachable as err:
            self.tell(str(err))
        except AuthError as err:
            self._expelled = err
        finally:
            self._leave()
        if self._expelled is not None:
            raise self._expelled

    def _answer_questions(self) -> None:
        """Answer questions until the agent stops; one at a time, in a thread that lives as long as its workers."""
        self.desk.answer_here()
        try:
            while not self.stop.is_set():
                lease = self.desk.take(ANSWERS, LOOK_S)
                if lease is not None:
                    self.serve(lease)
        except MarketUnreachable as err:
            self.tell(str(err))
        except AuthError as err:
            self._expel(err)
        finally:
            self.stop.set()  # an agent that answers no more would be silent
            self.client.close()

    def drain(self, *_: int | FrameType | None) -> None:
        """Leave in order; called a second time, at once. A signal handler."""
        if self.stop.is_set():
            self._hand_back_current()
            return
        self.tell("draining: no new work")
        self.pulse.drain()
        self.stop.set()
        timer = threading.Timer(DRAIN_S, self._hand_back_current)
        timer.daemon = True
        timer.start()
        if self._is_polling:
            raise _Woken

    def serve(self, lease: Lease) -> None:
        """Do what one lease asks for; no failure of a task ends the agent."""
        log = TaskLog(time.time)
        self.desk.hold(lease, log)
        self._show_hands()
        serve = {
            LeaseType.WORK: self.do_work,
            LeaseType.AUDIT: self.do_audit,
            LeaseType.QUESTION: self.do_question,
            LeaseType.REVEAL: self.reveal,
        }[lease.type]
        self.tell(f"{lease.type.value} {lease.task}")
        try:
            serve(lease)
        except (ConflictError, NotFound) as err:
            self.tell(f"{lease.type.value} {lease.task} is no longer ours: {err}")
            self.journal.drop(EntryKind.CLAIM, lease.lease_id)
        except MarketUnreachable:
            raise
        except StannaryError as err:
            self._report(lease, log, err)
            self.journal.drop(EntryKind.CLAIM, lease.lease_id)
        finally:
            beside = self.desk.mine is self.desk.answers
            self.desk.finish(lease)
            self._show_hands()
            if not beside:  # what is in the outbox is the work's
                self._put_back(lease)
            self.meter.switch(None if beside else JobId(lease.job), Phase.IDLE)
            self.meter.write_off(JobId(lease.job))

    def do_work(self, lease: Lease) -> None:
        """Do a task and hand it in; go on where the journal says."""
        self.statements.check_known(lease)
        claim = self.journal.get(EntryKind.CLAIM, lease.lease_id)
        if claim is None or not self._has_outputs(claim):
            claim = self._claim(lease, *self._compute(lease))
        try:
            self._hand_in(lease, claim)
        except ConflictError:
            self.pulse.beat_now()  # why it is not ours any more
            if self.desk.is_stopped(lease):
                self._hand_in_partial(lease, _outputs(claim))
            raise

    def _put_back(self, lease: Lease) -> None:
        """Let go of a lease's bytes: only what an open claim names is still to be stored."""
        kept = self.journal.get(EntryKind.RESULT, lease.task)
        claimed = [output.digest for claim in self.journal.all(EntryKind.CLAIM) for output in _outputs(claim)]
        handed_in = [output.digest for output in _outputs(kept)] if kept is not None else []
        self.holdings.put_back(JobId(lease.job), claimed, handed_in)

    def do_audit(self, lease: Lease) -> None:
        """Recompute somebody's task and commit to what was found."""
        self._answer(lease, Role.AUDITOR)

    def do_question(self, lease: Lease) -> None:
        """Answer for a task of this node's own and commit to the answer."""
        self._answer(lease, Role.PROVER)

    def reveal(self, lease: Lease) -> None:
        """Open an answer; only the journal is needed."""
        audit = _audit_of(lease)
        entry = self.statements.kept_answer(audit)
        if entry is None:
            raise JobFailed("the answer is lost", why=f"{audit.audit_id} is not in the journal", detail="answer-lost")
        self.client.submit(routes.LEASE_ANSWER, lease.lease_id, dsse.parse(entry["answer"]))

    def _show_hands(self) -> None:
        """Keep what is in hand where `stannary node status` looks; a disk that takes it not stops no work."""
        with self._showing, contextlib.suppress(EnvironmentProblem):
            files.replace(self.holdings.root / desks.FILE, canonical.encode(self.desk.shown()))

    def _compute(self, lease: Lease) -> tuple[Holding, Assignment, Result]:
        assignment = _assignment_of(lease)
        with self.holdings.alone(JobId(lease.job)):
            holding = self._holding(lease)
            unfetched = self._bring_inputs(lease, holding)
            with self.meter.phase(holding.job, Phase.COMPUTE):
                result = self.work.do(TaskInHand(holding, assignment, self._take_progress, unfetched))
        for line in result.left_out:
            self._take_line(holding.job, "agent", line)
        if self.desk.is_stopped(lease):
            self._hand_in_partial(lease, result.outputs)
        self._check_ours(lease)
        return holding, assignment, result

    def _claim(self, lease: Lease, holding: Holding, assignment: Assignment, result: Result) -> dict[str, Json]:
        """Sign commitment and contribution and keep both before either is sent."""
        place = Provenance(self.settings.engine_class, holding.environment, self.sandbox.describe())
        used = result.used if edition.of(holding.spec).pays_by_use else None
        claim = self.statements.claim(lease, assignment, result, place, used=used)
        self.journal.put(EntryKind.CLAIM, lease.lease_id, claim)
        return claim

    def _hand_in(self, lease: Lease, claim: dict[str, Json]) -> None:
        with self.meter.phase(JobId(lease.job), Phase.LINK):
            self.client.submit(routes.LEASE_COMMITMENT, lease.lease_id, dsse.parse(claim["commitment"]))
            for output in _outputs(claim):
                self.client.store(output.digest, outbox_path(self.holdings.outbox, output.digest), self._storing)
            self._ship_everything(lease)
            self.pulse.read_out(lease)  # the contribution's time must be in a reading, or its share reads as nobody's
            self.client.submit(routes.LEASE_CONTRIBUTION, lease.lease_id, dsse.parse(claim["contribution"]))
        self.journal.drop(EntryKind.CLAIM, lease.lease_id)

    def _hand_in_partial(self, lease: Lease, outputs: Sequence[Output]) -> None:
        """Leave with the market what a program had written when its buyer stopped it, or what came too late."""
        with self.meter.phase(JobId(lease.job), Phase.LINK):
            self._ship_everything(lease)
            for output in outputs:
                self.client.store(output.digest, outbox_path(self.holdings.outbox, output.digest), self._storing)
            self.client.leave(lease.lease_id, outputs)

    def _answer(self, lease: Lease, role: Role) -> None:
        audit = _audit_of(lease)
        entry = self.statements.kept_answer(audit) or self.statements.answer(lease, audit, *self._find(lease, role))
        with self.meter.phase(JobId(lease.job), Phase.LINK):
            self._ship_everything(lease)
            self.pulse.read_out(lease)
            self.client.submit(routes.LEASE_ANSWER_COMMITMENT, lease.lease_id, dsse.parse(entry["commitment"]))

    def _find(self, lease: Lease, role: Role) -> tuple[Recomputed, Used | None]:
        """Return what this node finds, and of a recomputation that is paid by use what it took."""
        assignment = _assignment_of(lease)
        if lease.step is None or lease.salt is None:
            raise FormatError("the question has no step or salt", why=lease.lease_id)
        kept = self.journal.get(EntryKind.RESULT, assignment.task) if role is Role.PROVER else None
        brought = _brought(kept) if kept else None
        is_whole = TASKS[assignment.kind].is_program or (brought is not None and brought.ended is not None)
        if brought is not None and is_whole:  # the answer is the result; its worker may be at another lane of the job
            task = TaskInHand(self._known(lease), assignment, self._take_progress)
            return self.work.answer(task, brought, lease.step, lease.salt), None
        with self.holdings.alone(JobId(lease.job)):
            if role is Role.AUDITOR:
                if assignment.task in self._audited:  # again: in a process that cannot remember (rules/question.py)
                    self._known(lease).end_worker()
                self._audited.append(assignment.task)
            holding = self._holding(lease)
            unfetched = self._bring_inputs(lease, holding)
            task = TaskInHand(holding, assignment, self._take_progress, unfetched)
            with self.meter.phase(holding.job, Phase.AUDIT):
                if role is Role.AUDITOR:
                    found = self.work.audit(task, lease.step, lease.salt)
                    return found, found.used if edition.of(holding.spec).pays_by_use else None
                return self.work.answer(task, brought, lease.step, lease.salt), None

    def _known(self, lease: Lease) -> Holding:
        """Return a job of which nothing is computed: no worker is needed."""
        job = JobId(lease.job)
        with self.meter.phase(job, Phase.START):
            return self.holdings.known(job, functools.partial(self._take_line, job, "agent"))

    def _holding(self, lease: Lease) -> Holding:
        job = JobId(lease.job)
        self._still_preparing({})
        with self.meter.phase(job, Phase.START):
            take_line = functools.partial(self._take_line, job)
            return self.holdings.get(job, functools.partial(take_line, "agent"), take_line)

    def _bring_inputs(self, lease: Lease, holding: Holding) -> dict[TaskId, Output]:
        """Have a lease's inputs in place; return the contributions that are left where they are.

        A contribution of another size than the model's weighs nothing in a merge (train/merge.py), so its bytes,
        however many, are not worth fetching. Without weights or outer state there is no task.

        Raises:
            JobFailed: they have another size than this model's; nothing is fetched.
        """
        self._fetching()
        unfetched: dict[TaskId, Output] = {}
        with self.meter.phase(holding.job, Phase.LINK):
            named = [(blob.name, digest.parse(blob.digest), blob.size_bytes) for blob in lease.blobs]
            self.holdings.release_inputs(holding, (blob for _, blob, _ in named))
            known = holding.prepared
            odd = [item for item in named if known is not None and item[2] != known.size_of(item[0])]
            for name, blob, size_bytes in odd:
                if name in STATES:
                    raise _misfit(name, size_bytes)
                unfetched[TaskId(name)] = Output(DELTA, blob, size_bytes)
            for name, blob, size_bytes in named:
                if name not in unfetched:
                    self.holdings.bring(holding, blob, size_bytes)
        self._check_ours(lease)  # what was heard before there was a worker to end ended nothing
        if self._hands_back:
            raise JobFailed("the node hands its work back", detail=DROPPED)
        return unfetched

    def _check_ours(self, lease: Lease) -> None:
        if self.desk.is_dropped(lease):
            raise ConflictError("the market took the lease back", why=lease.lease_id)

    def _take_line(self, job: JobId, stream: str, text: str) -> None:
        log = self.desk.log_of(job)
        if log is not None:  # a line between two leases belongs to nobody who could read it
            log.add(stream, text)

    def _still_preparing(self, _reported: dict[str, Json]) -> None:
        """Say that a long start goes on: the market waits for who is heard of."""
        self.desk.report(ProgressReport(step=0, steps=0, phase="environment"))

    def _fetching(self) -> None:
        """Say that bytes of a lease's inputs come."""
        self.desk.report(ProgressReport(step=0, steps=0, phase="fetch"))

    def _storing(self) -> None:
        """Say that bytes of a result go."""
        self.desk.report(ProgressReport(step=0, steps=0, phase="store"))

    def _take_progress(self, reported: dict[str, Json]) -> None:
        step, steps, loss = reported.get("step"), reported.get("steps"), reported.get("loss")
        if type(step) is int and type(steps) is int and 0 <= step <= steps:
            shown = loss if isinstance(loss, str) and bounds.DECIMAL.fits(loss) else None
            self.desk.report(ProgressReport(step=step, steps=steps, phase="compute", loss=shown))

    def _has_outputs(self, claim: dict[str, Json]) -> bool:
        return all(outbox_path(self.holdings.outbox, output.digest).exists() for output in _outputs(claim))

    def _ship_everything(self, lease: Lease) -> None:
        """Send all log lines while the lease still takes them; a log that will not go holds up no result."""
        for _ in range(limits.MAX_LOG_LINES_PER_TASK // limits.MAX_LOG_LINES + 1):
            try:
                if self.pulse.ship(lease):
                    return
            except StannaryError as err:
                self.tell(f"log lines of {lease.task} were not taken: {err}")
                return

    def _report(self, lease: Lease, log: TaskLog, err: StannaryError) -> None:
        """Tell the market why a task is not done here."""
        reason = err.detail if isinstance(err, JobFailed) and err.detail else err.code.removeprefix("E-").lower()
        self.tell(f"{lease.type.value} {lease.task} failed: {err}")
        if self.desk.is_dropped(lease):
            return
        message = f"{err}; {err.hint}" if err.hint else str(err)
        try:
            if (
                self._hands_back or reason == DROPPED or err.detail == wire_errors.CLOCK
            ):  # a wrong clock is no failure of the job
                self.client.release(lease.lease_id)
                return
            self._ship_everything(lease)
            tail = log.tail()[-limits.MAX_LOG_TAIL_CHARS :]  # of what could not be shipped: no line comes twice
            self.client.fail(lease.lease_id, Failure(reason=reason, message=message[:4000], log_tail=tail))
        except StannaryError as untold:  # the lease's deadline says the same
            if is_for_good(untold):
                raise
            self.tell(f"the market was not told of {lease.task}: {untold}")

    def _next(self) -> Lease | None:
        waiting = self.desk.take()
        if waiting is not None:
            return waiting
        try:
            self._is_polling = True
            if self.stop.is_set():
                return None
            if not self.pulse.clock.is_fit:
                self.stop.wait(pace.HEARTBEAT_INTERVAL_S)
                return None
            found = self.client.next_lease(POLL_WAIT_S, self.desk.known())
            if isinstance(found, PowerTest):
                self._is_polling = False
                self._show_power(found)
            elif found is not None:
                self.desk.put(found)  # over the desk, since the pulse may have picked up the same one
            return self.desk.take()
        except _Woken:
            return None
        except StannaryError as err:
            if is_for_good(err):
                raise
            if self.stop.is_set() or isinstance(err, MarketUnreachable):
                raise MarketUnreachable("the agent stops", why=str(err)) from err
            self.tell(f"the market's answer was not understood: {err}")
            self.stop.wait(pace.HEARTBEAT_INTERVAL_S)
            return None
        finally:
            self._is_polling = False

    def _show_power(self, test: PowerTest) -> None:
        """Do a test of this node's power; the market gives no work before."""
        try:
            powers.show(self.directory, test, self.client, self.sandbox, self.tell)
        except StannaryError as err:
            if is_for_good(err):
                raise
            self.tell(f"the test of this node's power came to nothing: {err}")
            self.stop.wait(pace.HEARTBEAT_INTERVAL_S)

    def _drop_current(self, lease: Lease) -> None:
        if self.desk.is_stopped(lease):
            self.tell(f"{lease.type.value} {lease.task} was stopped by its buyer")
            self.holdings.wind_down(JobId(lease.job), DROPPED)
            return
        self.tell(f"{lease.type.value} {lease.task} was taken back")
        self.holdings.kill_worker(JobId(lease.job), DROPPED)

    def _hand_back_current(self) -> None:
        for lease in self.desk.in_hand():
            self._hands_back = True
            self.holdings.kill_worker(JobId(lease.job), DROPPED)

    def _expel(self, err: StannaryError) -> None:
        """Stop because the market will not have this node again; called by the pulse, which hears it first."""
        self._expelled = err
        self.stop.set()
        self._hand_back_current()

    def _leave(self) -> None:
        """Hand back what was not begun, say goodbye, end the workers."""
        self.pulse.stop()
        self.stop.set()
        self._answering.join(DRAIN_S)
        if self._expelled is None:
            self._say_goodbye()
        self.holdings.close()
        self.client.close()
        self.tell("stopped")

    def _say_goodbye(self) -> None:
        try:
            for lease in self.desk.clear():
                self.client.release(lease.lease_id)
            self.pulse.has_left = True
            self.pulse.beat_now()
        except StannaryError as err:
            self.tell(f"the market was not told that the node leaves: {err}")


class _Woken(BaseException):
    """Raised by the signal handler inside a long poll, which would otherwise go on for POLL_WAIT_S."""


def install_signals(agent: Agent) -> None:
    """Drain on SIGTERM and SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, agent.drain)


def _assignment_of(lease: Lease) -> Assignment:
    if lease.assignment is None:
        raise FormatError("the lease has no assignment", why=lease.lease_id)
    assignment = record.from_json(Assignment, lease.assignment, what="assignment")
    if (assignment.task, assignment.job) != (lease.task, lease.job):
        raise FormatError("the assignment is another task's", why=f"{assignment.task}, lease of {lease.task}")
    return assignment


def _misfit(name: str, size_bytes: int) -> JobFailed:
    why = f"{size_bytes:,} bytes, which is not the size of any {name} of this model"
    return JobFailed(f"what a merge left as {name} is of another model", why=why, detail="wrong-size")


def _audit_of(lease: Lease) -> AuditRef:
    if lease.audit is None:
        raise FormatError("the lease names no audit", why=lease.lease_id)
    return lease.audit


def _outputs(entry: dict[str, Json]) -> tuple[Output, ...]:
    listed = entry.get("outputs")
    if not isinstance(listed, list):
        raise FormatError("the journal holds a result without outputs")
    return tuple(record.from_json(Output, item) for item in listed)


def _brought(entry: dict[str, Json]) -> Brought:
    ended = entry.get("ended")  # journals of before know none
    if not isinstance(ended, str | None):
        raise FormatError("the journal holds an end that is none")
    return Brought(_outputs(entry), ended)
